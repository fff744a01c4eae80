"""WebDataset: tar files of bounded size, a sample being the files of one key (https://github.com/webdataset/webdataset).

Of a pair: `KEY.a_image.jpg`, `KEY.b_image.jpg`, `KEY.json`, `KEY.txt`; of a record `KEY.jpg`, `KEY.json`, `KEY.txt` and
its further pictures (`KEY.eyes_mask.png`). Written with the standard library; readers need no package of ours.
"""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, ClassVar

import pyarrow as pa

from idtool.curate.formats.base import Format, Found, Item, as_json, file_name, key_of, target_side, text_of
from idtool.curate.formats.store_path import Folder, inside, listed
from idtool.curate.layout import PAIRS, Layout
from idtool.curate.spool import Spool
from idtool.errors import RunFailed

BLOCK = tarfile.BLOCKSIZE
END = bytes(2 * BLOCK)
"""What ends a tar file."""
JSON, TEXT = "json", "txt"


class WebDatasetFormat(Format):
    name: ClassVar[str] = "webdataset"
    summary: ClassVar[str] = "tar files of pictures, JSON and captions, for WebDataset"
    texts: ClassVar[bool] = True

    def __init__(self, folder: Path, schema: pa.Schema, layout: Layout, file_bytes: int) -> None:
        super().__init__(folder, schema, layout, file_bytes)
        (folder / "data").mkdir()
        self._shards: dict[str, Shards] = {}

    def add(self, split: str, item: Item) -> int:
        if split not in self._shards:
            self._shards[split] = Shards(self.folder / "data", split, self.file_bytes, self.spool)
        return self._shards[split].add(key_of(item.id), self._members(item))

    def _members(self, item: Item) -> dict[str, bytes]:
        """Ending -> bytes."""
        members = {
            JSON: as_json(item.row).encode("ascii"),
            TEXT: text_of(item.row, target_side(self.layout)).encode("utf-8", "backslashreplace"),
        }
        for column, picture in item.images.items():
            if picture is not None:
                ending = file_name(picture).rpartition(".")[2]
                members[ending if column == "image" else f"{column}.{ending}"] = picture["bytes"]
        return members

    def close(self) -> dict[str, list[str]]:
        return {split: [f"data/{name}" for name in shards.close()] for split, shards in self._shards.items()}

    @classmethod
    def read(cls, folder: Folder, layout: Layout, *, whole: bool) -> Iterator[Found]:
        for path in listed(folder / "data", "*.tar"):
            where, split = inside(path, folder), path.name.rpartition("-")[0]
            with path.open("rb") as source, tarfile.open(fileobj=source, mode="r:") as tar:
                key, sample = "", dict[str, bytes]()
                for member in tar:
                    this, _, ending = member.name.partition(".")
                    if this != key and sample:
                        yield _found(f"{where}/{key}", split, sample)
                        sample = {}
                    key = this
                    if ending == JSON or whole:
                        stream = tar.extractfile(member)
                        sample[ending] = stream.read() if stream is not None else b""
                if sample:
                    yield _found(f"{where}/{key}", split, sample)

    @classmethod
    def usage(cls, layout: Layout, splits: Sequence[str]) -> str:
        image = "b_image.jpg;b_image.png;b_image.webp" if layout is PAIRS else "jpg;png;webp"
        return (
            "A sample is the files of one key: pictures, `json` with the columns below, and `txt` with the caption of\n"
            f"{'image b' if layout is PAIRS else 'the image'} (empty where there is none).\n\n"
            "```python\nimport glob, webdataset\n\n"
            f'samples = webdataset.WebDataset(sorted(glob.glob("path/to/this/folder/data/{splits[0]}-*.tar")), '
            "shardshuffle=False)\n"
            f'for image, text, row in samples.decode("pil").to_tuple("{image}", "txt", "json"):\n    ...\n```'
        )

    @classmethod
    def data_files(cls, split: str) -> str | None:
        return f"data/{split}-*.tar"


class Shards:
    """The tar files of one split: `train-000000.tar`, each at most `file_bytes` long unless one sample is longer."""

    def __init__(self, folder: Path, split: str, file_bytes: int, spool: Spool | None = None) -> None:
        self.folder, self.split, self.file_bytes, self.spool = folder, split, file_bytes, spool or Spool()
        self.names: list[str] = []
        self._file: BinaryIO | None = None

    def add(self, key: str, members: Mapping[str, bytes]) -> int:
        """Write the files of one sample; returns the number of the shard."""
        # `tarfile.TarFile` remembers every member that it wrote, so headers and blocks are written here.
        blocks = []
        for ending in sorted(members):
            info = tarfile.TarInfo(f"{key}.{ending}")  # owner, group and time are 0: nothing of this machine
            info.size = len(members[ending])
            padding = bytes(-info.size % BLOCK)
            blocks += [info.tobuf(tarfile.GNU_FORMAT, "utf-8", "strict"), members[ending], padding]
        sink = self._shard(sum(map(len, blocks)) + len(END))
        sink.writelines(blocks)
        return len(self.names) - 1

    def _shard(self, size: int) -> BinaryIO:
        """The file to write `size` bytes to."""
        if self._file is None or (self._file.tell() and self._file.tell() + size > self.file_bytes):
            self._finish()
            self.names.append(f"{self.split}-{len(self.names):06d}.tar")
            self._file = open(self.folder / self.names[-1], "wb")  # noqa: SIM115 - many samples
        return self._file

    def _finish(self) -> None:
        if self._file is not None:
            self._file.write(END)
            self._file.close()
            self._file = None
            self.spool.closed(self.folder / self.names[-1])

    def close(self) -> list[str]:
        self._finish()
        return self.names


def _found(where: str, split: str, sample: Mapping[str, bytes]) -> Found:
    if JSON not in sample:
        raise RunFailed(f"{where} has no JSON file.", "The data set is damaged; export it again.")
    row: dict[str, Any] = json.loads(sample[JSON])
    pictures = {ending.partition(".")[0] if "." in ending else "image": data for ending, data in sample.items()
                if ending not in (JSON, TEXT)}  # fmt: skip
    text = {"text": sample[TEXT].decode("utf-8")} if TEXT in sample else {}
    return Found(where, split, {**text, **row}, pictures)
