"""Properties of an image that need no network. Pure functions on uint8 RGB of shape (H, W, 3).

Luma is Y' of ITU-R BT.601 (0.299 R + 0.587 G + 0.114 B) on the gamma-coded values, as OpenCV computes it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    RGB = NDArray[np.uint8]
    Luma = NDArray[np.uint8]

SHARPNESS_SIDE = 512
"""Short side, in pixels, at which sharpness is measured."""
SHARPNESS_TILES = 8
SHARPNESS_PERCENTILE = 90
DARK, LIGHT = 2, 253
"""Luma at or beyond which a pixel counts as clipped."""


@dataclass(frozen=True)
class Properties:
    """The columns of the measure `pixels`."""

    sharpness: float
    brightness: float
    clipped: float
    contrast: float
    phash: str


def properties(image: RGB) -> Properties:
    """All properties, from one conversion to luma."""
    grey = luma(image)
    histogram = luma_histogram(grey)
    return Properties(sharpness(grey), brightness(histogram), clipped(histogram), contrast(histogram), phash(grey))


def luma(image: RGB) -> Luma:
    """Luma (H, W), uint8, 0 to 255."""
    import cv2

    grey: Luma = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    return grey


def luma_histogram(grey: Luma) -> NDArray[np.float64]:
    """Share of the pixels at each of the 256 levels of luma; sums to 1."""
    import cv2

    counts: NDArray[np.float32] = cv2.calcHist([grey], [0], None, [256], [0, 256])
    return counts.ravel().astype(np.float64) / grey.size


def sharpness(grey: Luma) -> float:
    """How sharp the sharpest tenth of the picture is: variance of the Laplacian (Pech-Pacheco et al., ICPR 2000),
    normalised for size.

    Luma (H, W) is resized to a short side of 512 px (area when shrinking, bilinear when enlarging: a small picture
    counts as blurred), filtered by the 3x3 Laplacian [0 1 0; 1 -4 1; 0 1 0], and cut into 8x8 equal tiles; the
    result is the 90th percentile (nearest rank) of the tiles' variances. Tiles, because the background of a portrait
    is out of focus by intent. In grey levels squared, >= 0. Photos of our fixtures: 50 to 5000, median 650; blurred by
    a Gaussian of sigma 1, 2, 4 and 8 px at that size: medians 59, 11, 3 and 2. Noise raises it.
    """
    import cv2

    small = _resized(grey, SHARPNESS_SIDE)
    laplacian = cv2.Laplacian(small, cv2.CV_32F)
    rows, columns = laplacian.shape[0] // SHARPNESS_TILES, laplacian.shape[1] // SHARPNESS_TILES
    tiles = laplacian[: rows * SHARPNESS_TILES, : columns * SHARPNESS_TILES]
    tiles = tiles.reshape(SHARPNESS_TILES, rows, SHARPNESS_TILES, columns)
    variances = tiles.var(axis=(1, 3), dtype=np.float64).ravel()
    return float(np.percentile(variances, SHARPNESS_PERCENTILE, method="nearest"))


def brightness(histogram: NDArray[np.float64]) -> float:
    """Mean luma in [0, 1], from `luma_histogram`."""
    return float((histogram * np.arange(256)).sum() / 255)


def clipped(histogram: NDArray[np.float64]) -> float:
    """Share in [0, 1] of pixels whose luma is <= 2 or >= 253, from `luma_histogram`."""
    return float(histogram[: DARK + 1].sum() + histogram[LIGHT:].sum())


def contrast(histogram: NDArray[np.float64]) -> float:
    """Standard deviation of luma, luma in [0, 1]; so in [0, 0.5]. From `luma_histogram`."""
    levels = np.arange(256) / 255
    mean = (histogram * levels).sum()
    return float(np.sqrt((histogram * np.square(levels - mean)).sum()))


def phash(grey: Luma) -> str:
    """64-bit perceptual hash as 16 hex digits: luma reduced to 32x32 by area, 2-D DCT-II, the 8x8 lowest
    frequencies, each bit set where the coefficient is over their median (Zauner 2010, as `imagehash.phash`, which is
    not used because it brings SciPy's FFT and PyWavelets for these lines: 0.5 s of import in every worker).

    Equal pictures differ in 0 bits; the same at another size or quality in about 0 to 4; different ones in about 32.
    """
    import cv2

    small = cv2.resize(grey, (32, 32), interpolation=cv2.INTER_AREA).astype(np.float32)
    low = cv2.dct(small)[:8, :8].round(2)  # rounded, so that an even picture has no bits set by noise
    bits = (low > np.median(low)).ravel()
    return np.packbits(bits).tobytes().hex()


def hamming(a: str, b: str) -> int:
    """Number of bits, 0 to 64, in which two `phash` values differ."""
    return (int(a, 16) ^ int(b, 16)).bit_count()


def _resized(grey: Luma, side: int) -> Luma:
    import cv2

    height, width = grey.shape[:2]
    scale = side / min(height, width)
    # A strip a pixel high would be enlarged beyond memory: its long side is cut off in the middle.
    longest = 8 * side
    if max(height, width) * scale > longest:
        keep = max(1, int(longest / scale))
        top, left = max(0, (height - keep) // 2), max(0, (width - keep) // 2)
        grey = grey[top : top + keep, left : left + keep]
        height, width = grey.shape[:2]
    size = max(side, round(width * scale)), max(side, round(height * scale))
    out: Luma = cv2.resize(grey, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    return out
