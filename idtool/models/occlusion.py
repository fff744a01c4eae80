"""An occlusion cue without a face parser: three signs, each scaled so that 0.5 is where it starts to be a fault.

- *unsettled mesh*: under a mask, a hand or an object, the landmark network invents what it cannot see. Its points
  then move when the crop is shifted a little, and they disagree with the detector's own five points.
- *flat eyes*: an open eye has a bright sclera beside a dark iris; sunglasses leave neither eye such a contrast.
- *two-coloured face*: the colour of the lower face is far from that of the forehead and eye surrounds (masks).

On 178 real photos (fixtures, long side at most 600 px), 4 % are called covered at .5; of every second one with a
painted surgical mask and with painted sunglasses, all are found. On 122 of the photos an earlier setting of the eye
sign found 78 % of textured objects over a quarter of the face and 51 % of skin-coloured hands; those hang on the other
two signs, which did not change. A scream may be called covered. Missed by design: hands and hair of the face's own
colour that leave eyes and mouth free, thin objects, microphones below the chin, clear glasses (allowed). Colour is
judged within one face only, so skin tone does not matter; lip redness was tried and dropped, because it fails for dark
skin. All limits were set on these same photos.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Doubles = npt.NDArray[np.float64]

# Vertices of the mesh, left and right as seen in the picture.
EYES = (
    (33, 246, 161, 160, 159, 158, 157, 173, 133, 155, 154, 153, 145, 144, 163, 7),
    (362, 398, 384, 385, 386, 387, 388, 466, 263, 249, 390, 373, 374, 380, 381, 382),
)
NOSE_TIP, MOUTH_CORNERS = 4, (61, 291)
FOREHEAD = (10, 151, 9, 108, 337, 69, 299, 67, 297, 109, 338)
AROUND_EYES = (119, 120, 121, 230, 229, 223, 224, 222, 27, 28, 348, 349, 350, 450, 449, 443, 444, 442, 257, 258)
LOWER_FACE = (
    (50, 101, 118, 117, 123, 147, 187, 205, 36),
    (280, 330, 347, 346, 352, 376, 411, 425, 266),
    (164, 167, 393, 165, 391),
    (199, 200, 175, 208, 428, 18, 83, 313),
)

_LIGHTNESS = 0.3
"""Lightness counts less than hue, or every shadow would be an occluder."""
_MESH_LIMIT, _MESH_SOFTNESS = 0.0205, 0.22
"""Share of the face's size, and width of the transition in log units."""
_EYE_LIMIT, _EYE_SOFTNESS = 0.35, 0.05
"""Spread of lightness over mean lightness."""
_EYE_BLACK = 10.0
"""L* units added to the mean, or the noise of a black lens would look like contrast."""
_COLOUR_LIMIT, _COLOUR_SOFTNESS = 12.0, 0.3
"""Weighted Lab distance, and width of the transition in log units."""
SETTINGS = (
    _LIGHTNESS,
    _MESH_LIMIT,
    _MESH_SOFTNESS,
    _EYE_LIMIT,
    _EYE_SOFTNESS,
    _EYE_BLACK,
    _COLOUR_LIMIT,
    _COLOUR_SOFTNESS,
)
"""All that the cue depends on besides the landmarks, for fingerprints."""


@dataclass(frozen=True)
class Occlusion:
    """How much of a face seems to be covered; each part in [0, 1], 0.5 = at the limit."""

    mesh: float
    eyes: float
    colour: float

    @property
    def value(self) -> float:
        """The strongest sign."""
        return max(self.mesh, self.eyes, self.colour)


def occlusion(crop: npt.NDArray[np.uint8], points: Doubles, again: Doubles, kps: Doubles) -> Occlusion:
    """Judge one face in its RGB crop of 256 px.

    `points` and `again` are its 478 landmarks (x, y in crop pixels) from two differently placed crops, `kps` (5, 2)
    the detector's points in the same pixels.
    """
    import cv2

    size = float(np.sqrt(np.prod(np.ptp(points[:, :2], axis=0)))) + 1e-6
    jitter = np.linalg.norm(points[:, :2] - again[:, :2], axis=1).mean() / size
    own = np.stack([points[list(eye), :2].mean(axis=0) for eye in EYES] + [points[NOSE_TIP, :2]])
    own = np.concatenate([own, points[list(MOUTH_CORNERS), :2]])
    apart = np.linalg.norm(own - kps, axis=1).mean() / size
    mesh = np.log(np.sqrt(jitter * apart) + 1e-9) - np.log(_MESH_LIMIT)

    contrast = max(_eye_contrast(crop, points[list(eye), :2]) for eye in EYES)

    at = np.clip(points[:, :2].round().astype(int), 0, crop.shape[0] - 1)
    colours = _lab(cv2.GaussianBlur(crop, (0, 0), 2)[at[:, 1], at[:, 0]][None])[0] * np.array([_LIGHTNESS, 1.0, 1.0])
    upper = np.stack([np.median(colours[list(region)], axis=0) for region in (FOREHEAD, AROUND_EYES)])
    lower = np.stack([np.median(colours[list(region)], axis=0) for region in LOWER_FACE])
    distances = np.linalg.norm(lower[:, None] - upper[None], axis=-1).min(axis=1)
    # The second smallest: a beard changes chin and lip, a lit side one cheek; a mask changes all four.
    colour = np.log1p(np.sort(distances)[1]) - np.log1p(_COLOUR_LIMIT)

    return Occlusion(
        mesh=_sigmoid(mesh / _MESH_SOFTNESS),
        eyes=_sigmoid((_EYE_LIMIT - contrast) / _EYE_SOFTNESS),
        colour=_sigmoid(colour / _COLOUR_SOFTNESS),
    )


def _eye_contrast(crop: npt.NDArray[np.uint8], outline: Doubles) -> float:
    """Spread of lightness (5th to 95th percentile) over its mean inside the outline of an eye: 0.4 to 4 when open,
    the least for pale eyes in flat light; 0 behind painted glasses.

    Relative, because an eye in deep shadow keeps its pattern and loses only light.
    """
    import cv2

    inside = np.zeros(crop.shape[:2], np.uint8)
    cv2.fillConvexPoly(inside, cv2.convexHull(outline.round().astype(np.int32)), 1)
    values = _lab(crop[inside > 0][None])[..., 0]
    if values.size == 0:
        return 0.0
    low, high = np.percentile(values, [5, 95])
    return float((high - low) / (values.mean() + _EYE_BLACK))


def _lab(pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """(1, N, 3) RGB to CIE Lab; of the pixels that are looked at only, since this is slow."""
    import cv2

    if not pixels.size:
        return np.zeros(pixels.shape, np.float32)
    return np.asarray(cv2.cvtColor(pixels.astype(np.float32) / 255, cv2.COLOR_RGB2LAB), np.float32)


def _sigmoid(x: float) -> float:
    return float(1 / (1 + np.exp(-np.clip(x, -60, 60))))
