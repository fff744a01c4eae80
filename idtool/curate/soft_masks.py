"""Where an inpainting network draws, with soft edges, and what was drawn put into the picture.

A weight is 0 where the picture stays as it is, to the bit, and 1 where what was drawn replaces it.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from idtool.models.parts import MASKS, Labels, inpainting_mask

Image = npt.NDArray[np.uint8]
Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float32]

KEPT = {"all-but-face": "face"}
"""Kinds that are told by what they leave alone: their edge lies outside of it."""


def softened(mask: Bools, dilate: float, feather: float) -> Floats:
    """Weights (H, W) in [0, 1]: 1 on `mask` (H, W) and up to `dilate` pixels around it, then falling as a cosine to 0
    over `feather` pixels. All 0 for an empty mask."""
    import cv2

    if not mask.any():
        return np.zeros(mask.shape, np.float32)
    away = cv2.distanceTransform((~mask).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    if feather <= 0:
        return np.asarray(away <= dilate, np.float32)
    fallen = np.clip((away - dilate) / feather, 0, 1)
    return np.asarray(np.where(fallen < 1, 0.5 + 0.5 * np.cos(np.pi * fallen), 0), np.float32)


def weights_of(labels: Labels, kind: str, dilate: float, feather: float) -> Floats:
    """Weights (H, W) of a kind of `parts.MASKS`, from the labels (H, W) of the whole picture; `dilate` and `feather` in
    pixels, as in `softened`. The edge lies in what is drawn anew around a part, and `all-but-face` leaves the face and
    `dilate` pixels around it alone. ValueError for an unknown kind."""
    if kind in KEPT:
        return np.asarray(1 - softened(inpainting_mask(labels, KEPT[kind]), dilate, feather), np.float32)
    return softened(inpainting_mask(labels, kind), dilate, feather)


def subject_of(kind: str) -> tuple[str, ...]:
    """The parts of the face that have to be seen for a kind of mask: those drawn anew, or those left alone."""
    return MASKS[KEPT.get(kind, kind)]


def window(weights: Floats, context: float | None, least: int) -> tuple[slice, slice]:
    """Rows and columns of the part of the picture that the network is shown: the box about all weights above 0, with
    `context` times its longer side more on every side, as far as the picture reaches, and no side under `least` pixels
    where the picture has them. None: the whole picture. ValueError when all weights are 0."""
    height, width = weights.shape
    if context is None:
        return slice(0, height), slice(0, width)
    rows, columns = np.flatnonzero(weights.any(axis=1)), np.flatnonzero(weights.any(axis=0))
    if not len(rows):
        raise ValueError("no weight is above 0")
    low = np.array([rows[0], columns[0]])
    high = np.array([rows[-1], columns[-1]]) + 1
    margin = round(float((high - low).max()) * context)
    limit = np.array([height, width])
    low, high = np.maximum(low - margin, 0), np.minimum(high + margin, limit)
    missing = np.maximum(np.minimum(least, limit) - (high - low), 0)
    low = np.clip(low - missing // 2, 0, np.maximum(limit - (high - low) - missing, 0))
    high = np.maximum(high, low + np.minimum(least, limit))
    return slice(int(low[0]), int(high[0])), slice(int(low[1]), int(high[1]))


def composite(image: Image, made: Image, weights: Floats) -> Image:
    """RGB uint8 `image` (H, W, 3) mixed with what was `made` (H, W, 3) by weights (H, W). ValueError when sizes
    differ."""
    if image.shape != made.shape or image.shape[:2] != weights.shape:
        raise ValueError(f"Expected arrays of one size. Got {image.shape}, {made.shape} and {weights.shape}")
    before = image.astype(np.float32)
    return np.asarray(np.rint(before + weights[..., None] * (made - before)), np.uint8)
