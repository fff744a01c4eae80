"""The store of dated results, under any fsspec URL. A night is there when its status.json is, which is written last."""

from __future__ import annotations

import json
import os
import posixpath
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from idtool.errors import MissingError, UsageError

FILES = ("bench.json", "suite.yaml", "scores.parquet", "samples.parquet", "report.parquet", "report.html", "report.md")
"""What a night leaves in the store, besides status.json."""
STATUS = "status.json"
LOCK = "lock.json"


@dataclass(frozen=True)
class Night:
    """One finished night."""

    date: str
    good: bool
    status: dict[str, Any]


class Store:
    """Results of one suite. Errors of the file system are MissingError with the URL, without its login."""

    def __init__(self, url: str, suite: str) -> None:
        import fsspec

        from idtool.media.paths import without_login

        self.shown = without_login(url)
        try:
            self.fs, root = fsspec.core.url_to_fs(url)
        except (ImportError, ValueError, OSError) as error:
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
            paths = self.fs.glob(posixpath.join(self.root, "date=*", STATUS))
            for path in sorted(paths):
                status = json.loads(self.fs.cat_file(path))
                date = posixpath.basename(posixpath.dirname(path)).removeprefix("date=")
                found.append(Night(date, bool(status.get("good")), status))
        return found

    def publish(self, bench: Path, date: str, status: dict[str, Any]) -> None:
        """The files of a benchmark as the night of `date`, replacing what a broken night left."""
        folder = self.folder(date)
        with self._told("write to"):
            if self.fs.exists(folder):
                self.fs.rm(folder, recursive=True)
            self.fs.makedirs(folder, exist_ok=True)
            for name in FILES:
                if (bench / name).is_file():
                    self.fs.put_file(str(bench / name), posixpath.join(folder, name))
            self.fs.pipe_file(posixpath.join(folder, STATUS), json.dumps(status, indent=1, default=str).encode())

    def fetch(self, date: str, target: Path) -> Path:
        """What comparisons need of a night, as a folder on this machine."""
        target.mkdir(parents=True, exist_ok=True)
        with self._told("read"):
            for name in ("bench.json", "scores.parquet", "samples.parquet", "report.parquet"):
                path = posixpath.join(self.folder(date), name)
                if self.fs.exists(path):
                    self.fs.get_file(path, str(target / name))
        return target

    def remove(self, date: str) -> None:
        with self._told("write to"):
            self.fs.rm(self.folder(date), recursive=True)

    @contextmanager
    def locked(self, stale_hours: float) -> Iterator[None]:
        """Keeps jobs of other machines away. Not every store can create a file exclusively: this guards against the
        scheduler that starts a night while the last one runs, not against two jobs of the same second. UsageError when
        somebody else holds it."""
        path = posixpath.join(self.root, LOCK)
        mine = {
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "since": datetime.now(UTC).isoformat(),
            "time": time.time(),
        }
        with self._told("write to"):
            self.fs.makedirs(self.root, exist_ok=True)
            self.fs.invalidate_cache()
            if self.fs.exists(path):
                held = json.loads(self.fs.cat_file(path))
                age = (time.time() - float(held.get("time", 0))) / 3600
                same_machine_gone = held.get("host") == mine["host"] and not _alive(int(held.get("pid", 0)))
                if age < stale_hours and not same_machine_gone:
                    raise UsageError(
                        f"The store {self.shown} is in use since {held.get('since')} by process {held.get('pid')} on "
                        f"{held.get('host')}.",
                        f"Wait for it; a lock older than {stale_hours:g} h is taken over.",
                    )
            self.fs.pipe_file(path, json.dumps(mine).encode())
        try:
            yield
        finally:
            with self._told("write to"):
                if self.fs.exists(path):
                    self.fs.rm(path)

    @contextmanager
    def _told(self, what: str) -> Iterator[None]:
        try:
            yield
        except (OSError, ImportError) as error:
            raise MissingError(
                f"Cannot {what} the store {self.shown}: {error}.", "Check the URL and its credentials."
            ) from error


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
