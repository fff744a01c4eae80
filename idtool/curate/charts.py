"""Small charts as inline SVG. Colours come from the page's style sheet by class, so that they follow light and dark."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup, escape

WIDTH, HEIGHT = 340, 160
WIDE = 1040
MAX_BAR = 40
LEFT, RIGHT, TOP, BOTTOM = 36, 8, 26, 24


def number(value: float | int | None) -> str:
    """`12345` -> `12 345` (thin spaces); fractions with three significant digits; None as a dash."""
    if value is None:
        return "–"
    if 1e3 <= abs(value) < 1e15 or (float(value).is_integer() and abs(value) < 1e15):
        return f"{round(value):,}".replace(",", "\u2009")
    return f"{value:.3g}"


def seconds(value: float | None) -> str:
    """`75.2` -> `1 min 15 s`."""
    if value is None:
        return "–"
    if value < 10:
        return f"{value:.1f} s"
    whole = round(value)
    hours, minutes, rest = whole // 3600, whole // 60 % 60, whole % 60
    parts = [(hours, "h"), (minutes, "min"), (rest, "s" if not hours else "")]
    return " ".join(f"{amount} {unit}" for amount, unit in parts if amount and unit) or "0 s"


def ticks(low: float, high: float, count: int = 5, *, whole: bool = False) -> list[float]:
    """Round numbers between `low` and `high`, about `count` of them; `whole`: only whole ones."""
    if not high > low:
        return [low]
    raw = (high - low) / count
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= raw)
    step = max(1.0, math.ceil(step)) if whole else step
    first = math.ceil(low / step)
    return [round(index * step, 10) for index in range(first, math.floor(high / step) + 1)]


def histogram(chart: Mapping[str, Any], title: str) -> Markup:
    """Stacked bars per bin, one class per series (`kept`, `rejected`, `other`), and a labelled line per bound."""
    edges, series = chart["edges"], chart["series"]
    totals = [sum(values) for values in zip(*series.values(), strict=True)]
    top = max([*totals, 1])
    span = edges[-1] - edges[0]
    inner_width, inner_height = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM

    def x(value: float) -> float:
        return float(LEFT + (value - edges[0]) / span * inner_width)

    def y(count: float) -> float:
        return float(TOP + inner_height * (1 - count / top))

    parts = [_axis_y(top, y), _axis_x(edges[0], edges[-1], x, chart["whole"])]
    for index in range(len(edges) - 1):
        base = 0
        left, right = x(edges[index]), x(edges[index + 1])
        if right - left > MAX_BAR:
            left, right = (left + right - MAX_BAR) / 2, (left + right + MAX_BAR) / 2
        for name, values in series.items():
            if values[index]:
                bar = f'x="{left + 0.5:.1f}" y="{y(base + values[index]):.1f}" width="{max(right - left - 1, 1):.1f}"'
                parts.append(f'<rect class="{name}" {bar} height="{y(base) - y(base + values[index]):.1f}"/>')
            base += values[index]
    for bound in chart["bounds"]:
        at = x(bound["value"])
        anchor = "end" if at > WIDTH * 0.8 else "start"
        shift = -4 if anchor == "end" else 4
        parts.append(f'<line class="bound" x1="{at:.1f}" x2="{at:.1f}" y1="{TOP - 8}" y2="{TOP + inner_height}"/>')
        text = escape(bound["text"])
        parts.append(f'<text class="bound" x="{at + shift:.1f}" y="{TOP - 10}" text-anchor="{anchor}">{text}</text>')
    return _svg(parts, f"{title}: histogram of {sum(totals)} values", HEIGHT)


def _axis_y(top: int, y: Any) -> str:
    lines = []
    for tick in ticks(0, top, 3, whole=True):
        lines.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y(tick):.1f}" y2="{y(tick):.1f}"/>')
        lines.append(f'<text x="{LEFT - 6}" y="{y(tick) + 4:.1f}" text-anchor="end">{_short(tick)}</text>')
    return "".join(lines)


def _axis_x(low: float, high: float, x: Any, whole: bool) -> str:
    texts = []
    for tick in ticks(low, high, whole=whole):
        # At the right edge the text ends where the axis does, or it would be cut off.
        anchor = "end" if x(tick) > WIDTH - 20 else "middle"
        texts.append(f'<text x="{x(tick):.1f}" y="{HEIGHT - 6}" text-anchor="{anchor}">{tick:g}</text>')
    return "".join(texts)


def _short(value: float) -> str:
    for limit, unit in ((1e6, "M"), (1e3, "k")):
        if value >= limit:
            return f"{value / limit:g}{unit}"
    return f"{value:g}"


def sizes(rows: Sequence[Mapping[str, Any]], title: str) -> Markup:
    """One column per identity, largest first: images above the line, pairs below it."""
    inner_width, half = WIDE - LEFT - RIGHT, (HEIGHT - TOP - BOTTOM) / 2 + 12
    width = min(inner_width / max(len(rows), 1), MAX_BAR)
    top = {name: max([row[name] for row in rows] + [1]) for name in ("images", "pairs")}
    middle = TOP + half
    parts = []
    for index, row in enumerate(rows):
        left = LEFT + index * width
        up, down = row["images"] / top["images"] * half, row["pairs"] / top["pairs"] * half
        label = escape(f"{row['identity']}: {row['images']} images, {row['pairs']} pairs")
        box = f'x="{left + 1:.1f}" width="{max(width - 2, 1):.1f}"'
        parts.append(
            f"<g><title>{label}</title>"
            f'<rect class="kept" {box} y="{middle - up - 1:.1f}" height="{up:.1f}"/>'
            f'<rect class="pairs" {box} y="{middle + 1:.1f}" height="{down:.1f}"/></g>'
        )
    parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDE - RIGHT}" y1="{middle}" y2="{middle}"/>')
    for name, at in (("images", TOP + 4), ("pairs", middle + half)):
        parts.append(f'<text x="{LEFT - 6}" y="{at:.1f}" text-anchor="end">{number(top[name])}</text>')
    return _svg(parts, title, int(middle + half + 8), WIDE)


def _svg(parts: Sequence[str], label: str, height: int, width: int = WIDTH) -> Markup:
    # Every number was formatted here and every text escaped above.
    return Markup(  # noqa: S704
        f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{escape(label)}">{"".join(parts)}</svg>'
    )
