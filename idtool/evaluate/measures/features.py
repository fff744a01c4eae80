"""Measure `features`: a self-supervised network's view of the image, where details count that words leave out."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

from idtool.evaluate.measures.base import VECTOR, Item, Measure, Values, column, looked_at, vectors


class Features(Measure):
    """By the network of role `features`, such as DINO (Caron et al., ICCV 2021)."""

    name = "features"
    role = "features"
    summary = "self-supervised features of the image"
    writes = pa.schema(
        [column("features_embedding", VECTOR, "features of the whole image as the network gives them, any length")]
    )

    def __call__(self, items: Sequence[Item]) -> Sequence[Values | Exception]:
        return vectors("features_embedding", looked_at(items, self.model, self.model.images), unit=False)
