"""The history of a benchmark: one number per night, metric and method, and where the numbers stopped being comparable.

<store>/suite=<name>/date=YYYY-MM-DD/report.parquet    what `idtool nightly` leaves there
                                    /status.json       whether the night was good; may be missing
"""

from __future__ import annotations

import json
import posixpath
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from idtool.errors import MissingError, UsageError
from idtool.evaluate.report.data import mark_random
from idtool.evaluate.report_schema import ALL

Row = dict[str, Any]
_NIGHT = re.compile(r"/suite=([^/]+)/date=(\d{4}-\d{2}-\d{2})/report\.parquet$")
COLUMNS = (
    "suite", "suite_hash", "profile", "method", "baseline", "metric", "family", "axis", "unit", "better", "n",
    "n_missing", "n_identities", "mean", "ci_low", "ci_high", "fingerprint", "idtool",
)  # fmt: skip


@dataclass(frozen=True)
class Trend:
    """What the nights of a store say, oldest first."""

    store: str
    rows: list[Row]
    """`COLUMNS`, and `date`; `good` (None: not told); `segment`, counted from 0, of which all numbers of a metric and
    method are comparable; `change` from the last night before of the same segment, None where there is none."""
    breaks: list[Row]
    """`suite, profile, metric, date, why`: from this date on, numbers are of another segment."""
    notes: list[str] = field(default_factory=list)
    """What could not be read."""
    random_weights: list[str] = field(default_factory=list)
    """Models of any night that say of themselves that their weights are random."""

    def __bool__(self) -> bool:
        return bool(self.rows)


def trend(
    store: str,
    *,
    suite: str | None = None,
    metrics: Collection[str] = (),
    methods: Collection[str] = (),
) -> Trend:
    """The history in `store`, a folder or any fsspec URL. `metrics` are names or families, empty: all; `methods`
    likewise.

    UsageError where there is no night of the suite, or nothing of what was asked for; MissingError where the store
    cannot be read. A night whose table is damaged is left out, and noted.
    """
    from idtool.media.paths import without_login

    notes: list[str] = []
    random: set[str] = set()
    rows = []
    for row in _read(store, suite, notes, random):
        if (not metrics or row["metric"] in metrics or row["family"] in metrics) and (
            not methods or row["method"] in methods
        ):
            rows.append(row)
    shown = without_login(str(store))
    if not rows:
        what = "what was asked for" if metrics or methods else f"a night of {suite or 'any suite'}"
        told = f" ({'; '.join(notes)})" if notes else ""
        raise UsageError(f"{shown} does not hold {what}{told}.", "`idtool nightly` fills a store.")
    rows = _with_gaps(rows)
    breaks = _segment(rows)
    return Trend(shown, rows, breaks, notes, sorted(random))


def _reports(fs: Any, root: str, suite: str | None) -> Iterator[str]:
    """Tables of all nights. Listed, not globbed: a folder's name may have brackets."""

    def folders(folder: str, key: str) -> list[str]:
        found = fs.ls(folder, detail=False) if fs.exists(folder) else []
        return [path.rstrip("/") for path in found if posixpath.basename(path.rstrip("/")).startswith(f"{key}=")]

    for one in folders(root, "suite"):
        if suite is None or posixpath.basename(one) == f"suite={suite}":
            for night in folders(one, "date"):
                if fs.exists(table := posixpath.join(night, "report.parquet")):
                    yield table


