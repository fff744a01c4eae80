"""Formats whose pictures are plain files: what they share. `rows/<split>.parquet` has every column of every row with
its type, and in place of a picture the path of its file: trainers' own files name less, and licence, consent and
source must stay with a picture in any format."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa
import pyarrow.parquet as pq

from idtool.curate import dataset
from idtool.curate.formats.base import Format, Found, Item, Picture
from idtool.curate.formats.parquet import opened, rows_of
from idtool.curate.formats.store_path import Folder, files_below, inside, listed
from idtool.curate.layout import Layout
from idtool.errors import RunFailed

ROWS = "rows"
FILE = "_file"
"""Ending of the column with the path of a picture."""
NOT_PICTURES = (".parquet", ".jsonl", ".json", ".txt", ".md", ".sha256")


class FileFormat(Format):
    made: ClassVar[bool] = False

    def __init__(self, folder: Path, schema: pa.Schema, layout: Layout, file_bytes: int) -> None:
        super().__init__(folder, schema, layout, file_bytes)
        pictures = [column for column in schema if column.type == dataset.IMAGE]
        plain = [column for column in schema if column.type != dataset.IMAGE]
        paths = [
            pa.field(f"{column.name}{FILE}", pa.string(), metadata={"doc": f"file of `{column.name}`"})
            for column in pictures
        ]
        self.rows_schema = pa.schema([*plain[:2], *paths, *plain[2:]])
        self._writers: dict[str, pq.ParquetWriter] = {}
        self._pending: dict[str, list[pa.Table]] = {}
        self._written: set[str] = set()

    @abstractmethod
    def place(self, split: str, item: Item, column: str, picture: Picture) -> str:
        """Where the file of a picture is, relative to the folder. One place has one picture."""

    def written(self, split: str, item: Item, column: str, path: Path) -> None:
        """What else there is to write when a picture's file, `path`, has been written."""

    def add(self, split: str, item: Item) -> int:
        paths: dict[str, str | None] = {}
        for column, picture in item.images.items():
            paths[column] = None if picture is None else self.place(split, item, column, picture)
            place = paths[column]
            # Pairs share pictures: each is written once in a split, which has all that share it.
            if picture is not None and place is not None and place not in self._written:
                path = self.folder / place
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(picture["bytes"])
                self._written.add(place)
                self.written(split, item, column, path)
                self.spool.closed(path)
        self._write_row(split, item.table, paths)
        return 0

    def _write_row(self, split: str, row: pa.Table, paths: dict[str, str | None]) -> None:
        columns = [
            pa.array([paths[column.name.removesuffix(FILE)]], pa.string())
            if column.name not in row.column_names
            else row[column.name].combine_chunks()
            for column in self.rows_schema
        ]
        self._pending.setdefault(split, []).append(pa.table(columns, schema=self.rows_schema))
        if len(self._pending[split]) >= dataset.GROUP_ROWS:
            self._flush(split)

    def _flush(self, split: str) -> None:
        if split not in self._writers:
            path = self.folder / ROWS / f"{split}.parquet"
            path.parent.mkdir(exist_ok=True)
            self._writers[split] = pq.ParquetWriter(path, self.rows_schema, compression="zstd")
        if self._pending[split]:
            self._writers[split].write_table(pa.concat_tables(self._pending[split]))
            self._pending[split] = []

    def close(self) -> dict[str, list[str]]:
        done = {}
        for split in self._pending:
            self._flush(split)
            self._writers[split].close()
            done[split] = [f"{ROWS}/{split}.parquet"]
        return self.finish(done)

    def finish(self, rows: dict[str, list[str]]) -> dict[str, list[str]]:
        """What else there is to write when all rows are: `rows` are the files with them, by split. Returns the files to
        name for each split."""
        return rows

    def rows(self, split: str) -> Iterator[dict[str, Any]]:
        """The rows of a split as they were written."""
        return _rows(self.folder / ROWS / f"{split}.parquet")

    @classmethod
    def read(cls, folder: Folder, layout: Layout, *, whole: bool) -> Iterator[Found]:
        named: set[str] = set()
        for path in listed(folder / ROWS, "*.parquet"):
            for row in _rows(path):
                files = {name.removesuffix(FILE): row.pop(name) for name in list(row) if name.endswith(FILE)}
                held = {column: place for column, place in files.items() if place is not None}
                for place in held.values():
                    if place not in named and not (folder / place).is_file():
                        raise RunFailed(f"{path.name} names a picture that is not there: {place}.", "Export again.")
                named.update(held.values())
                bytes_of = {name: (folder / place).read_bytes() for name, place in held.items()} if whole else {}
                where = held.get(next(iter(layout.images)), inside(path, folder))
                yield Found(where, path.stem, row, bytes_of)
        if whole:
            for path in files_below(folder):
                place = inside(path, folder)
                if path.suffix not in NOT_PICTURES and place not in named:
                    yield Found(place, place.partition("/")[0], None, {"": path.read_bytes()})


def _rows(path: Folder) -> Iterator[dict[str, Any]]:
    with opened(path) as file:
        yield from rows_of(file)
