"""Measure `nsfw`: how explicit the image is, faces or not."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

from idtool.evaluate.measures.base import Item, Measure, Values, column, score


class Nsfw(Measure):
    """By the network of role `nsfw`: a detector's highest score of an explicit class, or a classifier's probability."""

    name = "nsfw"
    role = "nsfw"
    summary = "nudity"
    writes = pa.schema(
        [
            column("nsfw", pa.float32(), "how sure the network is that the image is explicit", "[0, 1]"),
            column("nsfw_label", pa.string(), "the class that it found, where the network names one"),
        ]
    )

    def __call__(self, items: Sequence[Item]) -> Sequence[Values | Exception]:
        found = self.model.score([item.image for item in items])
        values = score("nsfw", [each.score for each in found])
        return [
            value if isinstance(value, Exception) else {**value, "nsfw_label": getattr(each, "label", None)}
            for value, each in zip(values, found, strict=True)
        ]
