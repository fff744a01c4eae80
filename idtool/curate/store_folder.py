"""A data set on an object store, through fsspec: files are sent as they are finished, beside the place of the data set,
and come into it, by copies on the store, when all are there and were read back.

    PREFIX/checksums.sha256         written last: without it nothing here is a data set
    PREFIX/.idtool-writing/         while one is being written: `lock.json`, `files/…`, and `moving.sha256`, which names
                                    the files that go and come from the moment on when the old data set is touched

Nothing is deleted that these do not name. The login is the file system's own affair (environment, instance role, its
files): this module neither reads nor writes it.
"""

from __future__ import annotations

import contextlib
import posixpath
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath

from idtool.curate import store_access
from idtool.curate.destination import Destination
from idtool.curate.folders import CHECKSUMS
from idtool.curate.formats import Format, Found
from idtool.curate.formats.store_path import StorePath, Tree
from idtool.curate.layout import Layout
from idtool.curate.uploads import Sent, Uploads
from idtool.errors import RunFailed, UsageError
from idtool.evaluate.nightly.lock import Lock

WRITING = ".idtool-writing"
FILES = f"{WRITING}/files"
LOCK = f"{WRITING}/lock.json"
MOVING = f"{WRITING}/moving.sha256"
STALE_HOURS = 0.5
"""After which the lock of an export on another machine, if it is not renewed, is taken over."""
LAST = ("removal.json", "README.md")
"""Written when everything else is, and put in their place after it."""
_LINE = re.compile(r"([0-9a-f]{64})  (.+)")


