"""Faces' five points as the pictures that InstantID's ControlNet takes, and where on a frame they come to lie."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from idtool.generate.method import Image

Points = npt.NDArray[np.float64]

COLOURS = ((255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0), (255, 0, 255))
"""Of the left and right eye, the nose tip, the left and right mouth corner."""
NOSE = 2
"""Every other point is joined to it."""
HALF_WIDTH, RADIUS, DIMMED = 4, 10, 0.6
"""Of a stick, of a point (pixels); how bright sticks are."""
SHORT, LONG, STEP = 1024, 1280, 64
"""Pixels of the authors' sizes."""


def drawn(points: npt.ArrayLike, size: tuple[int, int]) -> Image:
    """Five points (5, 2) on black, RGB uint8 (height, width, 3): sticks from the nose to the others, then discs.
    `size`: width, height."""
    import cv2

    kps = np.asarray(points, np.float64).reshape(5, 2)
    picture = np.zeros((size[1], size[0], 3), np.uint8)
    for k in (0, 1, 3, 4):
        centre = (kps[k] + kps[NOSE]) / 2
        reach = kps[k] - kps[NOSE]
        half = int(math.hypot(*reach) / 2)
        angle = int(math.degrees(math.atan2(reach[1], reach[0])))
        middle = (int(centre[0]), int(centre[1]))
        stick = cv2.ellipse2Poly(middle, (half, HALF_WIDTH), angle, 0, 360, 1)
        cv2.fillConvexPoly(picture, stick, [int(value * DIMMED) for value in COLOURS[k]])
    for point, colour in zip(kps, COLOURS, strict=True):
        cv2.circle(picture, (int(point[0]), int(point[1])), RADIUS, colour, -1)
    return picture


def authors_size(size: tuple[int, int]) -> tuple[int, int]:
    """Width and height that InstantID's authors give to a reference, and so to the image: the shorter side 1024, then
    the longer 1280, rounded down to multiples of 64."""
    ratio = SHORT / min(size)
    width, height = round(ratio * size[0]), round(ratio * size[1])
    ratio = LONG / max(width, height)
    return round(ratio * width) // STEP * STEP, round(ratio * height) // STEP * STEP


def stretched(points: npt.ArrayLike, picture: tuple[int, int], frame: tuple[int, int]) -> Points:
    """Points (5, 2) of a picture that is resized to the frame; sizes are width, height."""
    return np.asarray(np.asarray(points, np.float64) * (np.array(frame) / np.array(picture)), np.float64)


def framed(points: npt.ArrayLike, box: Any, picture: tuple[int, int], frame: tuple[int, int]) -> Points:
    """Points (5, 2) of a picture that is scaled until it covers the frame and cut about the face; scaled less where the
    face's box (4, xyxy) would not be inside.

    The picture itself is not seen by the ControlNet, so the frame may reach over its edges.
    """
    width, height = frame
    left, top, right, bottom = (float(value) for value in box)
    scale = max(width / picture[0], height / picture[1])
    scale = min(scale, width / max(right - left, 1e-6), height / max(bottom - top, 1e-6))
    offsets = []
    for low, high, side, whole in ((left, right, width, picture[0]), (top, bottom, height, picture[1])):
        beyond = whole * scale - side
        middle = (low + high) / 2 * scale - side / 2
        offset = min(max(middle, min(0.0, beyond)), max(0.0, beyond))
        # The whole box first, the picture's edge second: boxes reach over edges.
        offsets.append(min(max(offset, high * scale - side), low * scale))
    return np.asarray(np.asarray(points, np.float64) * scale - np.array(offsets), np.float64)
