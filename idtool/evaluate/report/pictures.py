"""Small pictures of a page: each is in it once, however often it is shown, and all together stay within a budget."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from idtool.media.paths import is_url
from idtool.media.thumbnails import Thumbnails

BUDGET = 6_000_000
"""Bytes of pictures in one page, as they stand in it (base64)."""
SIDES = (256, 224, 192, 160, 128, 112, 96, 80, 64)
BYTES_PER_PIXEL = 0.3
"""Of a small JPEG at our quality; detailed ones have twice as much."""


class Pictures:
    """Hands out names of pictures (`p0`, `p1`, …) that the page defines once and draws by reference."""

    def __init__(self, root: Path, budget: int = BUDGET) -> None:
        self.root = root
        self.left = budget
        self._named: dict[tuple[str, int], str | None] = {}
        self.data: dict[str, str] = {}
        """Name -> `data:` URI."""

    def use(self, media: str | None, side: int) -> str | None:
        """The name of a picture within `side` x `side` px; None where it cannot be shown, or there is no room left.
        `media`: a path (relative ones stand below the root) or a URL."""
        if not media:
            return None
        key = (media, side)
        if key not in self._named:
            self._named[key] = self._make(media, side)
        return self._named[key]

    def _make(self, media: str, side: int) -> str | None:
        if self.left < 2 * cost(side):
            return None
        place = media if is_url(media) or media.startswith(("/", "bytes:")) else str(self.root / media)
        # One picture at a time has the budget to itself: what it may cost is checked above.
        data = Thumbnails(self.root, self.left).get(place, side)
        if data is None or len(data) > self.left:
            return None
        self.left -= len(data)
        name = f"p{len(self.data)}"
        self.data[name] = data
        return name


def cost(side: int) -> int:
    """Bytes that a picture of this size takes in a page, about."""
    return int(side * side * BYTES_PER_PIXEL * 4 / 3) + 400


def side_for(count: int, budget: int, sides: Iterable[int] = SIDES) -> int:
    """The largest size in which `count` pictures fit into the budget; the smallest where none does."""
    options = list(sides)
    return next((side for side in options if count * cost(side) <= budget), options[-1])
