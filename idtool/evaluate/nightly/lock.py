"""A lock in the store: keeps a scheduler from starting a night on one machine while another still runs the last.

Its owner renews it all the time, so that one which is not renewed was left by a machine that died, however long nights
are. Not every store can create a file exclusively: two jobs that start in the same second are not kept apart.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from idtool.errors import UsageError

RENEWALS = 6
"""In the time after which a lock counts as left behind."""


class Lock:
    """Holds the lock at `path` of the fsspec file system `fs`, from `take` to `release`."""

    def __init__(self, fs: Any, path: str, shown: str, stale_hours: float) -> None:
        """`shown` names the store in messages."""
        self.fs, self.path, self.shown, self.stale_hours = fs, path, shown, stale_hours
        since = datetime.now(UTC).isoformat(timespec="seconds")
        self.mine: dict[str, Any] = {**_here(), "since": since, "token": uuid.uuid4().hex}
        self._done = threading.Event()
        self._renewing = threading.Thread(target=self._renew, name="nightly-lock", daemon=True)

    def take(self) -> None:
        """UsageError when somebody else holds it. Whatever the file system raises comes through."""
        held = self._read()
        if held is not None and not _left_behind(held, self.stale_hours):
            raise UsageError(
                f"The store {self.shown} is in use since {held.get('since')} by process {held.get('pid')} on "
                f"{held.get('host')}.",
                f"Wait for it; a lock that is not renewed for {self.stale_hours:g} h is taken over.",
            )
        self._write()
        self._renewing.start()

    def release(self) -> None:
        """Never raises: a lock that cannot be removed is not renewed any more, and taken over."""
        self._done.set()
        self._renewing.join()
        with contextlib.suppress(Exception):
            if self._is_mine():
                self.fs.rm_file(self.path)

    def _renew(self) -> None:
        while not self._done.wait(self.stale_hours * 3600 / RENEWALS):
            with contextlib.suppress(Exception):  # a store that is away for a moment: the next time, then
                if not self._is_mine():
                    return
                self._write()

    def _is_mine(self) -> bool:
        return bool((self._read() or {}).get("token") == self.mine["token"])

    def _write(self) -> None:
        data = json.dumps({**self.mine, "time": time.time()}).encode()
        if "file" not in self.fs.protocol:
            self.fs.pipe_file(self.path, data)  # object stores show a file when it is whole
            return
        temporary = f"{self.path}.{self.mine['token']}"
        self.fs.pipe_file(temporary, data)
        Path(temporary).replace(self.path)

    def _read(self) -> dict[str, Any] | None:
        """What the lock says; None where there is none, or one that was cut off while it was written."""
        self.fs.invalidate_cache()
        try:
            found = json.loads(self.fs.cat_file(self.path))
        except (FileNotFoundError, ValueError):
            return None
        return found if isinstance(found, dict) else None


def _left_behind(held: Mapping[str, Any], stale_hours: float) -> bool:
    here = _here()
    gone = all(held.get(key) == here[key] for key in ("host", "space")) and not _alive(int(held.get("pid", 0)))
    return gone or time.time() - float(held.get("time", 0)) >= stale_hours * 3600


def _here() -> dict[str, Any]:
    """Who asks. Process ids mean something only on the same host and, for containers, in the same space of them."""
    try:
        space = Path("/proc/self/ns/pid").stat().st_ino
    except OSError:
        space = None
    return {"host": socket.gethostname(), "space": space, "pid": os.getpid()}


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
