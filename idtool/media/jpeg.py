"""The JPEG path: OpenCV (1.7 times as fast as Pillow here, the same pixels), with damage found that libjpeg forgives.

libjpeg decodes a file whose entropy-coded data is cut or broken, warns on stderr, and fills what is missing with
mid-grey. Both OpenCV and Pillow hand that out as a good picture. Two checks find it: the end-of-image marker must be
there, and where the last block is exactly mid-grey, decoding with bytes added at the end must give the same pixels.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from idtool.engine.operator import Rejected

if TYPE_CHECKING:
    from numpy.typing import NDArray

_EOI = b"\xff\xd9"
_STANDALONE = frozenset({0x01, *range(0xD0, 0xDA)})
_START_OF_SCAN = 0xDA
_PROBE = b"\x5a\xa5" * 64
"""Arbitrary entropy-coded bytes, without markers."""


def decode(data: bytes) -> NDArray[np.uint8]:
    """Decode an RGB or grey JPEG to RGB (H, W, 3), stored orientation (EXIF not applied).

    The caller has checked the header against its limits. Raises Rejected `truncated` or `unreadable`.
    """
    scan = _scan_start(data)
    end = data.rfind(_EOI, scan)
    if scan < 0 or end < 0:
        raise Rejected("truncated", "JPEG without an end: its data breaks off")
    pixels = _decode(data)
    if pixels is None:
        raise Rejected("unreadable", "the JPEG decoder refused the file")
    if (pixels[-4:, -4:] == 128).all():
        longer = _decode(data[:end] + _PROBE + data[end:])
        if longer is None or not np.array_equal(pixels, longer):
            raise Rejected("truncated", "JPEG with missing or damaged data: its lower part is filled with grey")
    return pixels


def _decode(data: bytes) -> NDArray[np.uint8] | None:
    import cv2

    flags = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION
    try:
        image: NDArray[np.uint8] | None = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error:
        return None
    return image


def _scan_start(data: bytes) -> int:
    """Offset of the first scan, after the header segments (one of which may hold a thumbnail with its own end);
    -1 when there is none."""
    position = 2
    while position + 4 <= len(data):
        if data[position] != 0xFF:
            return -1
        marker = data[position + 1]
        if marker == 0xFF or marker in _STANDALONE:
            position += 1 if marker == 0xFF else 2
            continue
        if marker == _START_OF_SCAN:
            return position
        position += 2 + int.from_bytes(data[position + 2 : position + 4], "big")
    return -1
