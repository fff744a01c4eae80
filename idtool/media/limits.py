"""What we are willing to decode. Checked on headers and sizes, before memory is spent (DESIGN §10, safety)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NoReturn

from idtool.engine.operator import Rejected
from idtool.errors import UsageError

MIB = 1 << 20
PILLOW_MAX_PIXELS = 178_956_970
"""Pillow refuses larger images on opening, whatever we allow; we leave that second lock in place."""


@dataclass(frozen=True)
class Limits:
    """Upper bounds for one file. Picklable."""

    max_pixels: int = 100_000_000
    """Width times height of an image or of a video frame."""
    max_bytes: int = 256 * MIB
    """Size of an encoded image."""
    max_video_bytes: int = 16 * 1024 * MIB
    max_video_seconds: float = 4 * 3600.0
    """Decoding a video stops here."""
    max_video_frames: int = 1_000_000
    """Frames decoded (not only those kept) of one video."""

    def __post_init__(self) -> None:
        if not 1 <= self.max_pixels <= PILLOW_MAX_PIXELS:
            raise UsageError(f"max_pixels must be between 1 and {PILLOW_MAX_PIXELS}, got {self.max_pixels}.")

    def check_pixels(self, width: int, height: int) -> None:
        """Raises Rejected `too_large.pixels`."""
        if width * height > self.max_pixels:
            self.refuse_pixels(width * height, f"{width}x{height} pixels")

    def refuse_pixels(self, pixels: int | None, what: str) -> NoReturn:
        raise Rejected(
            "too_large.pixels",
            f"{what} is more than the {self.max_pixels} pixels that are decoded",
            value=None if pixels is None else float(pixels),
            threshold=f"<= {self.max_pixels}",
        )


DEFAULT_LIMITS = Limits()


def check_bytes(size: int, max_bytes: int | None, name: str) -> None:
    """Raises Rejected `too_large.bytes` when `size` is over `max_bytes`; None sets no bound."""
    if max_bytes is not None and size > max_bytes:
        raise Rejected(
            "too_large.bytes",
            f"{name}: {size} bytes is more than the {max_bytes} that are read",
            value=float(size),
            threshold=f"<= {max_bytes}",
        )
