"""Measure `iqa`: technical quality of the whole image, without a reference."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

from idtool.evaluate.measures.base import Item, Measure, Values, column, score, scores


class Iqa(Measure):
    """By the network of role `iqa`, such as CLIP-IQA (Wang et al., AAAI 2023): how far the image is from a bad photo
    towards a good one."""

    name = "iqa"
    role = "iqa"
    summary = "quality of the whole image, without a reference"
    writes = pa.schema([column("iqa", pa.float32(), "quality of the whole image without a reference", "[0, 1]")])

    def __call__(self, items: Sequence[Item]) -> Sequence[Values | Exception]:
        return score("iqa", scores(self.model, items))
