"""Two benchmarks of one suite, compared: what changed, how sure that is, and whether it breaks a rule."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from idtool.errors import QualityError, UsageError
from idtool.evaluate.regression import Rules, load_rules, violations
from idtool.evaluate.report_schema import ALL, REPORT, VERSION
from idtool.evaluate.statistics.derived import Derived, Parts, known, parts_of
from idtool.evaluate.statistics.matrix import read_matrix, side_by_side
from idtool.evaluate.statistics.paired import differences
from idtool.evaluate.statistics.summary import ALPHA, SIGN

Row = dict[str, Any]
Key = tuple[str, str, str, str]
"""metric, method, slice, slice_value."""
UNKNOWN = ("difference", "ci_low", "ci_high", "se", "p", "n", "n_identities", "how", "verdict")


@dataclass(frozen=True)
class Side:
    """One of the two."""

    path: Path
    rows: Mapping[Key, Row]
    scores: Path | None
    """Scores of single samples, where they are there."""

    @property
    def metrics(self) -> dict[str, Row]:
        """Metric -> its family and its fingerprint."""
        return {key[0]: {name: row[name] for name in ("family", "fingerprint")} for key, row in self.rows.items()}

    def one(self, column: str) -> Any:
        """The value that all rows have. UsageError where they have several."""
        found = {row[column] for row in self.rows.values()}
        if len(found) > 1:
            raise UsageError(f"{self.path} mixes reports of several {column}: {', '.join(sorted(found))}.")
        return next(iter(found))


def compare(
    a: Path | None,
    b: Path,
    rules: Path | Rules | None = None,
    *,
    force: bool = False,
    seed: int = 0,
    derived: Derived | None = None,
) -> dict[str, Any]:
    """Compare two benchmark folders, or two report.parquet. With the scores of both, on the samples that both scored
    (paired, by identity); else as if they were independent, which sees less.

    `a`: what was before; None: only limits that need no before are checked. `rules`: regression.yaml, or what was read
    from it. `force`: compare in spite of another suite, profile or metric fingerprint, which is a UsageError otherwise.
    `derived`: as for `write_report_table`.

    Returns `a`, `b`, `notes`, `violations` (as `regression.violations` makes them) and `differences`, of all samples
    first, then of slices: metric, method, slice, slice_value, unit, better; before, after, n_before, n_after,
    missing_before, missing_after (of each report as it is); n, n_identities, difference (after - before), ci_low,
    ci_high, se, p; how (paired, independent or null), verdict (better, worse, changed, same, unclear or null), note.
    Raises QualityError with all of it in `details` when a rule is broken.
    """
    limits = load_rules(rules) if isinstance(rules, Path) else rules
    after = read_side(b)
    before = read_side(a) if a is not None else None
    notes = _differing(before, after) if before else []
    if notes and not force:
        raise UsageError(
            f"{a} and {b} cannot be compared: {'; '.join(notes)}.",
            "Compare benchmarks of one suite and profile, scored alike, or --force.",
        )
    rows = _differences(before, after, seed, known() if derived is None else derived)
    broken = violations(limits, rows, before=before is not None) if limits else []
    told = {"a": str(a) if a else None, "b": str(b), "notes": notes, "violations": broken, "differences": rows}
    if broken:
        raise _error(broken, told)
    return told


def _error(broken: Sequence[Row], told: Row) -> QualityError:
    shown = "; ".join(one["message"] for one in broken[:5])
    more = f"; and {len(broken) - 5} more" if len(broken) > 5 else ""
    error = QualityError(f"Regression: {shown}{more}.", "--json lists everything that was compared.")
    error.details = told
    return error


def read_side(path: Path) -> Side:
    """A benchmark folder with a report, or a report.parquet alone. UsageError for anything else."""
    file = path / "report.parquet" if path.is_dir() else path
    if not file.is_file():
        hint = "`idtool report` writes it." if path.is_dir() else "Give a benchmark folder or a report.parquet."
        raise UsageError(f"{file} is not there.", hint)
    try:
        table = pq.read_table(file)
    except (OSError, ValueError) as error:
        raise UsageError(f"{file} is no Parquet file: {error}.") from error
    version = (table.schema.metadata or {}).get(b"idtool.report")
    if version is not None and int(version) > VERSION:
        raise UsageError(f"{file} was written by a newer idtool.", "Upgrade idtool to read it.")
    if version is None or not set(REPORT.names) <= set(table.schema.names):
        raise UsageError(f"{file} is no report of idtool.", "`idtool report` writes one from a scored benchmark.")
    rows = {(row["metric"], row["method"], row["slice"], row["slice_value"]): row for row in table.to_pylist()}
    if not rows:
        raise UsageError(f"{file} has no rows: nothing was scored.")
    scores = path / "scores.parquet"
    return Side(path, rows, scores if path.is_dir() and scores.exists() else None)


def _differing(a: Side, b: Side) -> list[str]:
    found = []
    for column in ("suite_hash", "profile"):
        one, two = a.one(column), b.one(column)
        if one != two:
            found.append(f"{column} is {one} and {two}")
    for name, metric in a.metrics.items():
        one, two = metric["fingerprint"], b.metrics.get(name, metric)["fingerprint"]
        if one != two:
            found.append(f"metric {name} has another fingerprint ({one} and {two})")
    return found


def _differences(a: Side | None, b: Side, seed: int, derived: Derived) -> list[Row]:
    paired = _paired(a, b, seed, derived) if a and a.scores and b.scores else {}
    rows = []
    for key in dict.fromkeys((*(a.rows if a else ()), *b.rows)):
        before, after = a.rows.get(key) if a else None, b.rows.get(key)
        row = _row(key, before, after)
        if before and after:
            row |= paired.get(key) or _independent(before, after)
            row["verdict"] = _verdict(row)
        elif a:
            row["note"] = "; ".join(text for text in ("only before" if before else "only after", row["note"]) if text)
        rows.append(row)
    return sorted(rows, key=lambda row: row["slice"] != ALL)


def _row(key: Key, before: Row | None, after: Row | None) -> Row:
    told = after or before or {}
    row: Row = dict(zip(("metric", "method", "slice", "slice_value"), key, strict=True))
    row |= {"unit": told["unit"], "better": told["better"]}
    for when, one in (("before", before), ("after", after)):
        row |= {when: one and one["mean"], f"n_{when}": one and one["n"], f"missing_{when}": one and one["n_missing"]}
    return {**row, **dict.fromkeys(UNKNOWN), "note": after and after["note"]}


def _paired(a: Side, b: Side, seed: int, derived: Derived) -> dict[Key, Row]:
    """Differences on common samples; nothing for rows that have none."""
    found: dict[Key, Row] = {}
    after = {key[1] for key in b.rows}
    methods = [name for name in dict.fromkeys(key[1] for key in a.rows) if name in after]
    for metric in a.metrics:
        if metric in b.metrics:
            found |= _of_metric(a, b, metric, parts_of(metric, a.metrics, derived), methods, seed)
    return found


def _of_metric(a: Side, b: Side, metric: str, parts: Parts, methods: Sequence[str], seed: int) -> dict[Key, Row]:
    assert a.scores and b.scores  # noqa: S101 - the caller looked
    one, two = read_matrix(a.scores, parts.metrics, methods), read_matrix(b.scores, parts.metrics, methods)
    both = [name for name in one.methods if name in two.methods]
    pairs = [(len(one.methods) + two.methods.index(name), one.methods.index(name)) for name in both]
    if not pairs:
        return {}
    found: dict[Key, Row] = {}
    for (key, value), part in side_by_side(one, two).by_slice():
        made = differences(part.values, part.starts, pairs, statistic=parts.statistic, seed=seed)
        for k, method in enumerate(both):
            row = made.row(k)
            if row["n"] and row["difference"] is not None:
                ends = {"ci_low": row["low"], "ci_high": row["high"], "n_identities": row["clusters"]}
                same = {name: row[name] for name in ("n", "difference", "se", "p")}
                found[metric, method, key, value] = {**same, **ends, "how": "paired"}
    return found


def _independent(before: Row, after: Row) -> Row:
    """From two reports alone: Welch's interval on the bootstrap's standard errors. The same identities are in both, so
    the truth is narrower. Nothing but the difference where a report has no standard error."""
    from scipy.stats import t

    if before["mean"] is None or after["mean"] is None:
        return {}
    change = after["mean"] - before["mean"]
    found: Row = {"difference": change, "how": "independent"}
    squares = [(row["se"] or 0.0) ** 2 for row in (before, after)]
    se = math.sqrt(sum(squares))
    if before["se"] is None or after["se"] is None or not se:
        return found
    freedom = [row["n_identities"] - 1 for row in (before, after)]
    joint = se**4 / sum(square**2 / one for square, one in zip(squares, freedom, strict=True))
    half = float(t.ppf(1 - ALPHA / 2, joint)) * se
    p = 2 * float(t.sf(abs(change) / se, joint))
    return {**found, "se": se, "ci_low": change - half, "ci_high": change + half, "p": p}


def _verdict(row: Row) -> str | None:
    """In words, before any correction for many comparisons."""
    if row["difference"] is None or row["p"] is None:
        return None
    if not row["difference"]:
        return "same"
    if row["p"] >= ALPHA:
        return "unclear"
    gain = SIGN[row["better"]] * row["difference"]
    return "better" if gain > 0 else "worse" if gain < 0 else "changed"
