"""What a format of the data set is: takes rows one at a time, and gives back what a folder holds.

A format writes below a folder that becomes the data set only when all is written, holds one picture or one row group at
a time, and writes the same bytes for the same rows (`same_bytes` says where it cannot).
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa

from idtool.curate.formats.store_path import Folder
from idtool.curate.layout import PAIRS, Layout
from idtool.curate.spool import Spool
from idtool.errors import MissingError
from idtool.registry import Registry

Picture = dict[str, Any]
"""`{"bytes", "path"}`: an encoded image and its file name."""

_SAFE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_~-]{0,119}")
_UNSAFE = re.compile(r"[^A-Za-z0-9_~-]+")


@dataclass(frozen=True)
class Item:
    """One row to write."""

    id: str
    table: pa.Table
    """The row as a table of one, without pictures."""
    row: Mapping[str, Any]
    """The same as plain values: the columns of the data set that are no pictures."""
    images: Mapping[str, Picture | None]
    """Column -> picture."""


@dataclass(frozen=True)
class Found:
    """What reading a data set back finds: a row, or a picture that no row names."""

    where: str
    """File in the data set."""
    split: str
    row: Mapping[str, Any] | None
    pictures: Mapping[str, bytes] = field(default_factory=dict)
    """Column -> bytes; empty unless whole rows were asked for."""


class Format(ABC):
    """Writes one data set into `folder`; `schema` is that of the data set, pictures included."""

    name: ClassVar[str]
    summary: ClassVar[str]
    package: ClassVar[str | None] = None
    """Module that must be importable, beyond what the tool depends on."""
    wheel: ClassVar[str] = ""
    """The package of the index that has it."""
    extra: ClassVar[str | None] = None
    """The extra of this tool that brings it, if one does."""
    made: ClassVar[bool] = True
    """Whether pictures that steps made of an image (masks, crops) are written, too."""
    texts: ClassVar[bool] = False
    """Whether captions are written for trainers, which know no null: as empty text where there is none."""
    same_bytes: ClassVar[bool] = True

    def __init__(self, folder: Path, schema: pa.Schema, layout: Layout, file_bytes: int) -> None:
        self.folder, self.schema, self.layout, self.file_bytes = folder, schema, layout, file_bytes
        self.spool = Spool()
        """Is told of files that are finished, as soon as they are: they may be sent away before the others are."""

    @classmethod
    def check(cls, layout: Layout) -> None:
        """Before anything is written: MissingError for a package that is not here, UsageError for a layout that the
        format cannot hold."""
        if cls.package is not None and find_spec(cls.package) is None:
            install = f"'idtool[{cls.extra}]'" if cls.extra else cls.wheel
            raise MissingError(f"Format {cls.name!r} needs the package {cls.wheel}.", f"pip install {install}.")

    @abstractmethod
    def add(self, split: str, item: Item) -> int:
        """Write one row; returns which of the split's files it is in, as counted by `close`."""

    @abstractmethod
    def close(self) -> dict[str, list[str]]:
        """Finish. Split -> its files, relative to the folder, in order; splits without rows are left out."""

    @classmethod
    @abstractmethod
    def read(cls, folder: Folder, layout: Layout, *, whole: bool) -> Iterator[Found]:
        """The rows of a written data set: `whole` ones with all columns and the bytes of their pictures, and every
        picture that no row names; else at least the columns `narrow`. The folder may be on an object store: of a path
        only what `StorePath` has is used."""

    @classmethod
    @abstractmethod
    def usage(cls, layout: Layout, splits: Sequence[str]) -> str:
        """Markdown for the data card: how it is opened."""

    @classmethod
    def opening(cls, layout: Layout, splits: Sequence[str]) -> str:
        """The passage of the data card that says which format it is, and how it is opened."""
        return f"Format: `{cls.name}`. {cls.usage(layout, splits)}"

    @classmethod
    def data_files(cls, split: str) -> str | None:
        """Pattern of a split's files, as `datasets` and the hub read it; None where they know no such format."""
        return None


FORMATS: Registry[type[Format]] = Registry(
    "format",
    {
        "parquet": "idtool.curate.formats.parquet:ParquetFormat",
        "webdataset": "idtool.curate.formats.webdataset:WebDatasetFormat",
        "folder": "idtool.curate.formats.folder:FolderFormat",
        "folder-diffusers": "idtool.curate.formats.folder:DiffusersFormat",
        "folder-kohya": "idtool.curate.formats.folder:KohyaFormat",
        "folder-pairs": "idtool.curate.formats.folder:PairsFormat",
        "lance": "idtool.curate.formats.lance:LanceFormat",
        "fiftyone": "idtool.curate.formats.fiftyone:FiftyOneFormat",
    },
    group="idtool.formats",
)


def key_of(text: str) -> str:
    """A name that any file system and any tar reader takes, without dots: `text` itself where it is one, else what of
    it can stay and a hash of all of it. At most 120 characters. Different texts have different names."""
    if _SAFE.fullmatch(text):
        return text
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]
    kept = _UNSAFE.sub("_", text)[:40].strip("_~-")
    return f"{kept or 'x'}-{digest}"


def file_name(picture: Picture) -> str:
    """The file name of a picture: a safe key and its ending."""
    stem, _, ending = str(picture["path"]).rpartition(".")
    return f"{key_of(stem)}.{ending}"


def narrow(layout: Layout) -> list[str]:
    """The columns by which rows are told apart."""
    return list(dict.fromkeys(("id", "identity", *layout.ids)))


def target_side(layout: Layout) -> str:
    """Prefix of the columns of the image that a generator learns to make: b of a pair, whose a is the reference."""
    return "b_" if layout is PAIRS else ""


def text_of(row: Mapping[str, Any], side: str) -> str:
    """What a trainer reads of an image: the person, then the background where a model or the input described it (the
    template says only that nobody did). Empty where there is no caption: trainers know no null."""
    parts = [row.get(f"{side}caption")]
    if "template" not in (row.get("caption_by") or ""):
        parts.append(row.get(f"{side}background"))
    return " ".join(part.strip() for part in parts if part and part.strip())


def as_json(row: Mapping[str, Any]) -> str:
    """A row on one line of JSON, keys in the row's order: bytes are left out, numbers that are not finite are null."""
    content = {name: _plain(value) for name, value in row.items() if not isinstance(value, bytes)}
    # Half characters, as file names that are no UTF-8 are held, are written as escapes.
    return json.dumps(content, ensure_ascii=True, allow_nan=False)


def _plain(value: Any) -> Any:
    if isinstance(value, list):
        return [_plain(each) for each in value]
    if isinstance(value, dict):
        return {name: _plain(each) for name, each in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value
