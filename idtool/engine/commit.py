"""The commit protocol of a row step: parts written one by one as shards finish, then compacted into the step's
table in id order, whatever order they came in. Memory is bounded but for the names and ids of the shards."""

from __future__ import annotations

import heapq
import shutil
from bisect import bisect_left
from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from idtool.engine.operator import ERROR
from idtool.engine.sorting import external_sort, sort_rows
from idtool.engine.table import Table, write_file, write_table

KEYS = ("id", "uri", "input_id")
SWEEP_ROWS = 4_096
"""Rows that are sorted at once where files hardly overlap."""
LAST = chr(0x10FFFF)
"""Above every id."""


class Parts:
    """The finished shards of a step that is still running: `parts/<key>.parquet`, each absent or whole."""

    def __init__(self, step_dir: Path, schema: pa.Schema) -> None:
        self.path = step_dir / "parts"
        self.inflight = step_dir / "inflight"
        self.schema = schema

    def keys(self) -> set[str]:
        return {path.stem for path in self.path.glob("*.parquet")}

    def suspects(self) -> set[str]:
        """Shards that were being processed when a process died."""
        return {path.name for path in self.inflight.glob("*")} - self.keys()

    def begin(self, key: str) -> None:
        self.inflight.mkdir(parents=True, exist_ok=True)
        (self.inflight / key).touch()

    def calm(self) -> None:
        """Nothing was being processed by a process that died: a run that ends by an error of Python's own, or by
        Ctrl-C, leaves no suspects behind. (These are tried in a process of their own, with a copy of the models.)"""
        shutil.rmtree(self.inflight, ignore_errors=True)

    def commit(self, key: str, rows: pa.Table) -> pa.Table:
        """Store a shard's output under the step's schema (missing columns null); returns what was stored."""
        stored = conform(rows, self.schema)
        write_file(stored, self.path / f"{key}.parquet")
        (self.inflight / key).unlink(missing_ok=True)
        return stored

    def read(self, key: str, columns: list[str]) -> pa.Table:
        return pq.read_table(self.path / f"{key}.parquet", columns=columns)

    def drop_failed(self) -> None:
        """Remove finished shards that have errors, so that they are done again."""
        for key in self.keys():
            if ERROR in self.read(key, ["status"])["status"].to_pylist():
                (self.path / f"{key}.parquet").unlink()

    def keep_only(self, keys: set[str]) -> None:
        """Remove parts that the present plan does not ask for."""
        for key in self.keys() - keys:
            (self.path / f"{key}.parquet").unlink()

    def compact(self, target: Path, keys: set[str], spool: Path) -> Table:
        """All parts named by `keys` as one table at `target`, sorted by id (ties by uri, then by input id)."""
        files = sorted(self.path / f"{key}.parquet" for key in keys)
        return write_table(target, sorted_batches(files, self.schema, spool), self.schema)

    def clear(self) -> None:
        for folder in (self.path, self.inflight):
            shutil.rmtree(folder, ignore_errors=True)


def conform(rows: pa.Table, schema: pa.Schema) -> pa.Table:
    """The columns of `schema`, in its order and types; a column that the rows lack is null."""
    columns = [
        rows[field.name].cast(field.type) if field.name in rows.column_names else pa.nulls(rows.num_rows, field.type)
        for field in schema
    ]
    return pa.table(columns, schema=schema)


def sorted_batches(files: list[Path], schema: pa.Schema, spool: Path) -> Iterator[pa.Table]:
    """The rows of `files` in id order (ties by uri, then by input id), some thousand at a time. Where few files at a
    time overlap in their ids (the shards of a step that keeps ids), they are read in order of their first; otherwise
    rows are sorted in `spool`. Held are the first and last id of each file, and a bounded number of rows."""
    spans = _spans(files)
    if _overlap(spans) <= SWEEP_ROWS:
        yield from _swept(spans, schema)
    else:
        # In order of first ids, what overlaps little makes runs that hardly overlap.
        yield from external_sort((_read(span.path, schema) for span in spans), KEYS, spool)


class _Span(NamedTuple):
    """The ids of a file, from the statistics that it has of them."""

    first: str
    last: str
    rows: int
    path: Path


def _spans(files: list[Path]) -> list[_Span]:
    """Of the files that have rows, in order of their first ids."""
    found = []
    for path in files:
        metadata = pq.read_metadata(path)
        ends: list[str] = []
        for number in range(metadata.num_row_groups):
            group = metadata.row_group(number)
            columns = (group.column(k) for k in range(group.num_columns))
            kept = next(column.statistics for column in columns if column.path_in_schema == "id")
            # Parquet leaves statistics out for ids of thousands of characters.
            ends += [kept.min, kept.max] if kept is not None and kept.has_min_max else ["", LAST]
        if metadata.num_rows:
            found.append(_Span(min(ends), max(ends), metadata.num_rows, path))
    return sorted(found)


def _overlap(spans: list[_Span]) -> int:
    """The most rows in files that share an id with one another."""
    most = now = 0
    open_: list[tuple[str, int]] = []
    for span in spans:
        while open_ and open_[0][0] < span.first:
            now -= heapq.heappop(open_)[1]
        heapq.heappush(open_, (span.last, span.rows))
        now += span.rows
        most = max(most, now)
    return most


def _swept(spans: list[_Span], schema: pa.Schema) -> Iterator[pa.Table]:
    held: list[pa.Table] = []
    new = 0
    for span, after in zip_longest(spans, spans[1:]):
        held.append(_read(span.path, schema))
        new += span.rows
        if new < SWEEP_ROWS and after:
            continue
        rows = sort_rows(pa.concat_tables(held), KEYS)
        end = bisect_left(rows["id"].to_pylist(), after.first) if after else rows.num_rows
        if end:
            yield rows.slice(0, end)
        held, new = [rows.slice(end)], 0


def _read(path: Path, schema: pa.Schema) -> pa.Table:
    with pq.ParquetFile(path) as file:
        return conform(file.read(), schema)
