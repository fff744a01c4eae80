"""ColorScore-v1: are the parts of the subject of the colours that they have in the reference?

Instruct Identity, Algorithm 1, with its blank line 7 filled in by us. Its factor 2 says that every pair of regions
gives two terms in [0, 1] for every colour space; ours are the distance of the mean colours and the overlap of the
colour histograms. HSV is taken as the point (S cos H, S sin H, V): hue is a circle, and means nothing in greys.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from idtool.models.crops import check

Image = npt.NDArray[np.uint8]
Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float32]
Middle = Literal["mean", "median"]

NAME = "ColorScore-v1"
BINS = 8
EROSION = 2
"""Pixels that are taken off the edge of every mask: there, colours mix with what lies beside the region."""
MOST = 2**16
"""Pixels of a region that are looked at."""
_FINE = 64
"""Cells per axis in which pixels are counted before they are shared out among the bins."""

Area = tuple[Image, Bools]
"""A region: RGB uint8 image (H, W, 3) and mask (H, W)."""


@dataclass(frozen=True)
class Space:
    """A colour space: how to get there, and how large it is."""

    convert: Callable[[Floats], Floats]
    """(N, 3) RGB in [0, 1] to (N, 3)."""
    low: tuple[float, float, float]
    high: tuple[float, float, float]
    reach: float
    """The distance at which two mean colours have nothing in common."""


def _hsv(rgb: Floats) -> Floats:
    hue, saturation, value = _opencv(rgb, "COLOR_RGB2HSV").T
    angle = np.deg2rad(hue)
    return np.stack([saturation * np.cos(angle), saturation * np.sin(angle), value], axis=1)


def _lab(rgb: Floats) -> Floats:
    return _opencv(rgb, "COLOR_RGB2LAB")


def _opencv(rgb: Floats, code: str) -> Floats:
    import cv2

    return np.asarray(cv2.cvtColor(rgb[None], getattr(cv2, code))[0], np.float32)


SPACES: Mapping[str, Space] = {
    "rgb": Space(lambda rgb: rgb, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), 3**0.5),  # 441.67 of 8 bits
    "hsv": Space(_hsv, (-1.0, -1.0, 0.0), (1.0, 1.0, 1.0), 5**0.5),
    "lab": Space(_lab, (0.0, -128.0, -128.0), (100.0, 128.0, 128.0), 100.0),  # from black to white (CIE 1976)
}


@dataclass(frozen=True, eq=False)
class Colours:
    """The colours of a region in one space."""

    mean: npt.NDArray[np.float64]
    """(3,)."""
    median: Floats
    """(3,) channel by channel."""
    histogram: Floats
    """(8, 8, 8), sum 1."""


def colours(area: Area, *, grey_world: bool = False, erosion: int = EROSION) -> dict[str, Colours]:
    """Space -> colours of a region, `erosion` px off its edge, of at most `MOST` pixels evenly taken.

    `grey_world`: channels are first scaled so that the whole image is grey on average (against coloured light; hides a
    true change of colour in part). ValueError for an empty mask, or one of another size than its image.
    """
    rgb = _pixels(*area, erosion, grey_world)
    found = {}
    for name, space in SPACES.items():
        values = space.convert(rgb)
        found[name] = Colours(
            values.mean(axis=0, dtype=np.float64), np.median(values, axis=0), _histogram(space, values)
        )
    return found


def terms(
    one: Mapping[str, Colours], other: Mapping[str, Colours], middle: Middle = "mean"
) -> dict[str, tuple[float, float]]:
    """Space -> (s_mean, s_hist) of two regions, each in [0, 1].

    s_mean = 1 - min(1, d / `Space.reach`), d the Euclidean distance of the mean (or median) colours; s_hist is the
    Bhattacharyya coefficient of the histograms.
    """
    found = {}
    for name, space in SPACES.items():
        distance = float(np.linalg.norm(getattr(one[name], middle) - getattr(other[name], middle)))
        overlap = float(np.sqrt(one[name].histogram * other[name].histogram).sum(dtype=np.float64))
        found[name] = (1 - min(1.0, distance / space.reach), min(1.0, overlap))
    return found


def color_score(
    pairs: Sequence[tuple[Area, Area]],
    *,
    middle: Middle = "mean",
    grey_world: bool = False,
    erosion: int = EROSION,
) -> float | None:
    """Mean of the `terms` of matched regions (first of the reference, second of the image), [0, 1]; the same both ways
    round, 1 for equal regions. None when there are no pairs. ValueError as in `colours`."""
    seen = [[colours(area, grey_world=grey_world, erosion=erosion) for area in pair] for pair in pairs]
    return mean_of([terms(one, other, middle) for one, other in seen])


def mean_of(found: Sequence[Mapping[str, tuple[float, float]]]) -> float | None:
    """1 / (2 |M| |Omega|) times the sum of all terms (line 10); None when there are none."""
    return float(np.mean([list(one.values()) for one in found])) if found else None


def _histogram(space: Space, values: Floats) -> Floats:
    """Of colours (N, 3). A pixel counts for the bins around it by its distance from their centres, so that no edge of a
    bin makes two colours strangers."""
    low, high = np.array([space.low, space.high], np.float32)
    cells = np.clip((values - low) / (high - low) * _FINE, 0, _FINE - 1).astype(np.int32)
    counts = np.bincount((cells[:, 0] * _FINE + cells[:, 1]) * _FINE + cells[:, 2], minlength=_FINE**3)
    places = np.clip((np.arange(_FINE) + 0.5) * BINS / _FINE - 0.5, 0, BINS - 1)
    shares = np.clip(1 - np.abs(places - np.arange(BINS)[:, None]), 0, None).astype(np.float32)
    table = counts.reshape(3 * (_FINE,)).astype(np.float32)
    for _ in range(3):  # each turn shares out the first axis, and puts it last
        table = np.tensordot(table, shares, (0, 1))
    return np.asarray(table / len(values), np.float32)


def _pixels(image: Image, mask: Bools, erosion: int, grey_world: bool) -> Floats:
    """(N, 3) RGB in [0, 1] of a region."""
    check(image)
    if mask.shape != image.shape[:2] or not mask.any():
        raise ValueError(f"Expected a mask of {image.shape[:2]} that is not empty. Got {mask.shape}, {mask.sum()} px")
    inside = image[eroded(mask, erosion)]
    pixels = inside[:: -(-len(inside) // MOST)].astype(np.float32) / np.float32(255)
    if grey_world:
        means = image.reshape(-1, 3).mean(axis=0) / 255
        pixels = np.clip(pixels * (means.mean() / np.maximum(means, 1 / 255)).astype(np.float32), 0, 1)
    return pixels


def eroded(mask: Bools, by: int) -> Bools:
    """`mask` (H, W) without the pixels that are nearer than `by` px to its edge; the edge of the picture is none. A
    mask too thin to lose anything stays as it is."""
    import cv2

    side = 2 * by + 1
    inner = cv2.erode(mask.astype(np.uint8), cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side))).astype(bool)
    return inner if inner.any() else mask
