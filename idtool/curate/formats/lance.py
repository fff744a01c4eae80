"""Lance: one columnar data set per split, with random access to pictures (https://lance.org; package `pylance`).

Rows are spooled as the Parquet files of the default format and copied from there, so that memory stays that of one row
group; the disk holds both for a moment. Lance names its files at random: two exports have equal rows, not equal bytes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import ClassVar

import pyarrow as pa
import pyarrow.parquet as pq

from idtool.curate import dataset
from idtool.curate.formats.base import Found, Item, narrow
from idtool.curate.formats.parquet import ParquetFormat, found
from idtool.curate.formats.store_path import Folder, fetched, inside, listed
from idtool.curate.layout import PAIRS, Layout
from idtool.curate.spool import Spool
from idtool.engine.table import batches_of


class LanceFormat(ParquetFormat):
    name: ClassVar[str] = "lance"
    summary: ClassVar[str] = "Lance data sets with the pictures inside"
    package: ClassVar[str | None] = "lance"
    wheel: ClassVar[str] = "pylance"
    extra: ClassVar[str | None] = "exports"
    same_bytes: ClassVar[bool] = False

    def add(self, split: str, item: Item) -> int:
        super().add(split, item)
        return 0

    def _spool(self) -> Spool:
        return Spool()  # the Parquet files are read again

    def close(self) -> dict[str, list[str]]:
        import lance

        written = {}
        for split, files in super().close().items():
            paths = [self.folder / name for name in files]
            schema = pq.read_schema(paths[0])
            reader = pa.RecordBatchReader.from_batches(schema, _batches(paths))
            target = self.folder / "data" / f"{split}.lance"
            lance.write_dataset(reader, str(target), max_bytes_per_file=self.file_bytes)
            for path in paths:
                path.unlink()
            for path in target.rglob("*"):
                if path.is_file():
                    self.spool.closed(path)
            written[split] = [f"data/{split}.lance"]
        return written

    @classmethod
    def read(cls, folder: Folder, layout: Layout, *, whole: bool) -> Iterator[Found]:
        import lance

        for path in listed(folder / "data", "*.lance"):
            where, columns = inside(path, folder), None if whole else narrow(layout)
            with fetched(path) as here:
                data = lance.dataset(str(here))
                for batch in data.to_batches(columns=columns, batch_size=dataset.GROUP_ROWS, batch_readahead=1):
                    for row in batch.to_pylist():
                        yield found(where, path.stem, row)

    @classmethod
    def usage(cls, layout: Layout, splits: Sequence[str]) -> str:
        image = "a_image" if layout is PAIRS else "image"
        return (
            "Columns are those below; a picture is `{bytes, path}`.\n\n```python\nimport lance\n\n"
            f'{layout.nouns} = lance.dataset("path/to/this/folder/data/{splits[0]}.lance")\n'
            f'{layout.nouns}.take([0]).to_pylist()[0]["{image}"]["bytes"]  # an encoded image\n```'
        )

    @classmethod
    def opening(cls, layout: Layout, splits: Sequence[str]) -> str:
        return super(ParquetFormat, cls).opening(layout, splits)

    @classmethod
    def data_files(cls, split: str) -> str | None:
        return None


def _batches(paths: Sequence[Folder]) -> Iterator[pa.RecordBatch]:
    for path in paths:
        with pq.ParquetFile(path) as file:
            yield from batches_of(file, dataset.GROUP_ROWS)
