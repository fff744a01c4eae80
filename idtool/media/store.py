"""The media of a run: a content-addressed folder, and one way to open whatever a `media` column names."""

from __future__ import annotations

import hashlib
import itertools
import os
import re
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, BinaryIO, cast

from idtool.engine.operator import Rejected
from idtool.media.limits import check_bytes
from idtool.media.paths import from_uri, local, printable

SCHEME = "store:"
_REF = re.compile(r"store:([0-9a-f]{2}/[0-9a-f]{30}\.[a-z0-9]{1,11})")
_SUFFIX = re.compile(r"\.[a-z0-9]{1,11}")
_CHUNK = 1 << 20
_counter = itertools.count()


class MediaStore:
    """Files named by the SHA-256 of their bytes (first 32 hex digits, as row ids are): `ab/cdef….jpg`.

    Safe for many writers, threads or processes or nodes of one file system: a file is written under a name of its
    own and renamed, and two writers of one content write the same bytes. Nothing is flushed to disk one by one:
    a killed process loses nothing, a power cut may. Errors of the file system carry the path.
    """

    def __init__(self, root: Path | str) -> None:
        self.root = Path(root)

    def put(self, data: bytes, suffix: str) -> str:
        """Store `data`, return its reference `store:ab/cdef….jpg`. The same bytes give the same reference."""
        name = self._name(hashlib.sha256(data).hexdigest(), suffix)
        target = self.root / name
        if not _has_size(target, len(data)):
            with self._temporary(target.parent) as temporary:
                temporary.write_bytes(data)
                temporary.replace(target)
        return SCHEME + name

    def put_stream(self, stream: IO[bytes], suffix: str, *, max_bytes: int | None = None, name: str = "file") -> str:
        """Store what `stream` yields, in constant memory. Raises Rejected `too_large.bytes`."""
        digest, size = hashlib.sha256(), 0
        with self._temporary(self.root) as temporary:
            with open(temporary, "wb") as sink:
                while chunk := stream.read(_CHUNK):
                    size += len(chunk)
                    check_bytes(size, max_bytes, name)
                    digest.update(chunk)
                    sink.write(chunk)
            target = self.root / self._name(digest.hexdigest(), suffix)
            target.parent.mkdir(parents=True, exist_ok=True)
            temporary.replace(target)
        return SCHEME + self._name(digest.hexdigest(), suffix)

    def path(self, ref: str) -> Path:
        """The file of a reference; ValueError for anything that is not one, such as `store:../../etc/passwd`."""
        match = _REF.fullmatch(ref)
        if match is None:
            raise ValueError(f"not a reference into the media store: {ref!r}")
        return self.root / match[1]

    def sweep(self) -> int:
        """Remove what killed writers left behind; only when nobody writes. Returns the number of files removed."""
        leftovers = [*self.root.glob(".*.tmp"), *self.root.glob("[0-9a-f][0-9a-f]/.*.tmp")]
        for path in leftovers:
            path.unlink(missing_ok=True)
        return len(leftovers)

    @staticmethod
    def _name(digest: str, suffix: str) -> str:
        if not _SUFFIX.fullmatch(suffix):
            raise ValueError(f"suffix must be a dot and 1 to 11 lower-case letters or digits, got {suffix!r}")
        return f"{digest[:2]}/{digest[2:32]}{suffix}"

    @contextmanager
    def _temporary(self, folder: Path) -> Iterator[Path]:
        folder.mkdir(parents=True, exist_ok=True)
        unique = f"{os.getpid()}-{threading.get_ident()}-{next(_counter)}-{os.urandom(4).hex()}"
        path = folder / f".{unique}.tmp"
        try:
            yield path
        finally:
            path.unlink(missing_ok=True)


def _has_size(path: Path, size: int) -> bool:
    try:
        return path.stat().st_size == size
    except FileNotFoundError:
        return False


def local_path(ref: str, store_root: Path | str | None = None) -> Path | None:
    """The local file that a `media` reference names; None when it is on a remote file system."""
    if ref.startswith(SCHEME):
        if store_root is None:
            raise ValueError(f"{ref!r} needs the root of its media store")
        return MediaStore(store_root).path(ref)
    return local(ref)


@contextmanager
def open_media(ref: str, store_root: Path | str | None = None, *, max_bytes: int | None = None) -> Iterator[BinaryIO]:
    """Open `store:`, local or fsspec media for reading.

    Raises Rejected: `missing_file`; `unreadable` (a folder, a pipe, no permission); `too_large.bytes`. Failures of
    the machine (a network, a disk) are raised as they are.
    """
    path = local_path(ref, store_root)
    name = printable(from_uri(ref))
    try:
        if path is None:
            import fsspec

            filesystem, inner = fsspec.core.url_to_fs(from_uri(ref))
            check_bytes(int(filesystem.size(inner) or 0), max_bytes, name)
            source = filesystem.open(inner, "rb")
        else:
            about = path.stat()
            if not stat.S_ISREG(about.st_mode):  # opening a pipe would wait for ever
                raise Rejected("unreadable", f"{name} is not a regular file")
            check_bytes(about.st_size, max_bytes, name)
            source = open(path, "rb")  # noqa: SIM115 - closed below; opening errors are told apart from reading errors
    except FileNotFoundError as error:
        raise Rejected("missing_file", f"{name} does not exist") from error
    except (NotADirectoryError, IsADirectoryError) as error:
        raise Rejected("missing_file", f"{name} is not a file") from error
    except PermissionError as error:
        raise Rejected("unreadable", f"{name}: no permission to read it") from error
    with source:
        yield cast(BinaryIO, source)


def open_bytes(ref: str, store_root: Path | str | None = None, *, max_bytes: int | None = None) -> bytes:
    """The bytes behind a reference; errors as `open_media`. At most `max_bytes` + 1 are ever read."""
    with open_media(ref, store_root, max_bytes=max_bytes) as source:
        data = source.read() if max_bytes is None else source.read(max_bytes + 1)
    check_bytes(len(data), max_bytes, printable(from_uri(ref)))
    return data
