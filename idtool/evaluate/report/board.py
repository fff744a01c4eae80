"""The leaderboard as tables of cells: what a page or a text prints of each mean."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from idtool.evaluate.report import numbers
from idtool.evaluate.report.charts import Axis, span
from idtool.evaluate.statistics.letters import ALPHABET

ARROWS = {"higher": "↑", "lower": "↓", "neither": ""}
Data = Mapping[str, Any]


def boards(data: Data) -> list[dict[str, Any]]:
    """`title, columns`: the headline first, then the metrics of each axis where the headline leaves any out."""
    by_name = {one["name"]: one for one in data["metrics"]}
    first = {"title": "", "columns": [column(data, by_name[name]) for name in data["headline"]]}
    if len(data["headline"]) == len(data["metrics"]):
        return [first]
    axes = dict.fromkeys(one["axis"] for one in data["metrics"])
    return [first] + [
        {"title": axis, "columns": [column(data, one) for one in data["metrics"] if one["axis"] == axis]}
        for axis in axes
    ]


def column(data: Data, metric: Mapping[str, Any]) -> dict[str, Any]:
    """One metric: its heading, and `cells`, method -> what is printed."""
    name = metric["name"]
    rows = data["scores"].get(name, {})
    places = numbers.decimals(rows.values())
    moved, firsts = _moved(rows, metric["better"]), _firsts(rows) if not metric["random"] else set()
    scale = Axis(*span([row[key] for row in rows.values() for key in ("mean", "ci_low", "ci_high")]), 0, 100)
    return {
        "name": name,
        "family": metric["family"],
        "network": metric["network"],
        "unit": "" if metric["unit"] in ("1", "") else metric["unit"],
        "arrow": ARROWS[metric["better"]],
        "better": metric["better"],
        "axis": metric["axis"],
        "primary": name in data["primary"].values(),
        "places": places,
        "random": metric["random"],
        "moved": bool(moved),
        "cells": {method: _cell(row, places, scale, method in moved, method in firsts) for method, row in rows.items()},
    }


def notes(data: Data) -> list[tuple[str, str]]:
    """What is to be known of the numbers: a note, and of which metrics it holds; in brackets the methods, where it is
    not all of them."""
    of: dict[str, list[str]] = {}
    for metric, rows in data["scores"].items():
        mine: dict[str, list[str]] = {}
        for method, row in rows.items():
            for note in filter(None, (row["note"] or "").split("; ")):
                mine.setdefault(note, []).append(method)
        for note, methods in mine.items():
            where = "" if len(methods) == len(rows) else f" ({_listed(methods)})"
            of.setdefault(f"{note}{where}", []).append(metric)
    count = len(data["scores"])
    return [(note, "every metric" if len(metrics) == count else _listed(metrics)) for note, metrics in of.items()]


def _listed(names: Sequence[str], shown: int = 4) -> str:
    """`a, b, c, d and 3 more`."""
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return ", ".join(names[:shown]) + more


def _moved(rows: Mapping[str, Mapping[str, Any]], better: str) -> set[str]:
    """Methods that the common samples, which rank them, put at another place than the means that are printed."""
    ranked = {name: row for name, row in rows.items() if row["rank"] is not None and row["mean"] is not None}
    sign = 1 if better == "lower" else -1
    means = [sign * row["mean"] for row in ranked.values()]
    return {name for name, row in ranked.items() if row["rank"] != 1 + sum(mean < sign * row["mean"] for mean in means)}


def _firsts(rows: Mapping[str, Mapping[str, Any]]) -> set[str]:
    """The methods of rank 1; none where most that have a rank share it. Baselines have one where nothing else ran, and
    still are not best."""
    ranked = [name for name, row in rows.items() if row["rank"] is not None and not row["baseline"]]
    found = {name for name in ranked if rows[name]["rank"] == 1}
    return found if 2 * len(found) <= len(ranked) or len(ranked) == 1 else set()


def _cell(row: Mapping[str, Any], places: int, scale: Axis, moved: bool, first: bool) -> dict[str, Any]:
    mean = row["mean"]
    bars = numbers.has_interval(row)
    return {
        "mean": numbers.number(mean, places),
        "common": numbers.number(row["mean_common"], places) if moved and row["mean_common"] is not None else "",
        "value": mean,
        "interval": numbers.interval(row, places) or _spread(row, places),
        "letters": letters(row["letters"] or ""),
        "best": first,
        "missing": row["n_missing"] or 0,
        "reasons": "; ".join(f"{reason} ({n})" for reason, n in _most(row["missing"])),
        "same": bool(row["conditions_on_same"]),
        "at": None if mean is None else round(scale(mean), 2),
        "from": round(scale(row["ci_low"]), 2) if bars else None,
        "wide": round(scale(row["ci_high"]) - scale(row["ci_low"]), 2) if bars else None,
        "title": _title(row, places),
    }


def letters(text: str) -> str:
    """Letters of a compact display, runs of four and more as `e–k`."""
    runs: list[list[int]] = []
    for place in map(ALPHABET.find, text):
        if runs and place == runs[-1][-1] + 1:
            runs[-1].append(place)
        else:
            runs.append([place])
    if any(place < 0 for run in runs for place in run):
        return text  # beyond the alphabet
    spelled = ["".join(ALPHABET[k] for k in run) for run in runs]
    return "".join(run if len(run) < 4 else f"{run[0]}–{run[-1]}" for run in spelled)


def _spread(row: Mapping[str, Any], places: int) -> str:
    return f"± {numbers.number(row['std'], places)}" if row["mean"] is not None and row["std"] is not None else ""


def _most(reasons: Mapping[str, int], shown: int = 4) -> Sequence[tuple[str, int]]:
    return sorted(reasons.items(), key=lambda one: (-one[1], one[0]))[:shown]


def _title(row: Mapping[str, Any], places: int) -> str:
    """What a pointer on the cell shows: how many, and the mean on the samples that all methods have."""
    parts = [numbers.count(row["n"] or 0, "sample")]
    if row["n_identities"]:
        parts.append(numbers.count(row["n_identities"], "identity", "identities"))
    if row["mean_common"] is not None and row["n_common"] != row["n"]:
        parts.append(f"{numbers.number(row['mean_common'], places)} on the {row['n_common']} that all methods have")
    return "; ".join(parts)
