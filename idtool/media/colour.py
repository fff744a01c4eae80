"""Any Pillow image to 8-bit sRGB: palettes, alpha, 16 bit, CMYK, embedded colour profiles."""

from __future__ import annotations

import hashlib
import io
import threading
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from idtool.engine.operator import Rejected

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL import Image

_SIXTEEN_BIT = ("I;16", "I;16L", "I;16B", "I;16N")
_SAME_AS_SRGB = 3
"""A profile that moves no colour of the test grid by more than this (of 255) is treated as sRGB: most embedded
profiles are sRGB under some name, and the transform costs as much as decoding."""
_cache: dict[tuple[str, str], Any] = {}
_lock = threading.Lock()


def flatten(image: Image.Image) -> NDArray[np.uint8]:
    """A loaded Pillow image as RGB (H, W, 3). Raises Rejected `unsupported_format` for modes with no natural range
    (32-bit and floating point)."""
    profile = image.info.get("icc_profile")
    if image.mode in _SIXTEEN_BIT:
        wide = np.asarray(image).astype(np.uint32)
        grey = ((wide + 128) // 257).astype(np.uint8)
        return np.repeat(grey[:, :, None], 3, axis=2)
    if image.mode in ("I", "F"):
        raise Rejected("unsupported_format", f"{image.mode}: 32-bit pixels have no fixed white level")
    if image.mode == "CMYK":
        return _from_cmyk(image, profile)
    if image.mode in ("LA", "PA", "RGBA", "La", "RGBa") or "transparency" in image.info:
        return _over_white(image, profile)
    if image.mode == "LAB":
        image, profile = _from_lab(image), None
    return rgb_to_srgb(np.asarray(image.convert("RGB")), profile)


def rgb_to_srgb(pixels: NDArray[np.uint8], profile: bytes | None) -> NDArray[np.uint8]:
    """Convert RGB (H, W, 3) from an embedded ICC profile to sRGB; returned as it is without a usable one."""
    transform = _transform(profile, "RGB") if profile else None
    if transform is None:
        return pixels
    from PIL import Image, ImageCms

    converted = ImageCms.applyTransform(Image.fromarray(pixels), transform)
    return np.asarray(converted)


def _over_white(image: Image.Image, profile: bytes | None) -> NDArray[np.uint8]:
    rgba = np.asarray(image.convert("RGBA"))
    colour = rgb_to_srgb(np.ascontiguousarray(rgba[:, :, :3]), profile)
    alpha = rgba[:, :, 3:]
    if (alpha == 255).all():
        return colour
    wide = alpha.astype(np.uint16)
    return ((colour * wide + 255 * (255 - wide) + 127) // 255).astype(np.uint8)


def _from_cmyk(image: Image.Image, profile: bytes | None) -> NDArray[np.uint8]:
    from PIL import ImageChops, ImageCms

    if image.format in ("JPEG", "MPO") and "adobe" not in image.info:
        # Pillow takes every CMYK JPEG to be inverted, as Adobe's are; one without Adobe's marker is not.
        image = ImageChops.invert(image)
    transform = _transform(profile, "CMYK") if profile else None
    if transform is not None:
        return np.asarray(ImageCms.applyTransform(image, transform))
    return np.asarray(image.convert("RGB"))


def _from_lab(image: Image.Image) -> Image.Image:
    from PIL import ImageCms

    source, target = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
    converted = ImageCms.profileToProfile(image, source, target, outputMode="RGB")
    return cast("Image.Image", converted)  # None only for conversion in place


def _transform(profile: bytes, mode: str) -> Any:
    """The cached transform from a profile to sRGB; None when it changes (nearly) nothing or cannot be used."""
    key = (hashlib.sha256(profile).hexdigest(), mode)
    with _lock:
        if key not in _cache:
            if len(_cache) >= 64:
                _cache.pop(next(iter(_cache)))
            _cache[key] = _build(profile, mode)
        return _cache[key]


def _build(profile: bytes, mode: str) -> Any:
    from PIL import Image, ImageCms

    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        transform = ImageCms.buildTransform(source, ImageCms.createProfile("sRGB"), mode, "RGB")
        if mode != "RGB":
            return transform
        levels = np.linspace(0, 255, 9).astype(np.uint8)
        grid = np.stack(np.meshgrid(levels, levels, levels), axis=-1).reshape(27, 27, 3)
        moved = np.asarray(ImageCms.applyTransform(Image.fromarray(grid), transform)).astype(int)
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        return None  # a profile for another colour space (grey), or a broken one: the pixels are taken as sRGB
    return transform if np.abs(moved - grid).max() > _SAME_AS_SRGB else None
