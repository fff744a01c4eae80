"""The samples at both ends of a metric, for every method."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from idtool.evaluate.report.data import SAMPLES
from idtool.evaluate.report.distributions import Case, Scores
from idtool.evaluate.report.grids import UNFIT, samples
from idtool.evaluate.report.pictures import Pictures, cost, side_for

MOST = 4
"""Samples at each end."""
SIDES = (160, 128, 112, 96, 80)
Row = dict[str, Any]


def cases(data: Mapping[str, Any], scores: Scores, pictures: Pictures, budget: int) -> list[Row]:
    """`metric, rows` for the metrics of the headline that single samples have; a row per method: `method, baseline,
    best, worst`, lists of `name` (of the picture), `reference`, `value, prompt, identity, media, blurred`. Metrics and
    methods whose samples all score alike are left out."""
    names = [name for name in data["headline"] if _directed(data, name)]
    ends = {
        (metric, one["name"]): both
        for metric in names
        for one in data["methods"]
        if (both := _ends(scores, metric, one["name"], _better(data, metric)))
    }
    each, side = _plan(ends, budget)
    ends = {key: (best[:each], worst[:each]) for key, (best, worst) in ends.items()}
    rows = samples(
        Path(data["bench"]) / SAMPLES, [case.sample for both in ends.values() for end in both for case in end]
    )
    found = []
    for metric in names:
        lines = []
        for one in data["methods"]:
            if (metric, one["name"]) in ends:
                best, worst = ends[metric, one["name"]]
                lines.append(
                    {
                        "method": one["name"],
                        "baseline": one["baseline"],
                        "best": [_told(case, rows.get((case.sample, one["name"])), pictures, side) for case in best],
                        "worst": [_told(case, rows.get((case.sample, one["name"])), pictures, side) for case in worst],
                    }
                )
        if lines:
            found.append({"metric": metric, "rows": lines})
    return found


def _directed(data: Mapping[str, Any], name: str) -> bool:
    metric = next(one for one in data["metrics"] if one["name"] == name)
    return bool(metric["better"] != "neither" and metric["per"] == "sample" and metric["axis"] != "cost")


def _better(data: Mapping[str, Any], name: str) -> str:
    return str(next(one["better"] for one in data["metrics"] if one["name"] == name))


def _ends(scores: Scores, metric: str, method: str, better: str) -> tuple[list[Case], list[Case]] | None:
    """The best and the worst samples, each end with one of each identity as long as there are enough."""
    low, high = scores.lowest.get((metric, method), []), scores.highest.get((metric, method), [])
    if not low or low[0].value == high[0].value:
        return None
    best, worst = (low, high) if better == "lower" else (high, low)
    half = max(1, len(low) // 2)  # of few samples, none stands at both ends
    return _spread(best[:half]), _spread(worst[:half])


def _spread(pool: Sequence[Case]) -> list[Case]:
    first = list({case.identity: case for case in reversed(pool)}.values())
    chosen = [case for case in pool if case in first][:MOST]
    chosen += [case for case in pool if case not in chosen][: MOST - len(chosen)]
    return [case for case in pool if case in chosen]


def _plan(ends: Mapping[tuple[str, str], tuple[list[Case], list[Case]]], budget: int) -> tuple[int, int]:
    """How many samples at each end, and how large, so that the pictures fit."""
    for each in range(MOST, 1, -1):
        count = len({(key[1], case.sample) for key, both in ends.items() for end in both for case in end[:each]})
        side = side_for(count, budget, SIDES)
        if count * cost(side) <= budget:
            return each, side
    return 1, SIDES[-1]


def _told(case: Case, row: Row | None, pictures: Pictures, side: int) -> Row:
    row = row or {"media": None, "references": [], "prompt": "", "nsfw": None}
    reference = row["references"][0] if row["references"] else None
    return {
        "name": pictures.use(row["media"], side),
        "reference": pictures.use(reference, SIDES[-1]),
        "media": row["media"],
        "value": case.value,
        "identity": case.identity,
        "prompt": row["prompt"],
        "blurred": (row["nsfw"] or 0.0) > UNFIT,
    }
