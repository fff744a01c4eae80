"""Sorting more rows than fit in memory: sorted runs on disk, merged some at a time. Memory is that of one run or of
one window per run, whatever the number of rows; so is the number of open files."""

from __future__ import annotations

import contextlib
import itertools
import shutil
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

RUN_ROWS, RUN_BYTES = 16_384, 32 << 20
"""A run ends with the batch that reaches either."""
FAN_IN = 64
"""Runs merged at once, each with a file open and a window in memory."""
WINDOW_ROWS, WINDOW_BYTES = 1_024, 1 << 20


def sort_rows(rows: pa.Table, keys: Sequence[str]) -> pa.Table:
    """In rising order of `keys` (those that the rows have), text by code point, nulls last; ties stay as they are."""
    return rows.sort_by([(name, "ascending") for name in keys if name in rows.column_names])


def external_sort(batches: Iterable[pa.Table], keys: Sequence[str], spool: Path) -> Iterator[pa.Table]:
    """The rows of all batches, of one schema, in the order of `sort_rows`. `spool`: a folder that is emptied, used
    where there is more than a run, and removed again. Batches should be much smaller than a run."""
    shutil.rmtree(spool, ignore_errors=True)
    numbers = itertools.count()
    runs: list[Path] = []
    held: list[pa.Table] = []
    rows = size = 0

    def spilled(sorted_rows: Iterable[pa.Table]) -> Path:
        path = spool / f"{next(numbers):06d}.arrows"
        _write(sorted_rows, path)
        return path

    try:
        for batch in batches:
            held.append(batch)
            rows, size = rows + batch.num_rows, size + batch.nbytes
            if rows >= RUN_ROWS or size >= RUN_BYTES:
                runs.append(spilled([_taken(held, keys)]))
                rows = size = 0
        if rows and not runs:
            yield _taken(held, keys)
            return
        if rows:
            runs.append(spilled([_taken(held, keys)]))
        while len(runs) > FAN_IN:
            runs = [spilled(_merged(runs[at : at + FAN_IN], keys)) for at in range(0, len(runs), FAN_IN)]
        yield from _merged(runs, keys)
    finally:
        shutil.rmtree(spool, ignore_errors=True)


def _taken(held: list[pa.Table], keys: Sequence[str]) -> pa.Table:
    """What is held, in order; it is held no longer."""
    rows = pa.concat_tables(held)
    held.clear()
    return sort_rows(rows, keys)


def recut(tables: Iterable[pa.Table], size: int) -> Iterator[pa.Table]:
    """The same rows, `size` at a time."""
    held: list[pa.Table] = []
    rows = 0
    for table in tables:
        held.append(table)
        rows += table.num_rows
        if rows >= size:
            whole = pa.concat_tables(held)
            for start in range(0, rows - size + 1, size):
                yield whole.slice(start, size)
            held, rows = [whole.slice(rows - rows % size)], rows % size
    if rows:
        yield pa.concat_tables(held)


def _write(tables: Iterable[pa.Table], path: Path) -> None:
    """One run: a stream of windows, which unlike Parquet has no footer that grows with the rows."""
    path.parent.mkdir(parents=True, exist_ok=True)
    coming = iter(tables)
    first = next(coming)
    each = max(1, WINDOW_BYTES * first.num_rows // max(1, first.nbytes))
    options = pa.ipc.IpcWriteOptions(compression="lz4")
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, first.schema, options=options) as writer:
        for window in recut(itertools.chain([first], coming), min(WINDOW_ROWS, each)):
            # One batch a window: chunks of their own would be windows of their own.
            writer.write_table(window.combine_chunks())


class _Run:
    """A run that is being read: a window of rows, of which those before `start` are done."""

    def __init__(self, path: Path, keys: Sequence[str], stack: contextlib.ExitStack) -> None:
        self._reader = stack.enter_context(pa.ipc.open_stream(stack.enter_context(pa.OSFile(str(path), "rb"))))
        self._names = [name for name in keys if name in self._reader.schema.names]
        self.rows = self._reader.schema.empty_table()
        self.keys: list[tuple[Any, ...]] = []
        self.start = 0

    def refill(self) -> bool:
        """Read on where the window is done; False at the end."""
        while self.start == len(self.keys):
            try:
                batch = self._reader.read_next_batch()
            except StopIteration:
                return False
            self.rows, self.start = pa.Table.from_batches([batch]), 0
            self.keys = list(zip(*(_comparable(batch[name]) for name in self._names), strict=True))
        return True

    def take(self, last: tuple[Any, ...]) -> pa.Table:
        """The rows up to `last`."""
        end = bisect_right(self.keys, last, self.start)
        taken = self.rows.slice(self.start, end - self.start)
        self.start = end
        return taken


def _merged(paths: Sequence[Path], keys: Sequence[str]) -> Iterator[pa.Table]:
    """The rows of sorted runs in order; the runs are removed at the end. A step takes, of all windows, what is not
    above the lowest of their last rows: no row that is still on disk can come before it."""
    with contextlib.ExitStack() as stack:
        runs = [_Run(path, keys, stack) for path in paths]
        runs = [run for run in runs if run.refill()]
        while runs:
            last = min(run.keys[-1] for run in runs)
            parts = [part for run in runs if (part := run.take(last)).num_rows]
            yield parts[0] if len(parts) == 1 else sort_rows(pa.concat_tables(parts), keys)
            runs = [run for run in runs if run.refill()]
    for path in paths:
        path.unlink()


class _Last:
    """Stands for null: above every text."""

    def __lt__(self, other: object) -> bool:
        return False

    def __gt__(self, other: object) -> bool:
        return other is not self


_NULL = _Last()


def _comparable(values: pa.Array) -> list[Any]:
    found: list[Any] = values.to_pylist()
    return [_NULL if value is None else value for value in found] if values.null_count else found
