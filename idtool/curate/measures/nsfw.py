"""Measure `nsfw`: how explicit the image is, faces or not."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

from idtool.curate.measures.base import Item, Measure, Values, column


class Nsfw(Measure):
    """Highest score of any explicit class of the network of role `nsfw`."""

    name = "nsfw"
    role = "nsfw"
    summary = "nudity"
    writes = pa.schema(
        [
            column("nsfw", pa.float32(), "highest score of an explicit class anywhere in the image", "[0, 1]"),
            column("nsfw_label", pa.string(), "the class that has it"),
        ]
    )

    def __call__(self, items: Sequence[Item]) -> Sequence[Values | Exception]:
        found = self.model.score([item.image for item in items])
        return [{"nsfw": each.score, "nsfw_label": each.label} for each in found]
