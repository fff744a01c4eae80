"""Measure `faces`: how many there are, and where the largest is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from idtool.evaluate.measures.base import Item, Measure, Values, column


class Faces(Measure):
    """The largest face is the one that all other face measures look at."""

    name = "faces"
    role = "faces"
    summary = "count, largest face: score, box, five points, share of the frame"
    writes = pa.schema(
        [
            column("faces", pa.int32(), "number of faces found"),
            column("face_score", pa.float32(), "detector's confidence in the largest face", "[0, 1]"),
            column(
                "face_box", pa.list_(pa.float32()), "largest face: left, top, right, bottom; may leave the image", "px"
            ),
            column(
                "face_kps",
                pa.list_(pa.float32()),
                "x and y of the left eye, right eye, nose tip, left and right mouth corner; left as in the image",
                "px",
            ),
            column("face_share", pa.float32(), "area of the box inside the image over that of the image", "[0, 1]"),
            column("face_side", pa.float32(), "shorter side of the box", "px"),
            column("second_face", pa.float32(), "area of the second largest box over that of the largest; 0 if none"),
        ]
    )

    def __call__(self, items: Sequence[Item]) -> Sequence[Values | Exception]:
        found = self.model.detect([item.image for item in items])
        return [describe(faces, item.image.shape[:2]) for faces, item in zip(found, items, strict=True)]


def describe(faces: Sequence[Any], shape: tuple[int, int]) -> Values:
    """Columns for the faces (largest first) of an image of (height, width)."""
    if not faces:
        return {"faces": 0}
    height, width = shape
    face = faces[0]
    left, top, right, bottom = (float(value) for value in face.box)
    inside = max(0.0, min(right, width) - max(left, 0.0)) * max(0.0, min(bottom, height) - max(top, 0.0))
    return {
        "faces": len(faces),
        "face_score": float(face.score),
        "face_box": np.asarray(face.box, np.float32),
        "face_kps": np.asarray(face.kps, np.float32).reshape(-1),
        "face_share": inside / (width * height),
        "face_side": min(right - left, bottom - top),
        "second_face": faces[1].area / face.area if len(faces) > 1 else 0.0,
    }
