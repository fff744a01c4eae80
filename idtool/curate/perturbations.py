"""What makes a picture worse: noise, wrong saturation, JPEG artefacts, a blurred face.

Functions of RGB uint8 pixels (H, W, 3) and numbers, to the same; nothing is drawn at random but the noise, from its
seed. IdGlow, section 3.4: losers of preference pairs are also "perturbed" winners; it prints no numbers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[np.uint8]
LUMA = (0.299, 0.587, 0.114)
"""ITU-R BT.601: the grey that a picture of saturation 0 is."""


def noise(image: Pixels, sigma: float, seed: int) -> Pixels:
    """Gaussian noise of deviation `sigma` (of the range [0, 1]) on every channel of every pixel."""
    drawn = np.random.default_rng(seed).standard_normal(image.shape, dtype=np.float32)
    return _to_bytes(image + drawn * np.float32(255 * sigma))


def saturate(image: Pixels, factor: float) -> Pixels:
    """Colours `factor` times as far from grey: below 1 paler, above 1 gaudier; 1 changes nothing."""
    grey = (image.astype(np.float32) @ np.array(LUMA, np.float32))[..., None]
    return _to_bytes(grey + np.float32(factor) * (image - grey))


def jpeg(image: Pixels, quality: int) -> Pixels:
    """As it comes back from a JPEG file of that quality (1 to 100), colours at half the resolution as is usual."""
    import cv2

    options = [int(cv2.IMWRITE_JPEG_QUALITY), quality]
    done, data = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), options)
    if not done:
        raise RuntimeError(f"could not encode {image.shape[1]}x{image.shape[0]} pixels as jpeg")
    return np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR_RGB), np.uint8)


def blur_face(image: Pixels, box: Sequence[float], sigma: float) -> Pixels:
    """A Gaussian blur of `sigma` px inside the ellipse of `box` (left, top, right, bottom), fading out towards its
    edge; all other pixels stay. ValueError when the box has no pixel in the image."""
    import cv2

    height, width = image.shape[:2]
    left, top, right, bottom = (float(value) for value in box)
    x0, y0 = max(0, int(np.floor(left))), max(0, int(np.floor(top)))
    x1, y1 = min(width, int(np.ceil(right))), min(height, int(np.ceil(bottom)))
    if x1 <= x0 or y1 <= y0:
        raise ValueError(f"the box {[round(value) for value in box]} has no pixel in an image of {width}x{height}")
    # Distance from the centre in radii of the ellipse; 1 at its edge.
    x = (np.arange(x0, x1) + 0.5 - (left + right) / 2) / ((right - left) / 2)
    y = (np.arange(y0, y1) + 0.5 - (top + bottom) / 2) / ((bottom - top) / 2)
    share = np.clip((1 - np.hypot(x[None], y[:, None])) * 4, 0, 1)[..., None].astype(np.float32)
    out = image.copy()
    # What lies about the box is seen by the blur, too.
    reach = int(np.ceil(3 * sigma))
    around = image[max(0, y0 - reach) : y1 + reach, max(0, x0 - reach) : x1 + reach]
    blurred = cv2.GaussianBlur(around, (0, 0), sigma)
    inner = blurred[y0 - max(0, y0 - reach) :, x0 - max(0, x0 - reach) :][: y1 - y0, : x1 - x0]
    out[y0:y1, x0:x1] = _to_bytes(image[y0:y1, x0:x1] * (1 - share) + inner * share)
    return out


def _to_bytes(values: npt.NDArray[np.float32]) -> Pixels:
    return np.rint(np.clip(values, 0, 255)).astype(np.uint8)
