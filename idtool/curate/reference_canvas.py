"""A region beside a reference picture on one canvas, as ACE++'s LoRA has learned to see it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from idtool.engine.operator import Rejected
from idtool.generate.layouts import not_longer, resized, side_by_side

Pixels = npt.NDArray[np.uint8]
Bools = npt.NDArray[np.bool_]
LEAST = 16
"""Pixels of either part, along both sides."""


def beside(part: Pixels, mask: Bools, reference: Pixels, area: int, draw: Callable[..., Any]) -> Pixels:
    """RGB `part` (H, W, 3) drawn anew where `mask` (H, W) is True, on the right of ACE++'s canvas of at most `area`
    pixels with the `reference` on its left. `draw`: from canvas and mask. Raises Rejected `inpaint.layout`."""
    import cv2

    shown = not_longer(reference)
    size = (part.shape[1], part.shape[0])
    layout = side_by_side((shown.shape[1], shown.shape[0]), size, area // 256)
    right = (layout.width - layout.split, layout.height)
    if min(layout.split, *right) < LEAST:
        told = f"beside its reference {right[0]} x {right[1]} px are left of a region of {size[0]} x {size[1]} px"
        raise Rejected("inpaint.layout", told, value=float(min(layout.split, *right)), threshold=f">= {LEAST}")
    canvas = np.concatenate([resized(shown, (layout.split, layout.height), "bilinear"), resized(part, right)], axis=1)
    marked = np.zeros(canvas.shape[:2], np.bool_)
    marked[:, layout.split :] = cv2.resize(mask.astype(np.float32), right, interpolation=cv2.INTER_AREA) > 0
    return resized(np.asarray(draw(canvas, marked), np.uint8)[:, layout.split :], size, "bicubic")