class StoreFolder(Destination):
    """`url`: of the data set. `work`: a folder of this machine for what is not sent yet."""

    def __init__(self, url: str, work: Path, failure: Path) -> None:
        """What `store_access.opened` raises. Nothing is asked of the store yet."""
        self.shown, self.work, self.failure = url.rstrip("/"), work, failure
        self.fs, self.root = store_access.opened(url)
        self._has_folders = self.root.startswith("/")
        self._made: set[str] = set()
        self._renamed: dict[Path, Path] = {}
        self._moving = False
        """Whether the old data set was touched, and the new one is not in its place."""

    def __enter__(self) -> StoreFolder:
        """UsageError where the place has something else, or is in use; MissingError where it cannot be written to."""
        with store_access.told(f"Cannot write to {self.shown}"):
            self._old, self._half = self._inspect()
            self._parent_of(LOCK)
            self._lock = Lock(self.fs, self._key(LOCK), self.shown, STALE_HOURS)
            self._lock.take()
        self._uploads = Uploads(self.fs)
        return self

    def begin(self) -> None:
        shutil.rmtree(self.work, ignore_errors=True)
        self.work.mkdir(parents=True)
        self._uploads.drop()
        self._renamed.clear()
        with store_access.told(f"Cannot write to {self.shown}"):
            self._remove(self._sizes(FILES))

    def closed(self, path: Path) -> None:
        name = f"{FILES}/{self._name(path)}"
        with self._sending():
            self._parent_of(name)
            self._uploads.send(path, self._key(name))

    def renamed(self, path: Path, new: Path) -> None:
        self._renamed[path] = new

    def read_back(self, form: type[Format], layout: Layout, *, whole: bool) -> Iterator[Found]:
        with self._sending():
            self._uploads.flush()  # what is on its way is not found below
            for path in sorted(self.work.rglob("*")):
                if path.is_file() and self._name(path) not in LAST:
                    self.closed(path)
            self._uploads.flush()
            self._arrived({self._inside(sent.key): sent.size for sent in self._sent().values()}, FILES)
        tree = Tree(self.fs, {name: sent.key for name, sent in self._sent().items()}, self.shown, self.work)
        with store_access.told(f"Cannot read back what was sent to {self.shown}", RunFailed, "Run it again."):
            yield from form.read(StorePath(tree), layout, whole=whole)

    def commit(self) -> None:
        new = self._sent()
        last = {name: Sent.of(self.work / name, self._key(name)) for name in LAST if (self.work / name).is_file()}
        table = _table({name: sent.sha256 for name, sent in {**new, **last}.items()})
        with self._sending():
            self.fs.pipe_file(self._key(MOVING), _table({**self._old, **dict.fromkeys((*new, *last), "0" * 64)}))
            self._moving = True
            self._remove([CHECKSUMS])
            self._remove(name for name in self._old if name not in new)
            for name in new:
                self._parent_of(name)
            self._uploads.each(self.fs.cp_file, ((sent.key, self._key(name)) for name, sent in new.items()))
            self._arrived({name: sent.size for name, sent in new.items()})
            for name, sent in last.items():
                self.fs.put_file(str(self.work / name), sent.key)
            self.fs.pipe_file(self._key(CHECKSUMS), table)
            self._moving = self._half = False

    def __exit__(self, *_: object) -> None:
        self._uploads.drop()
        with contextlib.suppress(Exception):  # what cannot be cleared away now is when the next export begins
            if not self._moving:
                self._remove(self._sizes(FILES))
                if not self._half:
                    self._remove([MOVING])
            if self._has_folders:
                self.fs.rm(self._key(FILES), recursive=True)
        self._uploads.close()
        self._lock.release()
        with contextlib.suppress(Exception):
            if self._has_folders:
                self.fs.rmdir(self._key(WRITING))
        shutil.rmtree(self.work, ignore_errors=True)

    # -- what is there ---------------------------------------------------------------------------------------------

    def _inspect(self) -> tuple[dict[str, str], bool]:
        """The files of the data set that is there, and whether it is half in its place. UsageError when there are
        others."""
        there = self._sizes()
        tables = [name for name in (CHECKSUMS, MOVING) if name in there]
        old = {name: digest for table in tables for name, digest in self._listed(table)}
        strangers = [name for name in there if name not in {CHECKSUMS, *old} and not name.startswith(f"{WRITING}/")]
        if strangers:
            what = "files that are not of the data set there" if tables else "no data set of this tool"
            raise UsageError(
                f"{self.shown} is not empty and holds {what} ({min(strangers)}).", "Choose another --output."
            )
        return {name: digest for name, digest in old.items() if name in there}, tables == [MOVING]

    def _sizes(self, under: str = "") -> dict[str, int]:
        """Name -> size of the files below a folder of the place."""
        self.fs.invalidate_cache()
        try:
            found = self.fs.find(self._key(under).rstrip("/"), detail=True)
        except FileNotFoundError:
            return {}
        if self.root in found:
            raise UsageError(f"{self.shown} is a file.", "Choose another --output.")
        return {self._inside(path): int(about["size"] or 0) for path, about in found.items()}

    def _listed(self, table: str) -> Iterator[tuple[str, str]]:
        for line in self.fs.cat_file(self._key(table)).decode("utf-8", "replace").splitlines():
            match = _LINE.fullmatch(line)
            if match is None or not {"", "..", "."}.isdisjoint(match[2].split("/")):
                raise UsageError(f"{self.shown}/{table} is not of this tool.", "Choose another --output.")
            yield match[2], match[1]

    def _arrived(self, wanted: Mapping[str, int], under: str = "") -> None:
        there = self._sizes(under)
        lost = [name for name, size in wanted.items() if there.get(name) != size]
        if lost:
            more = f", nor did {len(lost) - 1} others" if len(lost) > 1 else ""
            raise RunFailed(f"{min(lost)} did not arrive whole at {self.shown}{more}.", "Run it again.")

    # -- small parts -----------------------------------------------------------------------------------------------

    def _key(self, name: str) -> str:
        return posixpath.join(self.root, name)

    def _inside(self, key: str) -> str:
        return key.removeprefix(f"{self.root}/")

    def _name(self, path: Path) -> str:
        return self._renamed.get(path, path).relative_to(self.work).as_posix()

    def _sent(self) -> dict[str, Sent]:
        """Name in the data set -> where it is."""
        return {self._name(path): sent for path, sent in self._uploads.done.items()}

    def _parent_of(self, name: str) -> None:
        """Make the folder of a file, on file systems that have folders."""
        folder = posixpath.dirname(self._key(name))
        if self._has_folders and folder not in self._made:
            self.fs.makedirs(folder, exist_ok=True)
            self._made.add(folder)

    def _remove(self, names: Iterable[str]) -> None:
        self._uploads.each(self._remove_one, ((self._key(name),) for name in names))

    def _remove_one(self, key: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            self.fs.rm_file(key)

    @contextlib.contextmanager
    def _sending(self) -> Iterator[None]:
        try:
            with store_access.told(f"The export to {self.shown} broke off", RunFailed, "Run it again."):
                yield
        except RunFailed as error:
            error.message += " The data set there is incomplete." if self._moving else " What was there is unchanged."
            raise


def _table(files: Mapping[str, str]) -> bytes:
    """Checksums in the format and order of `folders.write_checksums`."""
    lines = [f"{files[name]}  {name}" for name in sorted(files, key=PurePosixPath)]
    return ("\n".join(lines) + "\n").encode()
