"""The images that pairs are mined from: those of a scored benchmark folder, a row each.

What the rules reckon with is held as narrow columns, a few hundred bytes per image; prompts, people and references are
read again for the rows that end up in pairs.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from idtool.errors import UsageError
from idtool.evaluate.samples import MADE
from idtool.media.paths import is_url

Rows = npt.NDArray[np.int64]
Values = npt.NDArray[np.float64]

SAMPLES, SCORES = "samples.parquet", "scores.parquet"


@dataclass(frozen=True, eq=False)
class Candidates:
    """Images by row, in the order of samples.parquet without those of methods that are left out."""

    ids: Sequence[str]
    """Of the samples."""
    methods: Sequence[str]
    media: Sequence[str | None]
    """Absolute paths or URLs; None: no image was made."""
    seeds: Sequence[int | None]
    people: Sequence[int]
    """How many references the image is to show."""
    parents: Mapping[int, str]
    """Row -> what it is a worse copy of, as its table says (column `parent`)."""
    groups: Rows
    """Row -> number of its group: one prompt, one list of references, one label of people."""
    keys: Sequence[str]
    """Group -> its id."""
    values: Mapping[str, Values] = field(default_factory=dict)
    """Part of the reward -> value of each row; NaN: not scored."""
    why: Mapping[str, Mapping[int, str]] = field(default_factory=dict)
    """Part -> row -> why it is not scored."""

    def by_group(self) -> Iterator[tuple[int, Rows]]:
        """(group, its rows in order), group by group."""
        order = np.argsort(self.groups, kind="stable")
        ends = np.flatnonzero(np.diff(self.groups[order])) + 1
        for rows in np.split(order, ends) if len(order) else ():
            yield int(self.groups[rows[0]]), rows

    def unscored(self, rows: Rows) -> str:
        """Why rows have no score, commonest reasons first, in words."""
        found: dict[str, int] = {}
        for row in rows.tolist():
            reason = next((told[row] for told in self.why.values() if row in told), None)
            if self.media[row] is None:
                reason = "no image"
            if reason:
                found[reason] = found.get(reason, 0) + 1
        most = sorted(found.items(), key=lambda item: (-item[1], item[0]))[:3]
        return "; ".join(f"{count} of {len(rows)}: {reason}" for reason, count in most)


def read(
    folder: Path,
    metrics: Mapping[str, str],
    *,
    methods: Collection[str],
    apart: bool = True,
    copies: Collection[str] = (),
) -> Candidates:
    """The samples of `methods` in a benchmark folder with the scores that `metrics` (part -> name) names.

    `apart`: images of two methods are never in one group. `copies`: methods whose images are worse copies; only these
    have parents. UsageError where tables are missing.
    """
    for name in (SAMPLES, SCORES):
        if not (folder / name).is_file():
            raise UsageError(f"{folder} has no {name}.", "Score it first: `idtool bench --score-only` or `evaluate`.")
    ids: list[str] = []
    names: list[str] = []
    media: list[str | None] = []
    seeds: list[int | None] = []
    people: list[int] = []
    parents: dict[int, str] = {}
    numbers: dict[str, int] = {}
    groups: list[int] = []
    for row in _samples(folder, methods, ("id", "method", "media", "outcome", "seed", "slices", *_GROUP)):
        if row["method"] in copies:
            parent = json.loads(row["slices"] or "{}").get("parent")
            if parent:
                parents[len(ids)] = str(parent)
        key = _key(row, row["method"] if apart else None)
        groups.append(numbers.setdefault(key, len(numbers)))
        ids.append(row["id"])
        names.append(sys.intern(row["method"]))
        media.append(located(folder, row["media"]) if row["outcome"] == MADE else None)
        seeds.append(row["seed"])
        people.append(len(row["references"] or ()))
    values, why = _scores(
        folder, {(method, one): k for k, (method, one) in enumerate(zip(names, ids, strict=True))}, metrics
    )
    return Candidates(
        ids, names, media, seeds, people, parents, np.asarray(groups, np.int64), list(numbers), values, why
    )


def details(folder: Path, rows: Collection[int], methods: Collection[str]) -> dict[int, dict[str, Any]]:
    """What samples.parquet says of some rows of `read` with the same methods: identity, people, prompt, references."""
    found: dict[int, dict[str, Any]] = {}
    start = 0
    for batch in _batches(folder, methods, ("method", "people", *_GROUP)):
        here = [k for k in range(batch.num_rows) if start + k in rows]
        for k, row in zip(here, batch.take(pa.array(here, pa.int64())).to_pylist(), strict=True):
            row["references"] = [located(folder, one) for one in row["references"] or ()]
            found[start + k] = row
        start += batch.num_rows
    return found


_GROUP = ("identity", "prompt", "references")


def _key(row: Mapping[str, Any], method: str | None) -> str:
    told = [method, *(row[name] for name in _GROUP)]
    text = json.dumps(told, ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _samples(folder: Path, methods: Collection[str], columns: Sequence[str]) -> Iterator[dict[str, Any]]:
    for batch in _batches(folder, methods, columns):
        yield from batch.to_pylist()


def _batches(folder: Path, methods: Collection[str], columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
    wanted = pa.array(sorted(methods), pa.string())
    with pq.ParquetFile(folder / SAMPLES) as file:
        lacking = [name for name in columns if name not in file.schema_arrow.names]
        if lacking:
            raise UsageError(f"{folder / SAMPLES} has no column {lacking[0]!r}.", "Score the benchmark again.")
        for batch in file.iter_batches(4096, columns=list(dict.fromkeys(columns))):
            yield batch.filter(pc.is_in(batch["method"], wanted))


def _scores(
    folder: Path, rows: Mapping[tuple[str, str], int], metrics: Mapping[str, str]
) -> tuple[dict[str, Values], dict[str, dict[int, str]]]:
    parts: dict[str, list[str]] = {}
    for part, metric in metrics.items():
        parts.setdefault(metric, []).append(part)
    values = {part: np.full(len(rows), np.nan) for part in metrics}
    why: dict[str, dict[int, str]] = {part: {} for part in metrics}
    wanted = pa.array(sorted(parts), pa.string())
    with pq.ParquetFile(folder / SCORES) as file:
        for batch in file.iter_batches(8192, columns=["method", "metric", "sample", "value", "missing"]):
            for row in batch.filter(pc.is_in(batch["metric"], wanted)).to_pylist():
                number = rows.get((row["method"], row["sample"]))
                if number is None:
                    continue
                for part in parts[row["metric"]]:
                    if row["value"] is None:
                        why[part][number] = sys.intern(row["missing"] or "not scored")
                    else:
                        values[part][number] = row["value"]
    return values, why


def located(folder: Path, media: str | None) -> str | None:
    """A picture of the benchmark as an absolute path or a URL."""
    if not media or is_url(media) or media.startswith(("/", "bytes:")):
        return media or None
    return str(folder / media)
