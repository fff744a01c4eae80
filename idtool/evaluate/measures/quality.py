"""Measure `quality`: how usable the picture of the largest face is."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

from idtool.evaluate.measures.base import FaceMeasure, Item, Values, column


class Quality(FaceMeasure):
    """By the network of role `quality`."""

    name = "quality"
    role = "quality"
    summary = "quality of the largest face's picture"
    reads = ("face_box", "face_kps", "face_score")
    writes = pa.schema(
        [column("face_quality", pa.float32(), "of the largest face; low when blurred or small", "[0, 1]")]
    )

    def of_faces(self, items: Sequence[Item]) -> Sequence[Values | Exception]:
        found = self.model([item.image for item in items], [item.face for item in items])
        return [{"face_quality": float(value)} for value in found]
