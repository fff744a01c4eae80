"""The record of an image: what made it, written into the PNG itself, so that a picture found anywhere tells its story.

Only what follows from the request and the method goes into the file: the same request gives the same bytes. What
differs from run to run (seconds, memory, batch) stands in the table.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from typing import Any

from idtool.generate.method import Image

KEY = "idtool"
"""Keyword of the PNG's text chunk."""


def png(image: Image, record: Mapping[str, Any]) -> bytes:
    """RGB uint8 (H, W, 3) as PNG with `record` as a compressed text chunk."""
    import PIL.Image
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    text = json.dumps(record, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    info.add_itxt(KEY, text, zip=True)
    out = io.BytesIO()
    PIL.Image.fromarray(image).save(out, "PNG", pnginfo=info, compress_level=6)
    return out.getvalue()


def read(data: bytes) -> dict[str, Any] | None:
    """The record inside a PNG; None when it has none."""
    import PIL.Image

    with PIL.Image.open(io.BytesIO(data)) as image:
        text = getattr(image, "text", {}).get(KEY)
    return None if text is None else json.loads(text)
