"""Two metrics against each other: which methods nobody beats in both, with intervals."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from idtool.evaluate.report.charts import Axis, clipped, line, short, span, svg, text
from idtool.evaluate.report.numbers import has_interval

WIDTH, HEIGHT = 920.0, 480.0
LEFT, RIGHT, TOP, BOTTOM = 56.0, 14.0, 16.0, 46.0
CHAR, LINE = 6.6, 13.0
"""Size of a letter of a label, near enough to keep labels apart."""


@dataclass(frozen=True)
class Point:
    """A method's two means."""

    name: str
    baseline: bool
    x: Mapping[str, Any]
    """Row of the metric that runs to the right: `mean`, `ci_low`, `ci_high`."""
    y: Mapping[str, Any]


def points(data: Mapping[str, Any], across: str, up: str) -> list[Point]:
    """The methods that have a number in both metrics."""
    xs, ys = data["scores"].get(across, {}), data["scores"].get(up, {})
    return [
        Point(one["name"], one["baseline"], xs[one["name"]], ys[one["name"]])
        for one in data["methods"]
        if all(cells.get(one["name"], {}).get("mean") is not None for cells in (xs, ys))
    ]


def front(found: Sequence[Point], better: tuple[str, str]) -> list[Point]:
    """The points, baselines left out, that no other is at least as good as in both metrics and better in one; the
    worst in the first metric first."""
    signs = [-1.0 if one == "lower" else 1.0 for one in better]

    def place(point: Point) -> tuple[float, float]:
        return signs[0] * point.x["mean"], signs[1] * point.y["mean"]

    mine = [(place(point), point) for point in found if not point.baseline]
    kept = [
        (at, point)
        for at, point in mine
        if not any(other[0] >= at[0] and other[1] >= at[1] and other != at for other, _ in mine)
    ]
    return [point for _, point in sorted(kept, key=lambda one: (one[0], one[1].name))]


def pareto(found: Sequence[Point], names: tuple[str, str], better: tuple[str, str], units: tuple[str, str]) -> Markup:
    """The drawing. Axes of metrics where lower is better are turned round: up and right is always better."""
    x = _axis([point.x for point in found], better[0], LEFT, WIDTH - RIGHT)
    y = _axis([point.y for point in found], better[1], HEIGHT - BOTTOM, TOP)
    best = front(found, better)
    parts = [*_frame(x, y, names, better, units)]
    at = [(x(point.x["mean"]), y(point.y["mean"])) for point in best]
    if len(at) > 1:
        steps = "".join(f"V{b[1]:.1f}H{b[0]:.1f}" if k else f"M{b[0]:.1f} {b[1]:.1f}" for k, b in enumerate(at))
        parts.append(f'<path class="front" d="{steps}"/>')
    for point in found:
        parts += _cross(point, x, y)
    for point in found:
        cls = "base" if point.baseline else "best" if point in best else "dot"
        cx, cy = x(point.x["mean"]), y(point.y["mean"])
        parts.append(f'<circle class="{cls}" cx="{cx:.1f}" cy="{cy:.1f}" r="4.5"/>')
    parts += _labels(found, best, x, y)
    return svg(parts, f"{names[0]} against {names[1]} of {len(found)} methods", WIDTH, HEIGHT)


def _axis(cells: Sequence[Mapping[str, Any]], better: str, start: float, end: float) -> Axis:
    low, high = span([value for cell in cells for value in (cell["mean"], cell.get("ci_low"), cell.get("ci_high"))])
    return Axis(high, low, start, end) if better == "lower" else Axis(low, high, start, end)


