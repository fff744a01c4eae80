"""Measure `landmarks`: pose, expression of the muscles, and signs of occlusion of the largest face."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

from idtool.evaluate.measures.base import FaceMeasure, Item, Values, column


class Landmarks(FaceMeasure):
    """From the dense face mesh of role `landmarks`."""

    name = "landmarks"
    role = "landmarks"
    summary = "head pose, blendshapes, open eyes and mouth, occlusion cue"
    reads = ("face_box", "face_kps", "face_score")
    writes = pa.schema(
        [
            column("yaw", pa.float32(), "> 0: the nose points to the right of the picture", "degrees"),
            column("pitch", pa.float32(), "> 0: the face looks up; portraits at eye level read -5 to -10", "degrees"),
            column("roll", pa.float32(), "> 0: the head is tilted counter-clockwise", "degrees"),
            column("mesh_presence", pa.float32(), "how sure the mesh network is of a face", "[0, 1]"),
            column("blendshapes", pa.list_(pa.float32()), "52 ARKit blendshapes in the network's order", "[0, 1]"),
            column("occlusion", pa.float32(), "strongest sign that the face is partly covered; a cue", "[0, 1]"),
            column("eyes_open", pa.float32(), "1 - blink of the more closed eye", "[0, 1]"),
            column("mouth_open", pa.float32(), "how far the jaw is open", "[0, 1]"),
        ]
    )

    def of_faces(self, items: Sequence[Item]) -> Sequence[Values | Exception]:
        found = self.model([item.image for item in items], [item.face for item in items])
        return [
            {
                "yaw": mesh.yaw,
                "pitch": mesh.pitch,
                "roll": mesh.roll,
                "mesh_presence": mesh.presence,
                "blendshapes": mesh.blendshapes,
                "occlusion": mesh.occlusion.value,
                "eyes_open": mesh.eyes_open,
                "mouth_open": mesh.mouth_open,
            }
            for mesh in found
        ]
