"""Head pose from a dense face mesh: weighted orthogonal Procrustes of the canonical face onto the found points.

The canonical face (468 vertices) and the weights of the vertices that are stable under expression come with the
landmark network, in MediaPipe's `geometry_pipeline_metadata_landmarks.binarypb`. The file is a protocol buffer; the
few fields that are needed are read here from its wire format, so no protobuf package or schema is required.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Doubles = npt.NDArray[np.float64]

VERTICES = 468
_VERTEX_FLOATS = 5  # x, y, z in centimetres, then two texture coordinates
_MESH, _BASIS = 1, 2  # fields of the message
_VERTEX_BUFFER = 3  # field of the mesh
_LANDMARK, _WEIGHT = 1, 2  # fields of a basis entry


@dataclass(frozen=True, eq=False)
class CanonicalFace:
    """A mean face looking at the viewer: x to the image's right, y up, z towards the viewer."""

    vertices: Doubles
    """(468, 3) centimetres."""
    basis: npt.NDArray[np.intp]
    """(B,) vertices that pose is estimated from."""
    weights: Doubles
    """(B,) their weights, sum 1."""

    @classmethod
    def parse(cls, data: bytes) -> CanonicalFace:
        """Read the metadata file. Raises ValueError when it is not what is expected."""
        fields = list(_fields(data))
        mesh = next((value for number, value in fields if number == _MESH), None)
        if not isinstance(mesh, bytes):
            raise ValueError("the face geometry file has no mesh")
        floats = [value for number, value in _fields(mesh) if number == _VERTEX_BUFFER]
        entries = [dict(_fields(value)) for number, value in fields if number == _BASIS and isinstance(value, bytes)]
        if len(floats) != VERTICES * _VERTEX_FLOATS or not entries:
            raise ValueError(
                f"expected {VERTICES} vertices and a basis. Got {len(floats)} floats, {len(entries)} entries"
            )
        vertices = np.array(floats, np.float64).reshape(VERTICES, _VERTEX_FLOATS)[:, :3]
        basis = np.array([entry.get(_LANDMARK, 0) for entry in entries], np.intp)
        weights = np.array([entry[_WEIGHT] for entry in entries], np.float64)
        return cls(vertices, basis, weights / weights.sum())

    def rotation(self, points: Doubles) -> Doubles:
        """The rotation (3, 3) that turns the canonical face like `points` (478 or 468, 3) in pixels, y down.

        Weak perspective: scale and shift are free, the camera is far. Columns are the face's own axes (its left,
        up, and forward) in x right, y up, z towards the viewer.
        """
        found = points[self.basis] * np.array([1.0, -1.0, -1.0])
        source = self.vertices[self.basis]
        weights = self.weights[:, None]
        a = source - (weights * source).sum(axis=0)
        b = found - (weights * found).sum(axis=0)
        u, _, vt = np.linalg.svd((a * weights).T @ b)
        mirror = np.diag([1.0, 1.0, np.sign(np.linalg.det(vt.T @ u.T))])
        return np.asarray(vt.T @ mirror @ u.T)


def euler(rotation: Doubles) -> tuple[float, float, float]:
    """Yaw, pitch, roll in degrees of a rotation from `CanonicalFace.rotation`, as the picture shows them.

    Yaw > 0: the nose points to the right of the picture. Pitch > 0: the face looks up. Roll > 0: the head is
    tilted counter-clockwise. Rotations are applied in the order pitch, yaw, roll.
    """
    right, up, forward = rotation[0, 0], rotation[1, 0], rotation[2, 0]
    yaw = np.degrees(np.arctan2(-forward, np.hypot(right, up)))
    pitch = -np.degrees(np.arctan2(rotation[2, 1], rotation[2, 2]))
    roll = np.degrees(np.arctan2(up, right))
    return float(yaw), float(pitch), float(roll)


def _fields(data: bytes) -> Iterator[tuple[int, int | float | bytes]]:
    """(field number, value) of every field of a protocol buffer message, in the order of the file."""
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        number, wire = tag >> 3, tag & 7
        if wire == 0:
            whole, at = _varint(data, at)
            yield number, whole
        elif wire == 2:
            size, at = _varint(data, at)
            if at + size > len(data):
                raise ValueError("a field of the face geometry file ends after the file")
            yield number, data[at : at + size]
            at += size
        elif wire == 5 and at + 4 <= len(data):
            yield number, struct.unpack_from("<f", data, at)[0]
            at += 4
        else:
            raise ValueError(f"the face geometry file has a field of unexpected kind {wire}")


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """The variable-length integer at `at`, and where the next field begins."""
    value = shift = 0
    while at < len(data):
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
    raise ValueError("a number of the face geometry file ends after the file")
