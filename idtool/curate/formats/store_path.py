"""Reading a data set back from where it was sent, by the part of `pathlib.Path` that formats read with."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import IO, Any, cast


@dataclass(frozen=True)
class Tree:
    """Files on an fsspec file system."""

    fs: Any
    files: Mapping[str, str]
    """Path in the data set -> path in the file system."""
    shown: str
    scratch: Path
    """Folder on this machine for files that cannot be read where they are."""

    @cached_property
    def names(self) -> list[str]:
        return sorted(self.files)


@dataclass(frozen=True)
class StorePath:
    """A file or folder of a tree; what it has is called and does as in `pathlib.Path`."""

    tree: Tree
    place: PurePosixPath = field(default_factory=PurePosixPath)

    def __truediv__(self, name: str) -> StorePath:
        return StorePath(self.tree, self.place / name)

    def __str__(self) -> str:
        return f"{self.tree.shown}/{self.place}" if self.place.parts else self.tree.shown

    def __lt__(self, other: StorePath) -> bool:
        return self.place < other.place

    @property
    def name(self) -> str:
        return self.place.name

    @property
    def stem(self) -> str:
        return self.place.stem

    @property
    def suffix(self) -> str:
        return self.place.suffix

    def relative_to(self, other: StorePath) -> PurePosixPath:
        return self.place.relative_to(other.place)

    def is_file(self) -> bool:
        return str(self.place) in self.tree.files

    def open(self, mode: str = "rb") -> IO[bytes]:
        file: IO[bytes] = self.tree.fs.open(self.tree.files[str(self.place)], mode)
        return file

    def read_bytes(self) -> bytes:
        data: bytes = self.tree.fs.cat_file(self.tree.files[str(self.place)])
        return data

    def glob(self, pattern: str) -> Iterator[StorePath]:
        """Of this folder's files and folders those of a name; the pattern has no `/`."""
        depth = len(self.place.parts)
        names = dict.fromkeys(path.place.parts[depth] for path in self.rglob("*"))
        return (self / name for name in names if fnmatchcase(name, pattern))

    def rglob(self, pattern: str) -> Iterator[StorePath]:
        """The files below, at any depth. (Folders are not listed.)"""
        for name in self.tree.names:
            place = PurePosixPath(name)
            if place.is_relative_to(self.place) and fnmatchcase(place.name, pattern):
                yield StorePath(self.tree, place)


Folder = Path | StorePath
"""A folder or file of a data set that is read."""


def listed(folder: Folder, pattern: str) -> list[Folder]:
    """Of a folder's files and folders those of a name, in order."""
    return cast(list[Folder], sorted(folder.glob(pattern)))


def files_below(folder: Folder) -> list[Folder]:
    """The files in a folder at any depth, in order."""
    return [path for path in cast(list[Folder], sorted(folder.rglob("*"))) if path.is_file()]


def inside(path: Folder, folder: Folder) -> str:
    """The path of a file or folder in one that it is in, with `/`."""
    return path.relative_to(cast(Any, folder)).as_posix()


@contextmanager
def fetched(path: Folder) -> Iterator[Path]:
    """A file or folder for libraries that read nothing but this machine's disk; a copy is removed afterwards."""
    if isinstance(path, Path):
        yield path
        return
    path.tree.scratch.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.tree.scratch, prefix=".read-") as scratch:
        here = Path(scratch, path.name)
        for file in [path] if path.is_file() else path.rglob("*"):
            target = here / file.relative_to(path)
            target.parent.mkdir(parents=True, exist_ok=True)
            path.tree.fs.get_file(path.tree.files[str(file.place)], str(target))
        yield here
