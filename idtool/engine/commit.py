"""The commit protocol of a row step: parts written one by one as shards finish, then compacted into the step's
table in id order, whatever order they came in. Memory is bounded by the ids plus one bucket of rows."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from idtool.engine.operator import ERROR
from idtool.engine.table import Table, write_file, write_table

BUCKET_ROWS = 16_384


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


def _order(table: pa.Table) -> pa.Table:
    keys = [(name, "ascending") for name in ("id", "uri", "input_id") if name in table.column_names]
    return table.sort_by(keys)


def sorted_batches(files: list[Path], schema: pa.Schema, spool: Path) -> Iterator[pa.Table]:
    """The rows of `files` in id order. Small tables are sorted in memory; larger ones are first spread over
    buckets of consecutive ids on disk, then sorted bucket by bucket."""
    total = sum(pq.read_metadata(file).num_rows for file in files)
    if total <= BUCKET_ROWS:
        if files:
            yield _order(pa.concat_tables([pq.read_table(file, schema=schema) for file in files]))
        return
    ids = pa.concat_arrays([chunk for file in files for chunk in pq.read_table(file, columns=["id"])["id"].chunks])
    ordered = pc.sort_indices(ids)
    cuts = [ids[ordered[position].as_py()].as_py() for position in range(BUCKET_ROWS, total, BUCKET_ROWS)]
    del ids, ordered
    bounds = np.array(cuts, dtype=object)
    shutil.rmtree(spool, ignore_errors=True)
    spool.mkdir(parents=True)
    with contextlib.ExitStack() as stack:
        writers: dict[int, pq.ParquetWriter] = {}
        for rows in _gathered(files, schema):
            bucket = np.searchsorted(bounds, np.array(rows["id"].to_pylist(), dtype=object), side="right")
            for number in np.unique(bucket):
                if number not in writers:
                    writers[number] = stack.enter_context(pq.ParquetWriter(spool / f"{number:06d}.parquet", schema))
                writers[number].write_table(rows.filter(pa.array(bucket == number)))
    for path in sorted(spool.glob("*.parquet")):
        yield _order(pq.read_table(path, schema=schema))
        path.unlink()
    shutil.rmtree(spool, ignore_errors=True)


def _gathered(files: list[Path], schema: pa.Schema) -> Iterator[pa.Table]:
    """The rows of many small files, a bucket's number of them at a time: every write to a bucket makes a row group,
    whose bookkeeping stays in memory until the bucket is closed."""
    held: list[pa.Table] = []
    rows = 0
    for file in files:
        held.append(pq.read_table(file, schema=schema))
        rows += held[-1].num_rows
        if rows >= BUCKET_ROWS:
            yield pa.concat_tables(held)
            held, rows = [], 0
    if held:
        yield pa.concat_tables(held)
