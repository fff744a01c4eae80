"""Faces moved onto the frames that networks draw in, and what was drawn put back with a soft edge."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from idtool.models import crops
from idtool.models.identity import TEMPLATE, similarity_transform

Image = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]

FFHQ: Doubles = np.array(
    [
        *([192.98138, 239.94708], [318.90277, 240.1936], [256.63416, 314.01935]),
        *([201.26117, 371.41043], [313.08905, 371.15118]),
    ]
)
"""(5, 2) where the five points lie in a picture of 512 px that is framed as FFHQ's are: what facexlib aligns faces to
for CodeFormer and GFPGAN."""
FFHQ_SIDE = 512
ARCFACE_SIDE = 128
"""Side of the frame that InsightFace's swapper draws in: the ArcFace template of 112 px, at the same scale, with 8 px
more on both sides and 16 px more below, where the chin is."""


def arcface(kps: npt.ArrayLike, side: int = ARCFACE_SIDE) -> Doubles:
    """From the image to the swapper's frame of `side` px, (2, 3). ValueError when the five points (5, 2) coincide."""
    moved = (TEMPLATE + np.array([8.0, 0.0])) * (side / ARCFACE_SIDE)
    return _one(kps, moved)


def ffhq(kps: npt.ArrayLike, side: int = FFHQ_SIDE) -> Doubles:
    """From the image to the frame of `side` px that faces as FFHQ's lie in, (2, 3). ValueError when the five points
    (5, 2) coincide."""
    return _one(kps, FFHQ * (side / FFHQ_SIDE))


def _one(kps: npt.ArrayLike, template: Doubles) -> Doubles:
    matrix: Doubles = similarity_transform(kps, template)[0]
    return matrix


def soft_square(side: int, edge: float) -> Floats:
    """(side, side) weights: 1 in the middle, falling as a cosine to 0 at the border, over the share `edge` of the side
    along each of the four edges (a Tukey window along both axes)."""
    from scipy.signal.windows import tukey

    line = tukey(side, min(1.0, 2 * edge))
    return np.asarray(np.outer(line, line), np.float32)


def put_back(image: Image, crop: Image, matrix: Doubles, weights: Floats) -> Image:
    """RGB uint8 `image` with `crop` (S, S, 3) where `matrix` (2, 3, image to crop) took it from, mixed by `weights`
    (S, S) in [0, 1]. Pixels of weight 0 are those of the image."""
    import cv2

    crops.check(image)
    back = cv2.invertAffineTransform(np.asarray(matrix, np.float64))
    side = crop.shape[0]
    scale = float(np.hypot(back[0, 0], back[1, 0]))
    if scale < 1:  # a warp would skip pixels: first to the size that it has in the image
        small = max(1, round(side * scale))
        crop, weights = (cv2.resize(part, (small, small), interpolation=cv2.INTER_AREA) for part in (crop, weights))
        back[:, 2] += back[:, :2] @ np.full(2, (side / small - 1) / 2)
        back[:, :2] *= side / small
        side = small
    corners = np.array([[0, 0, 1], [side, 0, 1], [0, side, 1], [side, side, 1]]) @ back.T
    size = np.array(image.shape[1::-1])
    low = np.clip(np.floor(corners.min(axis=0)).astype(int) - 1, 0, size)
    high = np.clip(np.ceil(corners.max(axis=0)).astype(int) + 1, 0, size)
    width, height = (high - low).tolist()
    out = image.copy()
    if not width or not height:
        return out
    back[:, 2] -= low
    drawn = cv2.warpAffine(crop, back, (width, height), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
    share = cv2.warpAffine(weights, back, (width, height), flags=cv2.INTER_LINEAR)[..., None]
    region = out[low[1] : high[1], low[0] : high[0]]
    region[:] = np.rint(region + share * (drawn.astype(np.float32) - region)).astype(np.uint8)
    return out
