"""Image files without what they say beyond the picture: where and when it was taken, by whom, on which device.

A face photo often carries GPS coordinates, names, and a preview of the picture before it was cropped. What a decoder
needs stays byte for byte, so the pixels are the same bit for bit; everything else goes, known or not: only segments
and chunks that are listed here are kept. Nothing after the end of the picture is kept (phones append whole videos).
"""

from __future__ import annotations

import re

JPEG_KEPT = {0xE0: b"JFIF\0", 0xE2: b"ICC_PROFILE\0", 0xEE: b"Adobe"}
"""Application segments that change how a JPEG is shown, with how they begin: size units, colour profile, colour
transform. The rest are EXIF and XMP (APP1), previews (JFXX, MPF), IPTC (APP13), content credentials, makers' own."""
PNG_KEPT = frozenset(
    {b"tRNS", b"gAMA", b"cHRM", b"sRGB", b"iCCP", b"sBIT", b"cICP", b"mDCV", b"cLLI", b"pHYs"}
)  # fmt: skip
"""Besides the critical chunks (upper-case first letter): transparency, colour, size units."""
WEBP_KEPT = frozenset({b"VP8 ", b"VP8L", b"VP8X", b"ALPH", b"ICCP", b"ANIM", b"ANMF"})
WEBP_EXIF_XMP = 0b0000_1100
"""Flags of a VP8X chunk that announce metadata."""

_COMMENT = 0xFE
_SCAN, _END = 0xDA, 0xD9
_ALONE = frozenset({0x01, *range(0xD0, 0xD8)})
_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
"""What ends entropy-coded data: a marker that is neither a stuffed byte, a restart nor fill."""


def strip(data: bytes, format: str) -> bytes | None:
    """The `jpeg`, `png` or `webp` file without metadata; None when its structure is not what the format asks for,
    so that nothing can be said of what is in it."""
    found = {"jpeg": _jpeg, "png": _png, "webp": _webp}[format](data)
    return None if found is None else b"".join(found)


def _jpeg(data: bytes) -> list[bytes] | None:
    """ITU-T T.81, annex B."""
    if data[:2] != b"\xff\xd8":
        return None
    kept = [data[:2]]
    position = 2
    while position + 2 <= len(data):
        if data[position] != 0xFF:
            return None
        marker = data[position + 1]
        if marker == 0xFF:
            position += 1
        elif marker == _END:
            return [*kept, b"\xff\xd9"]
        elif marker in _ALONE:
            kept.append(data[position : position + 2])
            position += 2
        else:
            length = int.from_bytes(data[position + 2 : position + 4], "big")
            end = position + 2 + length
            if length < 2 or end > len(data):
                return None
            if marker == _SCAN:
                next_marker = _MARKER.search(data, end)
                if next_marker is None:
                    return None
                end = next_marker.start()
            if _kept_in_jpeg(marker, data[position + 4 : position + 16]):
                kept.append(data[position:end])
            position = end
    return None


def _kept_in_jpeg(marker: int, start: bytes) -> bool:
    if 0xE0 <= marker <= 0xEF:
        return marker in JPEG_KEPT and start.startswith(JPEG_KEPT[marker])
    return marker != _COMMENT


def _png(data: bytes) -> list[bytes] | None:
    """ISO/IEC 15948, clause 5."""
    kept = [data[:8]]
    position = 8
    while position + 12 <= len(data):
        kind = data[position + 4 : position + 8]
        end = position + 12 + int.from_bytes(data[position : position + 4], "big")
        if end > len(data):
            return None
        if kind[:1].isupper() or kind in PNG_KEPT:
            kept.append(data[position:end])
        if kind == b"IEND":
            return kept
        position = end
    return None


def _webp(data: bytes) -> list[bytes] | None:
    """RFC 9649."""
    stop = 8 + int.from_bytes(data[4:8], "little")
    if data[:4] != b"RIFF" or data[8:12] != b"WEBP" or stop > len(data):
        return None
    kept = []
    position = 12
    while position + 8 <= stop:
        kind = data[position : position + 4]
        size = int.from_bytes(data[position + 4 : position + 8], "little")
        if position + 8 + size > stop:
            return None
        end = position + 8 + size + size % 2
        chunk = data[position:end]
        if kind == b"VP8X":
            chunk = chunk[:8] + bytes([chunk[8] & ~WEBP_EXIF_XMP]) + chunk[9:]
        if kind in WEBP_KEPT:
            kept.append(chunk)
        position = end
    length = 4 + sum(map(len, kept))
    return [b"RIFF", length.to_bytes(4, "little"), b"WEBP", *kept] if kept else None