def _read(store: str, suite: str | None, notes: list[str], random: set[str]) -> Iterator[Row]:
    """Rows of all samples, of every night. What cannot be read goes to `notes`, random weights to `random`."""
    import fsspec
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        fs, root = fsspec.core.url_to_fs(str(store))
        paths = sorted(_reports(fs, root, suite))
    except (ImportError, ValueError, OSError) as error:
        from idtool.media.paths import without_login

        shown = without_login(str(store))
        raise MissingError(f"Cannot read the store {shown}: {error}.", "Check the URL and its package.") from error
    for path in paths:
        found = _NIGHT.search("/" + path)
        if found is None:
            notes.append(f"{path}: not a date")
            continue
        try:
            with fs.open(path, "rb") as file:
                table = pq.read_table(file, columns=[*COLUMNS, "slice"])
        except (pa.ArrowInvalid, pa.ArrowKeyError, OSError) as error:
            notes.append(f"{found[1]} of {found[2]} cannot be read: {error}")
            continue
        folder = posixpath.dirname(path)
        good = _told(fs, posixpath.join(folder, "status.json")).get("good")
        manifest = _told(fs, posixpath.join(folder, "bench.json"))
        random.update(mark_random(manifest.get("metrics") or {}, manifest.get("methods") or {}))
        for row in table.to_pylist():
            if row.pop("slice") == ALL and (row["n"] or row["n_missing"]):
                yield {**row, "date": found[2], "good": good}


def _told(fs: Any, path: str) -> Row:
    """A JSON object beside the table; empty where there is none."""
    try:
        found = json.loads(fs.cat_file(path))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _with_gaps(rows: Iterable[Row]) -> list[Row]:
    """The rows in order, and one without a value for every night since a method's first on which others of its suite
    and profile have rows and it has none."""
    found = list(rows)
    nights: dict[tuple[str, ...], dict[str, bool | None]] = {}
    series: dict[tuple[str, ...], dict[str, Row]] = {}
    for row in found:
        nights.setdefault((row["suite"], row["profile"]), {})[row["date"]] = row["good"]
        series.setdefault(_series(row), {})[row["date"]] = row
    for mine in series.values():
        before = mine[min(mine)]
        for night, good in sorted(nights[before["suite"], before["profile"]].items()):
            if night in mine:
                before = mine[night]
            elif night > before["date"]:
                nothing = {"mean": None, "ci_low": None, "ci_high": None, "n": 0, "n_missing": 0, "n_identities": 0}
                before = {**before, **nothing, "date": night, "good": good}
                found.append(before)
    return sorted(found, key=lambda row: (*_series(row), row["date"]))


def _segment(rows: Iterable[Row]) -> list[Row]:
    """Sets `segment` and `change` of the rows, which stand in order; returns where segments begin."""
    breaks: dict[tuple[str, ...], Row] = {}
    names = ("suite", "profile", "metric", "why")
    before: Row | None = None
    last: float | None = None
    for row in rows:
        if before is None or _series(row) != _series(before):
            row["segment"], last = 0, None
        else:
            why = _why(before, row)
            row["segment"] = before["segment"] + bool(why)
            if why:
                last = None
                key = (row["suite"], row["profile"], row["metric"], why)
                told = breaks.setdefault(key, {**dict(zip(names, key, strict=True)), "date": row["date"]})
                told["date"] = min(told["date"], row["date"])
        row["change"] = None if last is None or row["mean"] is None else row["mean"] - last
        last = row["mean"] if row["mean"] is not None else last
        before = row
    return sorted(breaks.values(), key=lambda told: (told["suite"], told["profile"], told["metric"], told["date"]))


def _series(row: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(row[key] for key in ("suite", "profile", "metric", "method"))


def _why(before: Mapping[str, Any], row: Mapping[str, Any]) -> str:
    """Why two nights of a series cannot be compared; empty where they can."""
    reasons = [
        f"{words} {_short(before[key])} → {_short(row[key])}"
        for key, words in (("fingerprint", "fingerprint of the metric"), ("suite_hash", "suite"))
        if before[key] != row[key]
    ]
    return "; ".join(reasons)


def _short(text: str | None) -> str:
    return (text or "–")[:12]


def write_trend(store: str, output: Path, **options: Any) -> Path:
    """Write the history as a page to `output`, and return that; `options` as those of `trend`."""
    from idtool.evaluate.report.trend_page import render

    page = render(trend(store, **options))
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(page, encoding="utf-8")
    return output