def _frame(x: Axis, y: Axis, names: tuple[str, str], better: tuple[str, str], units: tuple[str, str]) -> Iterator[str]:
    floor, edge = HEIGHT - BOTTOM, WIDTH - RIGHT
    for tick in _ticks(x):
        yield line(x(tick), TOP, x(tick), floor, "grid")
        yield text(x(tick), floor + 17, short(tick), anchor="middle")
    for tick in _ticks(y):
        yield line(LEFT, y(tick), edge, y(tick), "grid")
        yield text(LEFT - 8, y(tick) + 4, short(tick), anchor="end")
    titles = [f"{name}{_unit(unit)}{_turned(how)}" for name, unit, how in zip(names, units, better, strict=True)]
    yield text(edge, HEIGHT - 6, f"{titles[0]} →", anchor="end", cls="title")
    yield text(LEFT + 6, TOP + 8, f"↑ {titles[1]}", cls="title")


def _ticks(axis: Axis) -> list[float]:
    low, high = sorted((axis.low, axis.high))
    return Axis(low, high, axis.start, axis.end).ticks(6)


def _unit(unit: str) -> str:
    return "" if unit in ("", "1") else f", {unit}"


def _turned(better: str) -> str:
    return ", falling: lower is better" if better == "lower" else ""


def _cross(point: Point, x: Axis, y: Axis) -> Iterator[str]:
    cx, cy = x(point.x["mean"]), y(point.y["mean"])
    cls = "whisker faint" if point.baseline else "whisker"
    if has_interval(point.x):
        yield line(x(point.x["ci_low"]), cy, x(point.x["ci_high"]), cy, cls)
    if has_interval(point.y):
        yield line(cx, y(point.y["ci_low"]), cx, y(point.y["ci_high"]), cls)


def _labels(found: Sequence[Point], best: Sequence[Point], x: Axis, y: Axis) -> Iterator[str]:
    """Names beside their points, where they cover neither a point nor another name; with a line to the point where
    they had to move away. Points of the front choose first."""
    dots = [(x(point.x["mean"]), y(point.y["mean"])) for point in found]
    taken = [(cx - 5, cy - 5, cx + 5, cy + 5) for cx, cy in dots]
    for point in sorted(found, key=lambda one: (one not in best, one.baseline)):
        words = clipped(point.name, 28)
        cx, cy = x(point.x["mean"]), y(point.y["mean"])
        place = _free(cx, cy, len(words) * CHAR, taken)
        if place is None:
            continue
        left, middle, moved, anchor = place
        taken.append(_box(left, middle, len(words) * CHAR, anchor))
        if moved:
            yield line(cx, cy, left, middle, "lead")
        cls = "name base" if point.baseline else "name best" if point in best else "name"
        yield text(left, middle + 4, words, anchor=anchor, cls=cls, title=point.name if words != point.name else "")


def _free(
    cx: float, cy: float, width: float, taken: Sequence[tuple[float, float, float, float]]
) -> tuple[float, float, bool, str] | None:
    """Where a label has room: x, y of its middle line, whether it is away from its point, and how it is anchored."""
    for radius in (9, 16, 26, 40, 58, 80, 110, 150):
        for turn in (35, 325, 145, 215, 0, 180, 90, 270, 15, 345, 165, 195, 60, 120, 240, 300):
            dx, dy = math.cos(math.radians(turn)), -math.sin(math.radians(turn))
            anchor = "middle" if abs(dx) < 0.01 else "start" if dx > 0 else "end"
            left, middle = cx + radius * dx, cy + (radius + 2) * dy
            box = _box(left, middle, width, anchor)
            inside = box[0] >= LEFT and box[2] <= WIDTH - RIGHT and box[1] >= TOP + 12 and box[3] <= HEIGHT - BOTTOM
            if inside and not any(_overlap(box, other) for other in taken):
                return left, middle, radius > 20, anchor
    return None


def _box(left: float, middle: float, width: float, anchor: str) -> tuple[float, float, float, float]:
    start = left - {"start": 0.0, "middle": width / 2, "end": width}[anchor]
    return start, middle - LINE / 2, start + width, middle + LINE / 2


def _overlap(a: tuple[float, float, float, float], b: tuple[float, float, float, float]) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
