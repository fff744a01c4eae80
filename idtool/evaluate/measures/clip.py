"""Measure `clip`: what the image shows, as a vector that texts can be compared with."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

from idtool.evaluate.measures.base import VECTOR, Item, Measure, Values, column, looked_at, vectors


class Clip(Measure):
    """Image embedding by the network of role `clip`. Vectors of two networks cannot be compared."""

    name = "clip"
    role = "clip"
    summary = "image embedding in the space of a text-image network"
    writes = pa.schema([column("clip_embedding", VECTOR, "text-image embedding of the whole image, of length 1")])

    def __call__(self, items: Sequence[Item]) -> Sequence[Values | Exception]:
        return vectors("clip_embedding", looked_at(items, self.model, self.model.images), unit=True)
