"""Tables on disk: a folder of Parquet files that share a schema, written once, read in batches."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import TracebackType

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from idtool.engine.operator import KEPT, OUTCOME

FILE_ROWS = 65_536
GROUP_ROWS = 1_024
BATCH_BYTES = 64 << 20
"""Row groups are read together up to about so many bytes, as they are when decoded."""


def batches_of(file: pq.ParquetFile, rows: int, columns: list[str] | None = None) -> Iterator[pa.RecordBatch]:
    """The rows of an open file, at most `rows` at a time, from as many whole row groups as have so many."""
    # Over all groups at once, the iterator keeps the bytes of those that it has left behind.
    groups: list[int] = []
    count = size = 0
    for number in range(file.num_row_groups):
        group = file.metadata.row_group(number)
        if groups and (count + group.num_rows > rows or size + group.total_byte_size > BATCH_BYTES):
            yield from file.iter_batches(batch_size=rows, row_groups=groups, columns=columns)
            groups, count, size = [], 0, 0
        groups.append(number)
        count, size = count + group.num_rows, size + group.total_byte_size
    if groups:
        yield from file.iter_batches(batch_size=rows, row_groups=groups, columns=columns)


class Table:
    """A folder of Parquet files, in name order. Cheap to make: nothing is read until asked."""

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)

    @property
    def files(self) -> list[Path]:
        return sorted(self.path.glob("*.parquet"))

    @property
    def schema(self) -> pa.Schema:
        return pq.read_schema(self.files[0])

    @property
    def rows(self) -> int:
        return sum(pq.read_metadata(file).num_rows for file in self.files)

    def batches(
        self, columns: Sequence[str] | None = None, rows: int = 4096, *, kept_only: bool = False
    ) -> Iterator[pa.Table]:
        """Batches of at most `rows` rows in stored order. `kept_only` leaves out rejected and error rows."""
        wanted = None if columns is None else list(columns)
        if kept_only and wanted is not None and "status" not in wanted:
            wanted = [*wanted, "status"]
        for path in self.files:
            with pq.ParquetFile(path) as file:
                for batch in batches_of(file, rows, wanted):
                    table = pa.Table.from_batches([batch])
                    if kept_only:
                        table = table.filter(pc.equal(table["status"], KEPT))
                        table = table if columns is None else table.select(list(columns))
                    if table.num_rows:
                        yield table

    def read(self, columns: Sequence[str] | None = None, *, kept_only: bool = False) -> pa.Table:
        """The whole table in memory; for narrow columns and small tables."""
        batches = list(self.batches(columns, kept_only=kept_only))
        if batches:
            return pa.concat_tables(batches)
        schema = self.schema
        if columns is not None:
            schema = pa.schema([schema.field(name) for name in columns])
        return schema.empty_table()


class KeptRows(Table):
    """What the next step reads: the kept rows of a table, without outcome and bookkeeping columns."""

    HIDDEN = frozenset({*OUTCOME.names, "input_id"})

    @property
    def schema(self) -> pa.Schema:
        full = super().schema
        return pa.schema([field for field in full if field.name not in self.HIDDEN], metadata=full.metadata)

    @property
    def rows(self) -> int:
        return sum(pc.sum(pc.equal(b["status"], KEPT)).as_py() or 0 for b in Table.batches(self, ["status"], 65_536))

    def batches(
        self, columns: Sequence[str] | None = None, rows: int = 4096, *, kept_only: bool = True
    ) -> Iterator[pa.Table]:
        names = list(self.schema.names if columns is None else columns)
        for batch in super().batches(names, rows, kept_only=True):
            yield batch.select(names)


@contextlib.contextmanager
def file_writer(path: Path, schema: pa.Schema) -> Iterator[pq.ParquetWriter]:
    """Write one Parquet file so that it is either absent or whole: temporary name, flush to disk, rename."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as sink:
            with pq.ParquetWriter(sink, schema, compression="zstd") as writer:
                yield writer
            sink.flush()
            os.fsync(sink.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_file(table: pa.Table, path: Path, *, group_rows: int = GROUP_ROWS) -> None:
    """Write a table in memory as one Parquet file, absent or whole."""
    with file_writer(path, table.schema) as writer:
        writer.write_table(table, row_group_size=group_rows)


class TableWriter:
    """Writes a table batch by batch into a temporary folder; the final name appears only when all is written.
    Holds at most one row group."""

    def __init__(self, path: Path, schema: pa.Schema, *, file_rows: int = FILE_ROWS) -> None:
        self.path, self.schema, self.file_rows = path, schema, file_rows
        self._work = path.with_name(f".{path.name}.writing")
        self._pending: list[pa.Table] = []
        self._pending_rows = 0
        self._files = 0
        self._rows_in_file = 0
        self._open = contextlib.ExitStack()
        self._writer: pq.ParquetWriter | None = None

    def __enter__(self) -> TableWriter:
        shutil.rmtree(self._work, ignore_errors=True)
        self._work.mkdir(parents=True)
        return self

    def write(self, batch: pa.Table) -> None:
        self._pending.append(batch.select(self.schema.names).cast(self.schema))
        self._pending_rows += batch.num_rows
        if self._pending_rows >= GROUP_ROWS:
            whole = pa.concat_tables(self._pending)
            # Whole row groups only, so that the file does not depend on how the rows came.
            end = whole.num_rows - whole.num_rows % GROUP_ROWS
            for start in range(0, end, GROUP_ROWS):
                self._flush(whole.slice(start, GROUP_ROWS))
            self._pending, self._pending_rows = [whole.slice(end)], whole.num_rows - end

    def _flush(self, table: pa.Table) -> None:
        if self._writer is None:
            path = self._work / f"part-{self._files:05d}.parquet"
            self._writer = self._open.enter_context(file_writer(path, self.schema))
            self._files += 1
            self._rows_in_file = 0
        self._writer.write_table(table.combine_chunks(), row_group_size=GROUP_ROWS)
        self._rows_in_file += table.num_rows
        if self._rows_in_file >= self.file_rows:
            self._open.close()
            self._writer = None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self._open.__exit__(kind, error, trace)
            shutil.rmtree(self._work, ignore_errors=True)
            return
        if self._pending_rows or not self._files:
            self._flush(pa.concat_tables(self._pending) if self._pending else self.schema.empty_table())
        self._open.close()
        shutil.rmtree(self.path, ignore_errors=True)
        self._work.replace(self.path)


def write_table(path: Path, batches: Iterable[pa.Table], schema: pa.Schema) -> Table:
    """Write all batches as a table at `path`, replacing what was there only when complete."""
    with TableWriter(path, schema) as writer:
        for batch in batches:
            writer.write(batch)
    return Table(path)
