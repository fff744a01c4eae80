"""Measures `people_pose` and `people_mesh`: where every face of a picture looks, by two kinds of network.

The angles of curation's `pose` and `landmarks`, by the same signs and in the same units, of every face that `people`
found: yaw > 0 the nose points to the right of the picture, pitch > 0 the face looks up, roll > 0 the head is tilted
counter-clockwise; degrees. The two networks differ by some degrees, so each has a column of its own.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from idtool.evaluate.measures.base import Floats, Item, Measure, Values, column
from idtool.evaluate.measures.people import OF_PEOPLE, ROWS, PeopleMeasure, faces_of
from idtool.models.faces import Face

ANGLES = "yaw, pitch and roll of every face"


class PeoplePose(PeopleMeasure):
    """By the network of role `pose`."""

    name = "people_pose"
    role = "pose"
    summary = "head pose of every face by a network of its own"
    writes = pa.schema([column("people_pose_angles", ROWS, ANGLES, "degrees")])

    def of_faces(self, items: Sequence[Item], faces: Sequence[Face]) -> Floats:
        return np.asarray(self.model.pose([item.image for item in items], list(faces)), np.float32)


class PeopleMesh(Measure):
    """By the dense face mesh of role `landmarks`, which also gives the activations that expressions are steadied by."""

    name = "people_mesh"
    role = "landmarks"
    summary = "head pose and blendshapes of every face"
    reads = OF_PEOPLE
    writes = pa.schema(
        [
            column("people_mesh_angles", ROWS, f"{ANGLES}; pitch at eye level reads -5 to -10", "degrees"),
            column("people_blendshapes", ROWS, "52 ARKit blendshapes of every face, in the network's order", "[0, 1]"),
        ]
    )

    def __call__(self, items: Sequence[Item]) -> Sequence[Values | Exception]:
        faces = [faces_of(item) for item in items]
        pictures = [item.image for item, found in zip(items, faces, strict=True) for _ in found]
        meshes = iter(self.model(pictures, [face for found in faces for face in found]))
        out: list[Values | Exception] = []
        for found in faces:
            own = [next(meshes) for _ in found]
            angles = [[float(mesh.yaw), float(mesh.pitch), float(mesh.roll)] for mesh in own]
            shapes = [np.asarray(mesh.blendshapes, np.float32).tolist() for mesh in own]
            finite = all(np.isfinite(row).all() for row in (*angles, *shapes))
            out.append(
                {"people_mesh_angles": angles, "people_blendshapes": shapes}
                if finite
                else ValueError("the landmark network gave a number that is not finite")
            )
        return out
