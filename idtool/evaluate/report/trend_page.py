"""The page of a history: small multiples, one for each metric and method, with intervals and breaks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import date
from itertools import groupby, pairwise
from typing import Any

from markupsafe import Markup, escape

from idtool.evaluate.report import numbers
from idtool.evaluate.report.board import ARROWS
from idtool.evaluate.report.charts import Axis, line, short, span, svg, text
from idtool.evaluate.report.html import page
from idtool.evaluate.report.ordering import AXES
from idtool.evaluate.report.trend import Trend

WIDTH, HEIGHT = 260.0, 96.0
LEFT, RIGHT, TOP, BOTTOM = 38.0, 8.0, 8.0, 18.0
Row = Mapping[str, Any]


def render(found: Trend) -> str:
    """The trend as HTML, like the report: one file, its only script its own."""
    dates = sorted({row["date"] for row in found.rows})
    return page(
        "trend.html.j2",
        trend=found,
        dates=dates,
        suites=[
            {"suite": suite, "profile": profile, "metrics": [_metric(list(rows), found) for rows in _metrics(part)]}
            for (suite, profile), part in _suites(found.rows)
        ],
    )


def _suites(rows: Sequence[Row]) -> Iterator[tuple[tuple[str, str], list[Row]]]:
    for key, part in groupby(rows, key=lambda row: (row["suite"], row["profile"])):
        yield key, list(part)


def _metrics(rows: Sequence[Row]) -> Iterator[list[Row]]:
    ordered = sorted(rows, key=lambda row: AXES.index(row["axis"]) if row["axis"] in AXES else len(AXES))
    for _, part in groupby(ordered, key=lambda row: row["metric"]):
        yield list(part)


def _metric(rows: Sequence[Row], found: Trend) -> dict[str, Any]:
    """All methods of one metric on one scale, and after them the baselines on another: they bound the metric, and would
    flatten what changes."""
    first = rows[0]
    places = numbers.decimals(rows)
    nights = sorted({row["date"] for row in rows})
    scales = {baseline: _scale(rows, baseline) for baseline in (False, True)}
    x = Axis(_day(nights[0]), max(_day(nights[-1]), _day(nights[0]) + 1), LEFT, WIDTH - RIGHT)
    key = ("suite", "profile", "metric")
    breaks = [one for one in found.breaks if all(one[name] == first[name] for name in key)]
    series = [list(part) for _, part in groupby(rows, key=lambda row: row["method"])]
    series.sort(key=lambda part: part[0]["baseline"])
    return {
        "name": first["metric"],
        "unit": "" if first["unit"] in ("1", "") else first["unit"],
        "arrow": ARROWS[first["better"]],
        "breaks": breaks,
        "panels": [
            {
                "method": part[0]["method"],
                "baseline": part[0]["baseline"],
                "latest": numbers.number(part[-1]["mean"], places),
                "interval": numbers.interval(part[-1], places),
                "change": _change(part[-1], places),
                "drawing": _panel(part, x, scales[part[0]["baseline"]], nights),
            }
            for part in series
        ],
    }


def _scale(rows: Sequence[Row], baseline: bool) -> Axis:
    keys = ("mean", "ci_low", "ci_high")
    return Axis(*span([row[key] for row in rows for key in keys if row["baseline"] == baseline]), HEIGHT - BOTTOM, TOP)


def _day(day: str) -> int:
    return date.fromisoformat(day).toordinal()


def _change(row: Row, places: int) -> str:
    if row["change"] is None:
        return ""
    sign = "+" if row["change"] > 0 else ""
    return f"{sign}{numbers.number(row['change'], places)}"


def _panel(rows: Sequence[Row], x: Axis, y: Axis, nights: Sequence[str]) -> Markup:
    floor = HEIGHT - BOTTOM
    parts = []
    for tick in y.ticks(3):
        parts.append(line(LEFT, y(tick), WIDTH - RIGHT, y(tick), "grid"))
        parts.append(text(LEFT - 5, y(tick) + 3.5, short(tick), anchor="end"))
    parts.append(text(LEFT, HEIGHT - 4, nights[0][5:]))
    if len(nights) > 1:
        parts.append(text(WIDTH - RIGHT, HEIGHT - 4, nights[-1][5:], anchor="end"))
    for before, row in pairwise(rows):
        if before["segment"] != row["segment"]:
            at = (x(_day(before["date"])) + x(_day(row["date"]))) / 2
            parts.append(line(at, TOP - 4, at, floor, "break"))
    cls = "base" if rows[0]["baseline"] else "own"
    for run in _runs(rows):
        parts += _run(run, x, y, cls)
    for row in rows:
        at = x(_day(row["date"]))
        if row["mean"] is None:
            parts.append(text(at, floor - 2, "×", anchor="middle", cls="lost", title=f"{row['date']}: no value"))
            continue
        hollow = " bad" if row["good"] is False else ""
        told = f"{row['date']}: {row['mean']:.4g}, n {row['n']}{', not a good night' if hollow else ''}"
        parts.append(_dot(at, y(row["mean"]), f"{cls}{hollow}", told))
    return svg(parts, f"{rows[0]['metric']} of {rows[0]['method']} over {len(rows)} nights", WIDTH, HEIGHT)


def _runs(rows: Sequence[Row]) -> Iterator[list[Row]]:
    """Nights that follow one another in one segment and have a value: only those are joined by a line."""
    for (_, there), part in groupby(rows, key=lambda row: (row["segment"], row["mean"] is not None)):
        if there:
            yield list(part)


def _run(run: Sequence[Row], x: Axis, y: Axis, cls: str) -> Iterator[str]:
    at = [x(_day(row["date"])) for row in run]
    if all(numbers.has_interval(row) for row in run) and len(run) > 1:
        upper = [f"{a:.1f} {y(row['ci_high']):.1f}" for a, row in zip(at, run, strict=True)]
        lower = [f"{a:.1f} {y(row['ci_low']):.1f}" for a, row in zip(at, run, strict=True)]
        yield f'<path class="band {cls}" d="M{"L".join([*upper, *reversed(lower)])}Z"/>'
    else:
        for a, row in zip(at, run, strict=True):
            if numbers.has_interval(row):
                yield line(a, y(row["ci_low"]), a, y(row["ci_high"]), f"whisker{' faint' if cls == 'base' else ''}")
    if len(run) > 1:
        points = "L".join(f"{a:.1f} {y(row['mean']):.1f}" for a, row in zip(at, run, strict=True))
        yield f'<path class="curve {cls}" d="M{points}"/>'


def _dot(x: float, y: float, cls: str, told: str) -> str:
    return f'<circle class="night {cls}" cx="{x:.1f}" cy="{y:.1f}" r="2.6"><title>{escape(told)}</title></circle>'
