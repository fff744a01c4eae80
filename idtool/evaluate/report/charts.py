"""Small charts as inline SVG. Colours come from the page's style sheet by class, so that they follow light and dark."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape


@dataclass(frozen=True)
class Axis:
    """A linear map from values to positions. `start` > `end` turns it round, so that better is always up and right."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        span = self.high - self.low or 1.0
        return self.start + (value - self.low) / span * (self.end - self.start)

    def ticks(self, count: int = 5) -> list[float]:
        return ticks(self.low, self.high, count)


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Round numbers from `low` to `high`, about `count` of them."""
    if not high > low:
        return [low]
    raw = (high - low) / count
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= raw)
    return [round(index * step, 12) for index in range(math.ceil(low / step), math.floor(high / step + 1e-9) + 1)]


def span(values: Iterable[float | None], pad: float = 0.06) -> tuple[float, float]:
    """Lowest and highest of the values with some room around them; (0, 1) when there are none."""
    known = [value for value in values if value is not None]
    if not known:
        return 0.0, 1.0
    low, high = min(known), max(known)
    room = (high - low) * pad or abs(high) * pad or 0.5
    return low - room, high + room


def short(value: float) -> str:
    """A tick: `0.25`, `12k`, `3M`."""
    for limit, unit in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if abs(value) >= limit:
            return f"{value / (limit if unit != 'k' else 1e3):g}{unit}"
    return f"{value:g}"


def svg(parts: Sequence[str], label: str, width: float, height: float) -> Markup:
    """The drawing. Every part must be escaped already."""
    return Markup(  # noqa: S704 - numbers are formatted and texts escaped where the parts are made
        f'<svg viewBox="0 0 {width:g} {height:g}" role="img" aria-label="{escape(label)}">{"".join(parts)}</svg>'
    )


def text(x: float, y: float, words: str, *, anchor: str = "start", cls: str = "", title: str = "") -> str:
    """A piece of text; `title` is what a pointer shows."""
    said = f"<title>{escape(title)}</title>" if title else ""
    named = f' class="{cls}"' if cls else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{named}>{said}{escape(words)}</text>'


def line(x1: float, y1: float, x2: float, y2: float, cls: str) -> str:
    return f'<line class="{cls}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'


def clipped(words: str, length: int) -> str:
    """`words` with its middle left out when it is longer than `length`."""
    if len(words) <= length:
        return words
    head = (length - 1) * 2 // 3
    return f"{words[:head]}…{words[head + 1 - length :]}"


ROW, LABEL, RIDGE = 22, 124, 366


def ridge(edges: Sequence[float], rows: Sequence[tuple[str, bool, Sequence[int], float | None]], name: str) -> Markup:
    """Histograms under one another on one axis. Rows: (method, whether a baseline, count per bin, mean). Each has its
    own height: shapes are compared, not numbers of samples."""
    top, bottom = 4, 20
    height = top + ROW * len(rows) + bottom
    x = Axis(edges[0], edges[-1], LABEL, RIDGE - 6)
    parts = []
    whole = all(edges[k + 1] - edges[k] == 1 for k in range(len(edges) - 1))
    for tick in [tick for tick in x.ticks(4) if not whole or float(tick).is_integer()]:
        parts.append(line(x(tick), top, x(tick), height - bottom, "grid"))
        parts.append(text(x(tick), height - 5, short(tick), anchor="end" if x(tick) > RIDGE - 18 else "middle"))
    for k, (method, baseline, counts, mean) in enumerate(rows):
        floor = top + ROW * (k + 1) - 2
        words = clipped(method, 15)
        parts.append(text(LABEL - 8, floor - 3, words, anchor="end", title=method if words != method else ""))
        most = max(counts, default=0)
        if most:
            parts.append(f'<path class="{"base" if baseline else "bar"}" d="{_steps(edges, counts, most, x, floor)}"/>')
        else:
            parts.append(text(LABEL, floor - 3, "no value", cls="none"))
        if mean is not None and most:
            parts.append(line(x(mean), floor - ROW + 5, x(mean), floor + 1, "mean"))
    return svg(parts, f"Histograms of {name} for {len(rows)} methods", RIDGE, height)


def _steps(edges: Sequence[float], counts: Sequence[int], most: int, x: Axis, floor: float) -> str:
    path = [f"M{x(edges[0]):.1f} {floor:.1f}"]
    for k, count in enumerate(counts):
        path.append(f"V{floor - (ROW - 5) * count / most:.1f}H{x(edges[k + 1]):.1f}")
    return "".join([*path, f"V{floor:.1f}Z"])
