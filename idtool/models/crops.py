"""Square crops of faces for networks, without the aliasing of a plain warp."""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt

from idtool.media.shrink import halved

Image = npt.NDArray[np.uint8]
Doubles = npt.NDArray[np.float64]


def warp(image: Image, matrix: Doubles, size: int, border: Literal["black", "replicate"] = "black") -> Image:
    """RGB uint8 `image` (H, W, 3) through a similarity transform (2, 3, image to crop) to (size, size, 3).

    A linear warp skips pixels when it shrinks by more than two; the part of the image that is needed is then first
    averaged to half, a quarter, … of its size.
    """
    import cv2

    check(image)
    borders = {"black": cv2.BORDER_CONSTANT, "replicate": cv2.BORDER_REPLICATE}
    inner = np.array(matrix, np.float64)
    halvings = int(np.log2(1 / max(np.hypot(inner[0, 0], inner[1, 0]), 1e-6)) + 1e-9)
    if halvings > 0:
        step = 2**halvings
        back = cv2.invertAffineTransform(inner)
        corners = np.array([[0, 0, 1], [size, 0, 1], [0, size, 1], [size, size, 1]]) @ back.T
        extent = image.shape[1::-1]
        low = np.clip(np.floor(corners.min(axis=0)).astype(int) - 2 * step, 0, extent) // step * step
        high = np.clip(np.ceil(corners.max(axis=0)).astype(int) + 2 * step, low + step, extent)
        width, height = (high - low) // step
        if width and height:
            image = halved(image[low[1] : high[1], low[0] : high[0]], int(width), int(height))
            # A pixel centre at x of the smaller image lies at step * x + (step - 1) / 2 + low of the larger.
            inner[:, 2] += inner[:, :2] @ (low + (step - 1) / 2)
            inner[:, :2] *= step
    crop = cv2.warpAffine(image, inner, (size, size), flags=cv2.INTER_LINEAR, borderMode=borders[border])
    return np.asarray(crop, np.uint8)


def around(box: npt.ArrayLike, scale: float, size: int) -> Doubles:
    """The transform (2, 3) to a crop of `size` px: a square about `box` (4, xyxy), `scale` times its longer side."""
    left, top, right, bottom = np.asarray(box, np.float64)
    zoom = size / (max(right - left, bottom - top) * scale)
    shift = size / 2 - zoom * np.array([(left + right) / 2, (top + bottom) / 2])
    return np.array([[zoom, 0.0, shift[0]], [0.0, zoom, shift[1]]])


def check(image: Image) -> None:
    """ValueError unless `image` is RGB uint8 (H, W, 3) with pixels in it."""
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or 0 in image.shape:
        raise ValueError(f"Expected a uint8 image of HxWx3. Got {image.dtype} {image.shape}")
