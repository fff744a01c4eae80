"""Parquet with the pictures inside: what `datasets.load_dataset` opens, and the default."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa
import pyarrow.parquet as pq

from idtool.curate import dataset
from idtool.curate.formats.base import Format, Found, Item, narrow
from idtool.curate.layout import PAIRS, Layout


class ParquetFormat(Format):
    name: ClassVar[str] = "parquet"
    summary: ClassVar[str] = "Parquet with the pictures inside, for `datasets`"

    def __init__(self, folder: Path, schema: pa.Schema, layout: Layout, file_bytes: int) -> None:
        super().__init__(folder, schema, layout, file_bytes)
        (folder / "data").mkdir()
        self._writers: dict[str, dataset.SplitWriter] = {}

    def add(self, split: str, item: Item) -> int:
        if split not in self._writers:
            self._writers[split] = dataset.SplitWriter(self.folder / "data", split, self.schema, self.file_bytes)
        return self._writers[split].add(item.table, item.images)

    def close(self) -> dict[str, list[str]]:
        return {split: [f"data/{name}" for name in writer.close()] for split, writer in self._writers.items()}

    @classmethod
    def read(cls, folder: Path, layout: Layout, *, whole: bool) -> Iterator[Found]:
        for path in sorted((folder / "data").glob("*.parquet")):
            split = path.name.rsplit("-", 3)[0]
            with pq.ParquetFile(path) as file:
                columns = None if whole else narrow(layout)
                for row in rows_of(file, columns):
                    yield found(path.relative_to(folder).as_posix(), split, row)

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


def batches_of(file: pq.ParquetFile, columns: list[str] | None = None) -> Iterator[pa.RecordBatch]:
    """The rows of an open file, some 100 at a time."""
    for group in range(file.num_row_groups):
        # One group at a time: over all groups, the iterator keeps the bytes of those that it has left behind.
        yield from file.iter_batches(batch_size=dataset.GROUP_ROWS, row_groups=[group], columns=columns)


def rows_of(file: pq.ParquetFile, columns: list[str] | None = None) -> Iterator[dict[str, Any]]:
    """The same as plain values."""
    for batch in batches_of(file, columns):
        yield from batch.to_pylist()


def found(where: str, split: str, row: dict[str, Any]) -> Found:
    """A row with its pictures taken out of it."""
    held = {name: value["bytes"] for name, value in row.items() if isinstance(value, dict) and "bytes" in value}
    return Found(where, split, {name: value for name, value in row.items() if name not in held}, held)
