"""Faces framed as those of FFHQ are (Karras et al., CVPR 2019, appendix A): upright by eyes and mouth, with hair and
chin, and where the photo ends, its mirror image that fades into a blur."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from idtool.models.crops import warp

Pixels = npt.NDArray[np.uint8]
Doubles = npt.NDArray[np.float64]

EYES, MOUTH, SHIFT = 2.0, 1.8, 0.1
"""Half the side of the square over the distance of the eyes, and over that of eyes and mouth, whichever is more; its
centre below the eyes, in that second distance."""
BORDER, PAD, BLUR = 0.1, 0.3, 0.02
"""In sides of the square: pixels looked at beyond it, least width of what is mirrored, deviation of its blur."""


def square(kps: npt.ArrayLike) -> Doubles:
    """Corners (4, 2) of the square about a face: top left, top right, bottom right, bottom left, as the face sees
    them. `kps` (5, 2): eyes, nose tip, mouth corners, left as in the image. ValueError when the points coincide."""
    points = np.asarray(kps, np.float64).reshape(5, 2) @ [1, 1j]
    eyes, across = (points[0] + points[1]) / 2, points[1] - points[0]
    down = (points[3] + points[4]) / 2 - eyes
    # Rightwards by both: the line of the eyes, and that from the eyes to the mouth turned by a quarter.
    right = across - 1j * down
    if not abs(right) > 1e-6:
        raise ValueError("the five points of a face coincide: it cannot be aligned")
    right *= max(EYES * abs(across), MOUTH * abs(down)) / abs(right)
    centre, below = eyes + SHIFT * down, 1j * right
    corners = np.array([centre - right - below, centre + right - below, centre + right + below, centre - right + below])
    return np.stack([corners.real, corners.imag], axis=1)


def side(corners: Doubles) -> float:
    """Side of the square in pixels."""
    return float(np.hypot(*(corners[1] - corners[0])))


def outside(corners: Doubles, width: int, height: int) -> float:
    """[0, 1] share of the square that lies outside of an image of that size."""
    import cv2

    frame = np.array([[0, 0], [width, 0], [width, height], [0, height]], np.float32) - np.float32(0.5)
    common, _ = cv2.intersectConvexConvex(corners.astype(np.float32), frame)
    return max(0.0, 1 - float(common) / side(corners) ** 2)


def aligned(image: Pixels, corners: Doubles, size: int) -> Pixels:
    """The square of RGB uint8 `image` (H, W, 3) as (size, size, 3), upright."""
    import cv2

    patch, offset = surroundings(image, corners)
    inner = corners - offset
    # Twice as fine, then averaged: a single warp would skip pixels, or show its grid.
    zoom = 2 * size / side(corners)
    turn = np.conj(complex(*(inner[1] - inner[0])) / side(corners)) * zoom
    # Corners are places between pixels, whose centres lie at whole numbers.
    shift = -turn * complex(*(inner[0])) - (0.5 + 0.5j)
    matrix = np.array([[turn.real, -turn.imag, shift.real], [turn.imag, turn.real, shift.imag]])
    fine = warp(patch, matrix, 2 * size, "replicate")
    return np.asarray(cv2.resize(fine, (size, size), interpolation=cv2.INTER_AREA), np.uint8)


def surroundings(image: Pixels, corners: Doubles) -> tuple[Pixels, Doubles]:
    """The part of the image that the square needs, completed beyond its edges, and where its first pixel lies."""
    length = side(corners)
    border = max(round(length * BORDER), 3)
    low = np.floor(corners.min(axis=0)).astype(int) - border
    high = np.ceil(corners.max(axis=0)).astype(int) + border
    size = np.array(image.shape[1::-1])
    inside_low, inside_high = np.clip(low, 0, size - 1), np.clip(high, 1, size)
    patch = image[inside_low[1] : inside_high[1], inside_low[0] : inside_high[0]]
    lacking = np.concatenate([inside_low - low, high - inside_high])
    if lacking.max() <= border - 4:
        return patch, inside_low.astype(np.float64)
    pads = np.maximum(lacking, round(length * PAD))
    left, top, right, bottom = (int(pad) for pad in pads)
    full = np.pad(patch, ((top, bottom), (left, right), (0, 0)), "reflect").astype(np.float32)
    return _faded(full, (left, top, right, bottom), length * BLUR), inside_low - pads[:2].astype(np.float64)


def _faded(image: npt.NDArray[np.float32], pads: tuple[int, int, int, int], sigma: float) -> Pixels:
    """Blurred from a third of the padding's width before it on, and turning into the median colour within it."""
    import cv2

    height, width = image.shape[:2]
    left, top, right, bottom = pads
    x, y = np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32)
    # 1 at the border, 0 where the image begins, below 0 in it.
    depth = 1 - np.minimum(
        np.minimum(x / left, (width - 1 - x) / right)[None], np.minimum(y / top, (height - 1 - y) / bottom)[:, None]
    )
    soft = cv2.GaussianBlur(image, (0, 0), max(sigma, 0.1), borderType=cv2.BORDER_REFLECT)
    image += (soft - image) * np.clip(3 * depth + 1, 0, 1)[..., None]
    image += (np.median(image, axis=(0, 1)) - image) * np.clip(depth, 0, 1)[..., None]
    return np.rint(np.clip(image, 0, 255)).astype(np.uint8)
