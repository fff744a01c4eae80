"""Parquet with the pictures inside: what `datasets.load_dataset` opens, and the default."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa
import pyarrow.parquet as pq

from idtool.curate import dataset
from idtool.curate.formats.base import Format, Found, Item, narrow
from idtool.curate.formats.store_path import Folder, StorePath, inside, listed
from idtool.curate.layout import PAIRS, Layout
from idtool.curate.spool import Spool
from idtool.engine.table import batches_of


class ParquetFormat(Format):
    name: ClassVar[str] = "parquet"
    summary: ClassVar[str] = "Parquet with the pictures inside, for `datasets`"

    def __init__(self, folder: Path, schema: pa.Schema, layout: Layout, file_bytes: int) -> None:
        super().__init__(folder, schema, layout, file_bytes)
        (folder / "data").mkdir()
        self._writers: dict[str, dataset.SplitWriter] = {}

    def add(self, split: str, item: Item) -> int:
        if split not in self._writers:
            files = self.folder / "data", split, self.schema, self.file_bytes, self._spool()
            self._writers[split] = dataset.SplitWriter(*files)
        return self._writers[split].add(item.table, item.images)

    def _spool(self) -> Spool:
        """Who is told of finished Parquet files."""
        return self.spool

    def close(self) -> dict[str, list[str]]:
        return {split: [f"data/{name}" for name in writer.close()] for split, writer in self._writers.items()}

    @classmethod
    def read(cls, folder: Folder, layout: Layout, *, whole: bool) -> Iterator[Found]:
        for path in listed(folder / "data", "*.parquet"):
            split = path.name.rsplit("-", 3)[0]
            with opened(path) as file:
                columns = None if whole else narrow(layout)
                for row in rows_of(file, columns):
                    yield found(inside(path, folder), split, row)

    @classmethod
    def usage(cls, layout: Layout, splits: Sequence[str]) -> str:
        image = "a_image" if layout is PAIRS else "image"
        return (
            "\n\n```python\nfrom datasets import load_dataset\n\n"
            f'{layout.nouns} = load_dataset("path/to/this/folder")\n'
            f'{layout.nouns}["{splits[0]}"][0]["{image}"]  # a PIL image\n```'
        )

    @classmethod
    def opening(cls, layout: Layout, splits: Sequence[str]) -> str:
        return cls.usage(layout, splits).strip()  # what a data set is unless it says otherwise

    @classmethod
    def data_files(cls, split: str) -> str | None:
        return f"data/{split}-*.parquet"


@contextmanager
def opened(path: Folder) -> Iterator[pq.ParquetFile]:
    if isinstance(path, StorePath):
        with path.open("rb") as source, pq.ParquetFile(source) as file:
            yield file
    else:
        with pq.ParquetFile(path) as file:
            yield file


def rows_of(file: pq.ParquetFile, columns: list[str] | None = None) -> Iterator[dict[str, Any]]:
    """The rows of an open file as plain values, some 100 read at a time."""
    for batch in batches_of(file, dataset.GROUP_ROWS, columns):
        yield from batch.to_pylist()


def found(where: str, split: str, row: dict[str, Any]) -> Found:
    """A row with its pictures taken out of it."""
    pictures = {name: value["bytes"] for name, value in row.items() if isinstance(value, dict) and "bytes" in value}
    # No picture is null in Parquet; Lance gives an object of nulls for it.
    held = {name: data for name, data in pictures.items() if data is not None}
    rest = {name: None if name in pictures else value for name, value in row.items() if name not in held}
    return Found(where, split, rest, held)
