"""Measure `inception`: what FID and KID see of an image."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

from idtool.evaluate.measures.base import VECTOR, Item, Measure, Values, column, vectors


class Inception(Measure):
    """By the network of role `inception`, the Inception v3 of Heusel et al. (NeurIPS 2017)."""

    name = "inception"
    role = "inception"
    summary = "ImageNet features of the image for distances between sets"
    writes = pa.schema(
        [column("inception_features", VECTOR, "last average pool of Inception v3, 2048 numbers of any length")]
    )

    def __call__(self, items: Sequence[Item]) -> Sequence[Values | Exception]:
        return vectors("inception_features", self.model.images([item.image for item in items]), unit=False)
