"""Small pictures for reports, as `data:` URIs, within a budget of bytes."""

from __future__ import annotations

import base64
from pathlib import Path

import numpy as np

from idtool.engine.operator import Rejected

BUDGET = 4_000_000
"""Bytes of JPEG in one report; base64 adds a third."""


class Thumbnails:
    """Makes small JPEGs until the budget is spent. One image is in memory at a time."""

    def __init__(self, store_root: Path, budget: int = BUDGET) -> None:
        self.store_root = store_root
        self.left = budget
        self._made: dict[tuple[str, int], str | None] = {}

    def get(self, media: str | None, side: int) -> str | None:
        """A `data:` URI of the image within `side` x `side` px; None when it cannot be shown."""
        if not media or self.left <= 0:
            return None
        key = (media, side)
        if key not in self._made:
            self._made[key] = self._make(media, side)
        return self._made[key]

    def _make(self, media: str, side: int) -> str | None:
        from PIL import Image

        from idtool.media import images, store

        try:
            pixels = images.decode(store.open_bytes(media, self.store_root))
        except (Rejected, OSError, ValueError):
            # A picture that cannot be read is shown as a named empty frame: it may be the reason for the reject.
            return None
        small = Image.fromarray(pixels)
        small.thumbnail((side, side), Image.Resampling.LANCZOS, reducing_gap=2.0)
        data = images.encode(np.asarray(small), "jpeg", 80)
        self.left -= len(data)
        return f"data:image/jpeg;base64,{base64.b64encode(data).decode()}"
