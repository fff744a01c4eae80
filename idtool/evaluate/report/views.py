"""What the page shows besides the leaderboard: slices, histograms, failures, all numbers, definitions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from markupsafe import Markup

from idtool import __version__
from idtool.evaluate.report import numbers
from idtool.evaluate.report.charts import Axis, ridge
from idtool.evaluate.report.distributions import Scores

Data = Mapping[str, Any]
Row = dict[str, Any]


def slices(data: Data) -> list[Row]:
    """Per slice, `name` and `tables`: one for each metric of the headline, with bars that start at zero."""
    found: dict[str, list[Row]] = {}
    for entry in data["slices"]:
        cells = [cell for cells in entry["cells"].values() for cell in cells.values()]
        known = any(cell["mean"] is not None for cell in cells)
        if entry["metric"] in data["headline"] and len(entry["values"]) > 1 and known:
            found.setdefault(entry["slice"], []).append(_slice(data, entry))
    return [{"name": name, "tables": tables} for name, tables in found.items()]


def _slice(data: Data, entry: Row) -> Row:
    rows = [cell for cells in entry["cells"].values() for cell in cells.values()]
    places = numbers.decimals(rows)
    ends = [row[key] for row in rows for key in ("mean", "ci_low", "ci_high") if row[key] is not None]
    scale = Axis(min([0.0, *ends]), max([0.0, *ends]), 0, 100)
    lines = [
        {
            "method": one["name"],
            "baseline": one["baseline"],
            "cells": [_bar(entry["cells"][one["name"]].get(value), places, scale) for value in entry["values"]],
        }
        for one in data["methods"]
        if one["name"] in entry["cells"]
    ]
    metric = entry["metric"]
    return {"metric": metric, "primary": metric in data["primary"].values(), "values": entry["values"], "rows": lines}


def _bar(row: Mapping[str, Any] | None, places: int, scale: Axis) -> Row:
    if row is None or row["mean"] is None:
        return {"mean": "–", "interval": "", "n": row["n"] if row else 0, "left": None, "low": None}
    zero, at = scale(0.0), scale(row["mean"])
    bars = numbers.has_interval(row)
    return {
        "mean": numbers.number(row["mean"], places),
        "interval": numbers.interval(row, places),
        "n": row["n"],
        "left": round(min(zero, at), 2),
        "wide": round(abs(at - zero), 2),
        "low": round(scale(row["ci_low"]), 2) if bars else None,
        "span": round(scale(row["ci_high"]) - scale(row["ci_low"]), 2) if bars else None,
    }


def histograms(data: Data, scores: Scores) -> list[tuple[Row, Markup]]:
    """Metric and its drawing, for every metric that has scores of samples or identities."""
    found = []
    for metric in data["metrics"]:
        one = scores.distributions.get(metric["name"])
        if one is None:
            continue
        means = data["scores"][metric["name"]]
        rows = [
            (
                method["name"],
                method["baseline"],
                [int(count) for count in one.counts.get(method["name"], [])],
                means.get(method["name"], {}).get("mean"),
            )
            for method in data["methods"]
            if method["name"] in one.counts or method["name"] in means
        ]
        found.append((metric, ridge([float(edge) for edge in one.edges], rows, metric["name"])))
    return found


def failures(data: Data) -> list[Row]:
    """A line per method: what was asked for, what came of it, and why the rest did not."""
    keys = ("requested", "made", "rejected", "errors")
    return [
        {
            "name": one["name"],
            "state": one["state"],
            "why": one["why"] or "",
            **{key: one[key] for key in keys},
            "reasons": sorted((one["reasons"] or {}).items(), key=lambda pair: (-pair[1], pair[0])),
        }
        for one in data["methods"]
    ]


def unscored(data: Data) -> list[Row]:
    """`metric, method, total, reasons` wherever scores are missing."""
    found = []
    for metric in data["metrics"]:
        for method, row in data["scores"][metric["name"]].items():
            if row["n_missing"]:
                reasons = Counter({str(why): int(n) for why, n in row["missing"].items()}).most_common()
                line = {"metric": metric["name"], "method": method, "total": row["n_missing"], "reasons": reasons}
                found.append({**line, "of": (row["n"] or 0) + row["n_missing"]})
    return found


def everything(data: Data) -> list[Row]:
    """Per metric, `name`, `best` (whom the others are compared with) and `rows`, all that report.parquet says."""
    found = []
    order = [one["name"] for one in data["methods"]]
    for metric in data["metrics"]:
        cells = data["scores"][metric["name"]]
        places = numbers.decimals(cells.values())
        rows = [_numbers(cells[name], places) for name in order if name in cells]
        found.append({"name": metric["name"], "rows": rows})
    return found


def _numbers(row: Mapping[str, Any], places: int) -> Row:
    digits = ("mean", "median", "std", "mean_common", "diff_best", "mdd")
    return {
        "method": row["method"],
        "baseline": row["baseline"],
        **{key: numbers.number(row[key], places) for key in digits},
        "interval": numbers.interval(row, places) or "–",
        **{key: numbers.number(row[key], 0) for key in ("n", "n_missing", "n_identities", "n_common", "rank")},
        "letters": row["letters"] or "–",
        "p": numbers.probability(row["p_best_corrected"]),
        "wins": numbers.percent(row["win_rate_best"]),
        "note": row["note"] or "",
    }


def definitions(data: Data) -> list[Row]:
    """How each number was made: the metric's entry with its bounds in words, its facts flat, and what the suite can
    show of it."""
    return [
        {
            **metric,
            "definition": _documented(metric["family"]) if data["idtool"] == __version__ else "",
            "range": _range(metric["bounds"]),
            "facts": [
                {"measure": name, "facts": sorted(flat(facts).items())}
                for name, facts in (metric.get("measures") or {}).items()
            ],
            "settings": sorted(flat(metric.get("settings") or {}).items()),
            "mdd": detectable(data, metric["name"]),
        }
        for metric in data["metrics"]
    ]


def detectable(data: Data, metric: str) -> str:
    """The middle of the minimum detectable differences of the methods from the best one; empty where none is known."""
    rows = data["scores"][metric].values()
    known = sorted(row["mdd"] for row in rows if row["mdd"] is not None)
    return numbers.number(known[len(known) // 2], numbers.decimals(rows)) if known else ""


def _documented(family: str) -> str:
    """What the metric's class says of itself; empty for one that this installation does not have."""
    import inspect

    from idtool.evaluate.metrics import METRICS

    return (inspect.getdoc(METRICS.get(family)) or "") if family in METRICS else ""


def _range(bounds: Any) -> str:
    low, high = bounds if bounds else (None, None)
    if low is None and high is None:
        return "unbounded"
    if low is None or high is None:
        return f"at least {low:g}" if high is None else f"at most {high:g}"
    return f"{numbers.number(low)} to {numbers.number(high)}"


def flat(facts: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested facts as one level, `a.b` -> text."""
    found: dict[str, str] = {}
    for key, value in facts.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            found |= flat(value, f"{name}.")
        elif value is not None:
            found[name] = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    return found
