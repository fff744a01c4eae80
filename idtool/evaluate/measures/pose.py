"""Measure `pose`: direction of the head by a network of its own (role `pose`).

The same three angles by the same signs as measure `landmarks`, in columns of their own: two networks differ by some
degrees, and a threshold belongs to one of them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from idtool.evaluate.measures.base import FaceMeasure, Item, Values, column

ANGLES = ("pose_yaw", "pose_pitch", "pose_roll")


class Pose(FaceMeasure):
    """Of the largest face."""

    name = "pose"
    role = "pose"
    summary = "head pose by a network of its own"
    reads = ("face_box", "face_kps", "face_score")
    writes = pa.schema(
        [
            column("pose_yaw", pa.float32(), "> 0: the nose points to the right of the picture", "degrees"),
            column("pose_pitch", pa.float32(), "> 0: the face looks up", "degrees"),
            column("pose_roll", pa.float32(), "> 0: the head is tilted counter-clockwise", "degrees"),
        ]
    )

    def of_faces(self, items: Sequence[Item]) -> Sequence[Values | Exception]:
        found = self.model.pose([item.image for item in items], [item.face for item in items])
        return [
            dict(zip(ANGLES, map(float, angles), strict=True))
            if np.isfinite(angles).all()
            else ValueError(f"the pose network gave an angle that is not finite: {[float(a) for a in angles]}")
            for angles in np.asarray(found, np.float32)
        ]
