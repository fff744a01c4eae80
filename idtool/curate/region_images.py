"""Pictures of the parts of a face: the square about it, its labels, masks, and what is left on black."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt

from idtool.models.parts import REGIONS, Parsed, mask_of

Pixels = npt.NDArray[np.uint8]
Bools = npt.NDArray[np.bool_]

FIRST: dict[str, tuple[str, ...]] = {
    "face": ("skin",),
    "eyes": ("left_eye",),
    "ears": ("left_ear",),
    "nose": ("nose",),
    "mouth": ("upper_lip",),
}
"""What is left of each region where code keys classes by the second word of their names and keeps the first of each."""


def parts_of(pairs: Literal["both", "first"]) -> dict[str, tuple[str, ...]]:
    """Region -> parts."""
    return dict(REGIONS if pairs == "both" else FIRST)


def framed(image: Pixels, parsed: Parsed) -> tuple[Pixels, Pixels]:
    """The square that was parsed, cut from RGB `image` (H, W, 3), and its labels (S, S): black and background where
    the square leaves the image, whatever the parser saw there."""
    from idtool.models.crops import warp

    size = parsed.labels.shape[0]
    return warp(image, parsed.matrix, size), np.where(_inside(image, parsed), parsed.labels, 0).astype(np.uint8)


def whole(image: Pixels, parsed: Parsed) -> tuple[Pixels, Pixels]:
    """The image as it is, and the labels on it (H, W)."""
    return image, parsed.on(*image.shape[:2])


def mask(labels: Pixels, parts: Sequence[str], *, fill: bool) -> Bools:
    """Where the labels (H, W) are any of the parts; `fill`: with the holes inside."""
    found = mask_of(labels, parts)
    if not fill:
        return found
    import cv2

    contours, _ = cv2.findContours(found.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    return np.asarray(cv2.drawContours(np.zeros(found.shape, np.uint8), contours, -1, 1, cv2.FILLED), np.bool_)


def on_black(image: Pixels, mask: Bools, margin: float | None = None) -> Pixels:
    """RGB `image` (H, W, 3) with black outside the mask (H, W); `margin`: only the mask's bounding box, wider on each
    side by this share of its longer side."""
    kept = image * mask[..., None].astype(np.uint8)
    if margin is None:
        return kept
    rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
    top, bottom, left, right = int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1
    more = round(max(bottom - top, right - left) * margin)
    return np.ascontiguousarray(kept[max(0, top - more) : bottom + more, max(0, left - more) : right + more])


def png(pixels: Pixels) -> bytes:
    """RGB (H, W, 3) or grey (H, W) uint8 as PNG."""
    import cv2

    from idtool.media import images

    if pixels.ndim == 3:
        return images.encode(pixels, "png")
    done, out = cv2.imencode(".png", pixels)
    if not done:
        raise RuntimeError(f"could not encode {pixels.shape[1]}x{pixels.shape[0]} grey pixels as png")
    return bytes(out.tobytes())


def _inside(image: Pixels, parsed: Parsed) -> Bools:
    """Which pixels of the square have their centre in the image, (S, S)."""
    import cv2

    height, width = image.shape[:2]
    back = cv2.invertAffineTransform(parsed.matrix)
    line = np.arange(parsed.labels.shape[0])
    x = back[0, 0] * line[None] + back[0, 1] * line[:, None] + back[0, 2]
    y = back[1, 0] * line[None] + back[1, 1] * line[:, None] + back[1, 2]
    return np.asarray((x > -0.5) & (x < width - 0.5) & (y > -0.5) & (y < height - 0.5), np.bool_)
