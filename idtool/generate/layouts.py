"""Sizes and layouts that the authors of methods prepare references in. Pure geometry, exact to the pixel."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from idtool.generate.method import Image

Size = tuple[int, int]
"""Width and height in pixels."""

KONTEXT = (
    *((672, 1568), (688, 1504), (720, 1456), (752, 1392), (800, 1328), (832, 1248), (880, 1184), (944, 1104)),
    (1024, 1024),
    *((1104, 944), (1184, 880), (1248, 832), (1328, 800), (1392, 752), (1456, 720), (1504, 688), (1568, 672)),
)
"""Sizes that FLUX.1-Kontext was trained on."""
KONTEXT_AREA = 1024**2
LONGEST = 4
"""ACE++ cuts references that are longer than so many times their width."""


def resized(image: Image, size: Size, how: Literal["lanczos", "bilinear", "bicubic"] = "lanczos") -> Image:
    """A picture in another size, as Pillow does it (antialiased)."""
    from PIL import Image as Pillow

    if (image.shape[1], image.shape[0]) == size:
        return np.ascontiguousarray(image)
    method = {
        "lanczos": Pillow.Resampling.LANCZOS,
        "bilinear": Pillow.Resampling.BILINEAR,
        "bicubic": Pillow.Resampling.BICUBIC,
    }[how]
    return np.array(Pillow.fromarray(np.ascontiguousarray(image)).resize(size, method), np.uint8)


def middle(image: Image, size: Size) -> Image:
    """The middle of a picture that is at least as large."""
    width, height = size
    left, top = (image.shape[1] - width) // 2, (image.shape[0] - height) // 2
    return image[top : top + height, left : left + width]


def kontext_size(size: Size, area: int = KONTEXT_AREA) -> Size:
    """The size of `KONTEXT` that is nearest in width over height; in proportion, in multiples of 16, for another area
    than that of training."""
    ratio = size[0] / size[1]
    width, height = min(KONTEXT, key=lambda one: abs(ratio - one[0] / one[1]))
    if area == KONTEXT_AREA:
        return width, height
    scale = math.sqrt(area / KONTEXT_AREA)
    return max(16, round(width * scale / 16) * 16), max(16, round(height * scale / 16) * 16)


def within_area(size: Size, area: int) -> Size:
    """The size, shrunk in proportion until it has at most `area` pixels, as diffusers does it for FLUX.2."""
    width, height = size
    if width * height <= area:
        return size
    scale = math.sqrt(area / (width * height))
    return int(width * scale), int(height * scale)


def uno_sizes(size: Size, long: int) -> tuple[Size, Size]:
    """The size in which UNO looks at a reference (longer side `long`), and that of the middle which it keeps: multiples
    of 16, 0 where a picture is too thin."""
    width, height = size
    scale = long / max(size)
    fitted = (long, int(scale * height)) if width >= height else (int(scale * width), long)
    return fitted, (fitted[0] // 16 * 16, fitted[1] // 16 * 16)


def uno_reference(image: Image, long: int) -> Image:
    """A reference as UNO takes it. ValueError when nothing of it is left."""
    fitted, kept = uno_sizes((image.shape[1], image.shape[0]), long)
    if 0 in kept:
        raise ValueError(f"a picture of {image.shape[1]} x {image.shape[0]} px is too thin for {long} px")
    return middle(resized(image, fitted), kept)


@dataclass(frozen=True)
class SideBySide:
    """A canvas with a reference on the left and the image to be made on the right, in pixels."""

    width: int
    height: int
    split: int
    """Where the right part begins."""

    @property
    def tokens(self) -> int:
        return self.width * self.height // 256


def side_by_side(reference: Size, image: Size, limit: int = 4096) -> SideBySide:
    """ACE++'s canvas: the reference as high as the image, both shrunk until there are at most `limit` tokens of 16 px,
    each part a multiple of 16."""
    width, height = image
    shown = int(reference[0] * (height / reference[1]))
    whole = shown + width
    scale = min(1.0, math.sqrt(limit / ((height / 16) * (whole / 16))))
    return SideBySide(
        width=int(whole * scale) // 16 * 16,
        height=int(height * scale) // 16 * 16,
        split=int(shown * scale) // 16 * 16,
    )


def not_longer(image: Image, most: int = LONGEST) -> Image:
    """The middle of a picture whose sides differ by more than `most` times; else the picture."""
    height, width = image.shape[:2]
    if height > most * width:
        return middle(image, (width, most * width))
    if width > most * height:
        return middle(image, (most * height, height))
    return image


def canvas(reference: Image, layout: SideBySide) -> tuple[Image, Image]:
    """The canvas (H, W, 3), black on the right, and the mask (H, W), 255 there."""
    picture = np.zeros((layout.height, layout.width, 3), np.uint8)
    picture[:, : layout.split] = resized(reference, (layout.split, layout.height), "bilinear")
    mask = np.zeros(picture.shape[:2], np.uint8)
    mask[:, layout.split :] = 255
    return picture, mask


def right_part(made: Image, layout: SideBySide, image: Size, bleed: int) -> Image:
    """What was made on the right of a canvas, less `bleed` pixels at the seam, in the size of the image."""
    return resized(made[:, layout.split + bleed :], image, "bicubic")
