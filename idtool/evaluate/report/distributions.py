"""What single scores look like: a histogram per metric and method, and the samples at both ends. Scores are read in
batches, twice; memory does not grow with their number."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq

BINS = 36
WHOLE = 24
"""Whole numbers within a span of so many get a bin each."""
POOL = 24
"""Samples kept at each end, of which the report shows few, of different people."""
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Distribution:
    """The scores of one metric."""

    edges: Floats
    """(bins + 1,)"""
    counts: dict[str, npt.NDArray[np.int64]]
    """Method -> (bins,)."""


@dataclass(frozen=True)
class Case:
    """A sample and its score."""

    sample: str
    identity: str
    value: float


@dataclass(frozen=True, eq=False)
class Scores:
    distributions: dict[str, Distribution]
    """Metric -> its histograms; only metrics that have a value."""
    lowest: dict[tuple[str, str], list[Case]]
    """(metric, method) -> samples, the lowest first. Only for metrics of samples."""
    highest: dict[tuple[str, str], list[Case]]


def read_scores(path: Path) -> Scores:
    """Histograms and ends of `scores.parquet`; nothing where there is no such file."""
    if not path.is_file():
        return Scores({}, {}, {})
    edges = {metric: _edges(*found) for metric, found in _ranges(path).items()}
    counts: dict[str, dict[str, npt.NDArray[np.int64]]] = {metric: {} for metric in edges}
    ends = _Ends()
    for metric, method, part in _groups(path):
        bins = edges[metric]
        values = part["value"]
        # The last bin holds its right edge too; rounding may put a value a hair outside.
        index = np.clip(np.searchsorted(bins, values, "right") - 1, 0, len(bins) - 2)
        mine = counts[metric].setdefault(method, np.zeros(len(bins) - 1, np.int64))
        mine += np.bincount(index, minlength=len(bins) - 1)
        ends.add((metric, method), part)
    return Scores({name: Distribution(edges[name], counts[name]) for name in edges}, *ends.cases())


def _groups(path: Path) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """(metric, method, columns) for the scored rows of each batch."""
    columns = ["metric", "method", "sample", "identity", "value"]
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(65_536, columns=columns):
            frame = batch.to_pandas().dropna(subset=["value"])
            for (metric, method), rows in frame.groupby(["metric", "method"], sort=False):
                part = {"single": rows["sample"].notna().to_numpy(bool), "value": rows["value"].to_numpy(np.float64)}
                names = {name: rows[name].to_numpy(object) for name in ("sample", "identity")}
                yield str(metric), str(method), {**part, **names}


def _ranges(path: Path) -> dict[str, tuple[float, float, bool]]:
    """Metric -> lowest, highest, whether all are whole numbers."""
    found: dict[str, tuple[float, float, bool]] = {}
    for metric, _, part in _groups(path):
        values = part["value"]
        low, high, whole = found.get(metric, (np.inf, -np.inf, True))
        whole = whole and bool(np.all(values == np.rint(values)))
        found[metric] = (min(low, float(values.min())), max(high, float(values.max())), whole)
    return found


def _edges(low: float, high: float, whole: bool) -> Floats:
    if whole and high - low < WHOLE:
        return np.arange(low - 0.5, high + 1)
    if low == high:
        room = abs(low) * 0.05 or 0.5
        low, high = low - room, high + room
    return np.linspace(low, high, BINS + 1)


class _Ends:
    """The lowest and the highest samples of each group, as far as they have been seen. Of equal values the sample with
    the smaller id comes first, in whatever order they come."""

    def __init__(self) -> None:
        self._low: dict[tuple[str, str], list[Case]] = {}
        self._high: dict[tuple[str, str], list[Case]] = {}

    def add(self, key: tuple[str, str], part: dict[str, Any]) -> None:
        single = part["single"]
        values = part["value"][single]
        if not len(values):
            return
        samples, identities = part["sample"][single], part["identity"][single]
        for kept, sign in ((self._low, 1.0), (self._high, -1.0)):
            # All that tie with the last one taken stay in, so that the choice does not depend on batches.
            limit = np.sort(sign * values)[min(POOL, len(values)) - 1]
            new = np.flatnonzero(sign * values <= limit)
            cases = [Case(str(samples[k]), str(identities[k]), float(values[k])) for k in new]
            both = kept.get(key, []) + cases
            kept[key] = sorted(both, key=lambda case: (sign * case.value, case.sample))[:POOL]

    def cases(self) -> tuple[dict[tuple[str, str], list[Case]], dict[tuple[str, str], list[Case]]]:
        return self._low, self._high
