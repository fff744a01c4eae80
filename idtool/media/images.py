"""Images: look at the header, decode strictly to RGB, encode deterministically.

Everything that comes out is uint8 RGB of shape (height, width, 3), upright and in sRGB. A file that cannot be
decoded whole is refused: a half-grey picture never passes for a good one.
"""

from __future__ import annotations

import io
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import IO, TYPE_CHECKING, Literal

import numpy as np

from idtool.engine.operator import Rejected
from idtool.media import colour, jpeg, png
from idtool.media.formats import HEAD_BYTES, sniff
from idtool.media.limits import DEFAULT_LIMITS, Limits, check_bytes
from idtool.media.paths import printable

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL import Image

    RGB = NDArray[np.uint8]

_ORIENTATION_TAG = 0x0112
_SWAPPED = frozenset({5, 6, 7, 8})


@dataclass(frozen=True)
class ImageInfo:
    """What the header says."""

    format: str
    """Sniffed from the bytes, lower case: jpeg png webp gif tiff bmp avif …"""
    width: int
    """Pixels, after EXIF orientation."""
    height: int
    frames: int
    """More than 1 for animations and multi-page files; the first is what `decode` returns."""
    mode: str
    """Pillow's mode: RGB, L, CMYK, I;16, …"""
    orientation: int
    """EXIF orientation, 1 to 8; already applied to width and height."""


def probe(source: bytes | Path, limits: Limits = DEFAULT_LIMITS) -> ImageInfo:
    """Size and kind of an image without decoding its pixels.

    Raises Rejected: `empty`, `unsupported_format`, `unreadable`, `too_large.pixels`, `too_large.bytes`.
    """
    if isinstance(source, bytes):
        image = _open(io.BytesIO(source), source[:HEAD_BYTES], len(source), limits)
        return _info(image)
    with open(source, "rb") as file:
        head = file.read(HEAD_BYTES)
        image = _open(file, head, source.stat().st_size, limits)
        return _info(image)


def decode(data: bytes, limits: Limits = DEFAULT_LIMITS) -> RGB:
    """Decode one image: EXIF orientation applied, alpha over white, the first frame of an animation, 16 bit scaled
    to 8, CMYK and embedded colour profiles converted to sRGB.

    Raises Rejected: as `probe`, and `truncated` when pixel data is missing or damaged.
    """
    image = _open(io.BytesIO(data), data[:HEAD_BYTES], len(data), limits)
    orientation = _orientation(image)
    profile = image.info.get("icc_profile")
    if image.format in ("JPEG", "MPO") and image.mode in ("RGB", "L"):
        pixels = jpeg.decode(data)
        if profile:
            pixels = colour.rgb_to_srgb(pixels, profile)
    else:
        if image.format == "PNG":
            png.check(data)
        try:
            image.load()
            upright_by_decoder = image.format == "TIFF"
            pixels = colour.flatten(image)
        except (Rejected, MemoryError):
            raise
        except Exception as error:  # decoders raise nearly anything on damaged data
            raise _refusal(error) from error
        if upright_by_decoder:
            orientation = 1
    return _upright(pixels, orientation)


def encode(image: RGB, format: Literal["jpeg", "png"] = "jpeg", quality: int = 95) -> bytes:
    """Encode uint8 RGB (H, W, 3). JPEG keeps full colour resolution (4:4:4). The same pixels give the same bytes
    (of one version of OpenCV)."""
    import cv2

    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(f"expected uint8 RGB of shape (H, W, 3), got {image.dtype} {image.shape}")
    options: list[int] = []
    if format == "jpeg":
        sampling = [int(cv2.IMWRITE_JPEG_SAMPLING_FACTOR), int(cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444)]
        options = [int(cv2.IMWRITE_JPEG_QUALITY), quality, *sampling]
    done, out = cv2.imencode(f".{format}", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), options)
    if not done:
        raise RuntimeError(f"could not encode {image.shape[1]}x{image.shape[0]} pixels as {format}")
    return bytes(out.tobytes())


def _open(file: IO[bytes], head: bytes, size: int, limits: Limits) -> Image.Image:
    """Open with Pillow, which reads the header only, and check the limits."""
    from PIL import Image, UnidentifiedImageError

    _silence_pillow()
    if size == 0:
        raise Rejected("empty", "the file has no bytes", value=0.0)
    check_bytes(size, limits.max_bytes, "image")
    found = sniff(head)
    if found is not None and found.kind == "video":
        raise Rejected("unsupported_format", f"this is a {found.format} video, not an image")
    file.seek(0)
    try:
        image = Image.open(file)
    except Image.DecompressionBombError as error:
        stated = re.search(r"\((\d+) pixels\)", str(error))
        limits.refuse_pixels(int(stated[1]) if stated else None, "the image")
    except UnidentifiedImageError as error:
        if found is not None and not _supported(found.format):
            raise Rejected("unsupported_format", f"no decoder for {found.format} here") from error
        what = "not an image" if found is None else f"a {found.format} file with a broken header"
        raise Rejected("unreadable", what) from error
    except Exception as error:
        raise _refusal(error) from error
    if min(image.size) < 1:
        raise Rejected("unreadable", f"the header says {image.width}x{image.height} pixels")
    limits.check_pixels(*image.size)
    return image


@cache
def _silence_pillow() -> None:
    """Pillow warns above 89 megapixels; whether that is too much is for our limits to say."""
    import warnings

    from PIL import Image

    warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


def _supported(format: str) -> bool:
    """Whether this build of Pillow has a decoder for a sniffed format."""
    from PIL import features

    optional = {"avif": "avif", "webp": "webp", "jp2": "jpg_2000"}
    if format in optional:
        return bool(features.check(optional[format]))
    return format not in ("heic", "jxl")


def _refusal(error: Exception) -> Rejected:
    text = " ".join(printable(str(error)).split())[:200] or type(error).__name__
    lowered = text.lower()
    missing = "truncated" in lowered or isinstance(error, EOFError) or "incomplete" in lowered
    return Rejected("truncated" if missing else "unreadable", text)


def _orientation(image: Image.Image) -> int:
    try:
        value = image.getexif().get(_ORIENTATION_TAG, 1)
    except Exception:  # a damaged EXIF block says nothing about the pixels
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _info(image: Image.Image) -> ImageInfo:
    orientation = _orientation(image)
    width, height = image.size
    # Pillow already reports the upright size of a TIFF.
    if orientation in _SWAPPED and image.format != "TIFF":
        width, height = height, width
    name = (image.format or "").lower()
    several_views = name == "mpo"  # a camera's photo with a preview beside it: not an animation
    try:
        frames = 1 if several_views else int(getattr(image, "n_frames", 1))
    except Exception as error:
        raise _refusal(error) from error
    format = {"mpo": "jpeg", "jpeg2000": "jp2", "ppm": "pnm"}.get(name, name)
    return ImageInfo(format, width, height, frames, image.mode, orientation)


def _upright(pixels: RGB, orientation: int) -> RGB:
    """Undo EXIF orientation 1 to 8 (Exif 2.3, tag 0x0112)."""
    if orientation in _SWAPPED:
        pixels = pixels.transpose(1, 0, 2)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels)
