"""What a face does, as DynamicID tells its reconfigurator: a description and a picture of its landmarks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from idtool.generate.method import Image
from idtool.models.expression import EXPRESSIONS
from idtool.models.faces import Face

LIMIT = 10.0
"""Degrees from which on a face looks up, down or to a side (appendix 7.4, and the released code)."""
ORIENTATIONS = {
    "front": "in front view",
    "side": "in side view",
    "up": "facing up, in front view",
    "down": "facing down, in front view",
}
"""Setting -> words of the description."""
SIZE = 96
"""Side in pixels of the picture of landmarks."""


@dataclass(frozen=True, eq=False)
class Motion:
    """Expression, orientation and landmarks of a face."""

    expression: str
    orientation: str
    """Words, as in `ORIENTATIONS`."""
    raster: npt.NDArray[np.float32]
    """(96, 96): 1 at landmarks, -1 elsewhere."""

    @property
    def description(self) -> str:
        """The sentence that the text encoder reads."""
        return f"in a {self.expression} expression, {self.orientation}"


class MotionReader:
    """Reads motions off pictures: `pose` gives angles and 106 points (an InsightFace pack), `expression` the seven
    expressions."""

    def __init__(self, pose: Any, expression: Any) -> None:
        self.pose, self.expression = pose, expression

    def __call__(self, images: Sequence[Image], faces: Sequence[Face]) -> list[Motion]:
        """The motion of one face in each RGB uint8 picture."""
        angles = self.pose.pose(images, faces)
        points = self.pose.points106(images, faces)
        likely = self.expression(images, faces).argmax(axis=1)
        return [
            Motion(EXPRESSIONS[int(kind)], orientation(float(yaw), float(pitch)), raster(spots, *image.shape[:2]))
            for kind, (yaw, pitch, _), spots, image in zip(likely, angles, points, images, strict=True)
        ]


def orientation(yaw: float, pitch: float) -> str:
    """Words for angles in degrees. The released code calls them by each other's names; the rule is the same."""
    tilt = "facing up, " if pitch > LIMIT else "facing down, " if pitch < -LIMIT else ""
    return tilt + ("in front view" if abs(yaw) < LIMIT else "in side view")


def raster(points: npt.ArrayLike, height: int, width: int) -> npt.NDArray[np.float32]:
    """Points (N, 2) in pixels of a picture to a picture of them, (96, 96), the whole frame squeezed to a square; points
    outside are left out."""
    spots = np.asarray(points, np.float64) * (SIZE / np.array([width, height]))
    spots = spots[((spots > 0) & (spots < SIZE)).all(axis=1)].astype(int)
    out = np.full((SIZE, SIZE), -1.0, np.float32)
    out[spots[:, 1], spots[:, 0]] = 1.0
    return out
