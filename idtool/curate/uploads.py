"""Files of this machine, sent to an fsspec file system in the background and removed here."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

AT_ONCE = 8
WAITING_BYTES = 256 << 20
"""Bytes on this machine that wait for, or are in, an upload (one file may have more)."""


@dataclass(frozen=True)
class Sent:
    """A file that is on the store."""

    key: str
    """Its path in the file system."""
    size: int
    sha256: str

    @classmethod
    def of(cls, path: Path, key: str) -> Sent:
        """What is said of a file that is to be at `key`."""
        with open(path, "rb") as source:
            return cls(key, path.stat().st_size, hashlib.file_digest(source, "sha256").hexdigest())


class Uploads:
    """A few uploads at a time. What one of them raises comes out of the next call."""

    def __init__(self, fs: Any) -> None:
        self.fs = fs
        self.done: dict[Path, Sent] = {}
        self._pool = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="upload")
        self._running: dict[Future[Sent], tuple[Path, int]] = {}

    def send(self, path: Path, key: str) -> None:
        """Copy `path` to `key`, then remove it. Waits while there is too much on the way."""
        size = path.stat().st_size
        while self._running and sum(waiting for _, waiting in self._running.values()) + size > WAITING_BYTES:
            self._collect(FIRST_COMPLETED)
        if len(self._running) >= 4 * AT_ONCE:
            self._collect(FIRST_COMPLETED)
        self._running[self._pool.submit(self._put, path, key)] = path, size

    def _put(self, path: Path, key: str) -> Sent:
        sent = Sent.of(path, key)
        self.fs.put_file(str(path), key)
        path.unlink()
        return sent

    def _collect(self, until: str) -> None:
        finished, _ = wait(self._running, return_when=until)
        for future in finished:
            path, _ = self._running.pop(future)
            self.done[path] = future.result()

    def flush(self) -> None:
        """Wait until everything is there."""
        while self._running:
            self._collect(FIRST_COMPLETED)

    def drop(self) -> None:
        """Wait for what is on the way, and forget what was sent."""
        for future in self._running:
            future.cancel()
        wait(self._running)
        self._running.clear()
        self.done.clear()

    def close(self) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)

    def each(self, act: Callable[..., None], items: Iterable[tuple[str, ...]]) -> None:
        """`act(*item)` for all items, a few at a time."""
        rest = iter(items)
        while some := list(islice(rest, 64 * AT_ONCE)):
            for future in [self._pool.submit(act, *item) for item in some]:
                future.result()
