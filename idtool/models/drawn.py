"""A face drawn with ellipses: enough like one for the networks to be tried out, and nobody's photo."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

EYES = ((0.414, 0.45), (0.586, 0.45))
"""Where the left and right eye are drawn, x and y as shares of the side."""

# Centre, radii (x and y from -1 to 1), colour; later ellipses lie over earlier ones.
_ELLIPSES = (
    ((0.0, -0.12), (0.52, 0.62), (60, 40, 30)),  # hair
    ((0.0, 0.9), (0.6, 0.35), (70, 80, 120)),  # shoulders
    ((0.0, 0.55), (0.18, 0.3), (190, 145, 120)),  # neck
    ((0.0, 0.02), (0.42, 0.56), (215, 170, 143)),  # face
    *(((side * 0.17, -0.2), (0.11, 0.025), (70, 45, 35)) for side in (-1, 1)),  # brows
    *(((side * 0.172, -0.1), (0.085, 0.04), (245, 240, 235)) for side in (-1, 1)),
    *(((side * 0.172, -0.1), (0.04, 0.04), (60, 40, 30)) for side in (-1, 1)),
    *(((side * 0.172, -0.1), (0.018, 0.018), (10, 10, 10)) for side in (-1, 1)),
    ((0.0, 0.12), (0.06, 0.035), (200, 150, 125)),  # nose
    *(((side * 0.05, 0.14), (0.025, 0.02), (150, 100, 85)) for side in (-1, 1)),
    ((0.0, 0.29), (0.15, 0.045), (175, 85, 85)),  # mouth
    ((0.0, 0.285), (0.14, 0.008), (110, 45, 45)),
)


def drawn_face(size: int = 256) -> npt.NDArray[np.uint8]:
    """A frontal face with shoulders on a plain ground, RGB uint8 (size, size, 3); the same on every machine."""
    y, x = np.mgrid[:size, :size] / size * 2 - 1
    image = np.full((size, size, 3), (120.0, 140.0, 160.0))
    for (left, top), (wide, high), colour in _ELLIPSES:
        inside = 1 - np.hypot((x - left) / wide, (y - top) / high)
        mask = np.clip(inside * min(wide, high) / 0.04, 0, 1)[..., None]
        image += mask * (np.array(colour) - image)
    return image.round().astype(np.uint8)
