"""All that is said of one metric in one slice: every method's numbers, every pair's difference, who is best."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np

from idtool.evaluate.statistics.bootstrap import Statistic, itself, percentile_interval, resamples, totals
from idtool.evaluate.statistics.letters import compact_letters
from idtool.evaluate.statistics.matrix import Matrix
from idtool.evaluate.statistics.paired import Differences, Pair, differences

ALPHA = 0.05
FEW = 6
"""Below so many identities a 95 % interval covers less than 92 % (simulated), and the smallest p-value that flips of so
few can give, 2^(1 - n), is above 0.05."""
SIGN = {"higher": 1, "lower": -1, "neither": 0}

Row = dict[str, Any]


@dataclass(frozen=True)
class Summary:
    """One metric in one slice."""

    methods: dict[str, Row]
    """Method -> columns of report.parquet that are statistics."""
    pairs: list[Row]
    """Columns of pairs.parquet."""


def summarise(
    matrix: Matrix,
    better: str,
    *,
    complete: Collection[str],
    ranked: Collection[str],
    statistic: Statistic = itself,
    seed: int = 0,
) -> Summary:
    """Statistics of every method of the matrix.

    `complete`: methods that ran through: the common samples are those that all of them have that have any at all.
    `ranked`: methods that can be the best.
    """
    rows = {name: _own(matrix, k) for k, name in enumerate(matrix.methods)}
    sums, counts = totals(matrix.values, matrix.starts)
    with np.errstate(invalid="ignore", divide="ignore"):
        means = statistic(sums.sum(axis=1) / counts.sum(axis=1))
    present = (counts[0] > 0).sum(axis=0)
    drawn = resamples(len(matrix.starts), seed).means(sums, counts, statistic)
    low, high, se = percentile_interval(drawn, present)
    for k, name in enumerate(matrix.methods):
        rows[name] |= {
            "n_identities": int(present[k]),
            "mean": _number(means[k]),
            "ci_low": _number(low[k]),
            "ci_high": _number(high[k]),
            "se": _number(se[k]),
            "notes": _notes(int(present[k])),
        }
        absent = [part for p, part in enumerate(matrix.parts) if not counts[p, :, k].any()]
        if absent and present[k]:
            rows[name]["notes"].append(f"made without {', '.join(absent)}, which no sample has")
        if rows[name]["se"] == 0:
            rows[name]["notes"].append("every identity has the same mean: the interval has no width")
    _common(matrix, rows, complete, statistic)
    names = [name for name in matrix.methods if rows[name]["mean"] is not None]
    places = {name: k for k, name in enumerate(matrix.methods)}
    pairs = list(combinations([places[name] for name in names], 2))
    found = differences(matrix.values, matrix.starts, pairs, better=SIGN[better], statistic=statistic, seed=seed)
    _ranks(rows, [name for name in names if name in ranked], SIGN[better])
    _letters(rows, names, found, pairs, matrix.methods, SIGN[better])
    _against_best(rows, found, {pair: k for k, pair in enumerate(pairs)}, places)
    return Summary(rows, [_pair(found, k, pair, matrix.methods) for k, pair in enumerate(pairs)])


def _own(matrix: Matrix, k: int) -> Row:
    """Counts and spread of a method's samples."""
    there = matrix.scored[:, k]
    found: Row = {
        "n": int(there.sum()),
        "n_missing": int((matrix.asked[:, k] & ~there).sum()),
        "missing": matrix.missing(k),
        **dict.fromkeys(("std", "median", "min", "max")),
    }
    values = matrix.values[0, there, k]
    if len(values):
        found |= {"median": float(np.median(values)), "min": float(values.min()), "max": float(values.max())}
        found["std"] = float(values.std(ddof=1)) if len(values) > 1 else None
    return found


