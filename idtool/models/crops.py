"""Square crops of faces for networks, without the aliasing of a plain warp."""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt

Image = npt.NDArray[np.uint8]
Doubles = npt.NDArray[np.float64]


def warp(image: Image, matrix: Doubles, size: int, border: Literal["black", "replicate"] = "black") -> Image:
    """RGB uint8 `image` (H, W, 3) through a similarity transform (2, 3, image to crop) to (size, size, 3).

    A linear warp skips pixels when it shrinks by more than two; it then samples up to four times as densely each way
    and averages.
    """
    import cv2

    check(image)
    borders = {"black": cv2.BORDER_CONSTANT, "replicate": cv2.BORDER_REPLICATE}
    scale = float(np.hypot(matrix[0, 0], matrix[1, 0]))
    finer = int(np.clip(np.ceil(0.5 / scale), 1, 4))
    shape = (finer * size, finer * size)
    # Pixel centres lie at whole numbers, so a finer grid starts half of its surplus earlier.
    inner = np.asarray(matrix, np.float64) * finer
    inner[:, 2] += (finer - 1) / 2
    crop = cv2.warpAffine(image, inner, shape, flags=cv2.INTER_LINEAR, borderMode=borders[border])
    if finer > 1:
        crop = cv2.resize(crop, (size, size), interpolation=cv2.INTER_AREA)
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
