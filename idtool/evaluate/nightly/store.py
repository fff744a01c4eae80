"""The store of dated results, under any fsspec URL. A night is there when its status.json is, which is written last."""

from __future__ import annotations

import json
import posixpath
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from idtool.errors import IdtoolError, MissingError, UsageError
from idtool.evaluate.nightly.lock import Lock

TABLES = ("scores.parquet", "samples.parquet", "report.parquet", "pairs.parquet")
FILES = ("bench.json", "suite.yaml", *TABLES, "report.html", "report.md")
"""What a night leaves in the store, besides status.json."""
STATUS = "status.json"
LOCK = "lock.json"


@dataclass(frozen=True)
class Night:
    """One finished night."""

    date: str
    status: dict[str, Any]

    @property
    def good(self) -> bool:
        return bool(self.status.get("good"))


class Store:
    """Results of one suite: `<url>/suite=<name>/date=<YYYY-MM-DD>/`. What its file system raises becomes a MissingError
    with the URL, without its login."""

    def __init__(self, url: str, suite: str) -> None:
        import fsspec

        from idtool.media.paths import package_hint, without_login

        self.shown = without_login(url)
        try:
            self.fs, root = fsspec.core.url_to_fs(url)
        except ImportError as error:
            raise MissingError(f"Cannot open the store {self.shown}: {error}.", package_hint(url)) from error
        except (ValueError, OSError) as error:
            raise UsageError(
                f"Cannot open the store {self.shown}: {error}.", "Check the URL and its package."
            ) from error
        self.root = posixpath.join(root, f"suite={suite}")

    def folder(self, date: str) -> str:
        return posixpath.join(self.root, f"date={date}")

    def nights(self) -> list[Night]:
        """Finished nights, by date."""
        found = []
        with self._told("read"):
            self.fs.invalidate_cache()
            # Listed, not globbed: a folder's name may have brackets.
            paths = self.fs.ls(self.root, detail=False) if self.fs.exists(self.root) else []
            for path in sorted(path.rstrip("/") for path in paths):
                name = posixpath.basename(path)
                status = self._status(path) if name.startswith("date=") else None
                if status is not None:
                    found.append(Night(name.removeprefix("date="), status))
        return found

    def _status(self, folder: str) -> dict[str, Any] | None:
        """None for a night that was not published to its end."""
        try:
            status = json.loads(self.fs.cat_file(posixpath.join(folder, STATUS)))
        except (FileNotFoundError, ValueError):
            return None
        return status if isinstance(status, dict) else None

    def publish(self, bench: Path, date: str, status: dict[str, Any]) -> None:
        """The files of a benchmark as the night of `date`, in place of what was there."""
        self.remove(date)
        folder = self.folder(date)
        with self._told("write to"):
            self.fs.makedirs(folder, exist_ok=True)
            for name in FILES:
                if (bench / name).is_file():
                    self.fs.put_file(str(bench / name), posixpath.join(folder, name))
            self.fs.pipe_file(posixpath.join(folder, STATUS), json.dumps(status, indent=1, default=str).encode())

    def fetch(self, date: str, target: Path) -> Path:
        """What comparisons need of a night, as a folder on this machine."""
        target.mkdir(parents=True, exist_ok=True)
        with self._told("read"):
            for name in ("bench.json", *TABLES):
                path = posixpath.join(self.folder(date), name)
                if self.fs.exists(path):
                    self.fs.get_file(path, str(target / name))
        return target

    def remove(self, date: str) -> None:
        """Whatever there is of a night."""
        with self._told("write to"):
            if self.fs.exists(self.folder(date)):
                # What says that the night is there goes first: a removal that breaks off leaves no half of one.
                status = posixpath.join(self.folder(date), STATUS)
                if self.fs.exists(status):
                    self.fs.rm_file(status)
                self.fs.rm(self.folder(date), recursive=True)

    @contextmanager
    def locked(self, stale_hours: float) -> Iterator[None]:
        """Keeps jobs of other machines away (`idtool.evaluate.nightly.lock`). UsageError when one is at work."""
        with self._told("write to"):
            self.fs.makedirs(self.root, exist_ok=True)
            lock = Lock(self.fs, posixpath.join(self.root, LOCK), self.shown, stale_hours)
            lock.take()
        try:
            yield
        finally:
            lock.release()

    @contextmanager
    def _told(self, what: str) -> Iterator[None]:
        try:
            yield
        except IdtoolError:
            raise
        except Exception as error:  # every file system has errors of its own, and few of them are OSErrors
            raise MissingError(
                f"Cannot {what} the store {self.shown}: {error or type(error).__name__}.",
                "Check the URL and its credentials.",
            ) from error