def _common(matrix: Matrix, rows: dict[str, Row], complete: Collection[str], statistic: Statistic) -> None:
    """Means over the samples that every method has that ran through and has any."""
    deciding = [k for k, name in enumerate(matrix.methods) if name in complete and rows[name]["n"]]
    common = matrix.scored[:, deciding].all(axis=1) if deciding else np.zeros(len(matrix.keys), bool)
    count = int(common.sum())
    means = np.full(len(matrix.methods), np.nan)
    if count:
        sums, counts = totals(matrix.values[:, common], np.zeros(1, np.intp))
        with np.errstate(invalid="ignore", divide="ignore"):
            means = statistic((sums / counts)[:, 0])
    asked = int(matrix.asked.any(axis=1).sum())
    worst = max(deciding, key=lambda k: rows[matrix.methods[k]]["n_missing"], default=None)
    for k, name in enumerate(matrix.methods):
        rows[name] |= {"n_common": count, "mean_common": _number(means[k])}
        if worst is not None and count < asked / 2:
            lost = rows[matrix.methods[worst]]["n_missing"]
            rows[name]["notes"].append(
                f"only {count} of {asked} samples are common to all methods ({matrix.methods[worst]} lacks {lost})"
            )


def _ranks(rows: dict[str, Row], names: Sequence[str], sign: int) -> None:
    for row in rows.values():
        row["rank"] = None
    by = "mean_common" if all(rows[name]["mean_common"] is not None for name in names) else "mean"
    for name in names if sign else ():
        rows[name]["rank"] = 1 + sum(sign * (rows[other][by] - rows[name][by]) > 0 for other in names)


def _letters(
    rows: dict[str, Row],
    names: Sequence[str],
    found: Differences,
    pairs: Sequence[Pair],
    methods: Sequence[str],
    sign: int,
) -> None:
    different = [(methods[i], methods[j]) for (i, j), p in zip(pairs, found.p_corrected, strict=True) if p < ALPHA]
    order = sorted(names, key=lambda name: (-(sign or 1) * rows[name]["mean"], name))
    letters = compact_letters(order, different)
    for name, row in rows.items():
        row["letters"] = letters.get(name)


def _against_best(rows: dict[str, Row], found: Differences, number: dict[Pair, int], place: dict[str, int]) -> None:
    """Differences from the method of rank 1, and what the suite can tell apart."""
    order = sorted((row["rank"], name) for name, row in rows.items() if row["rank"] is not None)
    best = order[0][1] if order else None
    for name, row in rows.items():
        keys = (
            "diff_best",
            "diff_best_low",
            "diff_best_high",
            "p_best",
            "p_best_corrected",
            "p_best_holm",
            "win_rate_best",
            "mdd",
        )
        row |= {"best": best, **dict.fromkeys(keys)}
        other = best if name != best else next((second for _, second in order[1:]), None)
        if best is None or other is None or row["mean"] is None:
            continue
        i, j = sorted((place[name], place[other]))
        one = found.row(number[i, j])
        row["mdd"] = one["mdd"]
        if name == best or not one["n"]:
            continue
        first = place[name] == i
        ends = [one["low"], one["high"]] if first else [_minus(one["high"]), _minus(one["low"])]
        row |= {
            "diff_best": one["difference"] if first else _minus(one["difference"]),
            "diff_best_low": ends[0],
            "diff_best_high": ends[1],
            "p_best": one["p"],
            "p_best_corrected": one["p_corrected"],
            "p_best_holm": one["p_holm"],
            "win_rate_best": one["win_rate"] if first or one["win_rate"] is None else 1 - one["win_rate"],
        }


def _pair(found: Differences, k: int, pair: Pair, methods: Sequence[str]) -> Row:
    one = found.row(k)
    named = {"method_a": methods[pair[0]], "method_b": methods[pair[1]], "n_identities": one.pop("clusters")}
    return {**named, "ci_low": one.pop("low"), "ci_high": one.pop("high"), **one}


def _notes(clusters: int) -> list[str]:
    if clusters == 0:
        return ["no value"]
    if clusters == 1:
        return ["one identity only: no interval and no test"]
    if clusters < FEW:
        least = f"no p-value can be below {2.0 ** (1 - clusters):g}"
        return [f"{clusters} identities only: the interval is too narrow, and {least}"]
    return []


def _number(value: Any) -> float | None:
    return float(value) if np.isfinite(value) else None


def _minus(value: float | None) -> float | None:
    return None if value is None else 0.0 - value
