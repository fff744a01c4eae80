"""The streams of a runner: lines out of a pipe, messages out of lines, and logs that do not grow for ever."""

from __future__ import annotations

import contextlib
import json
import os
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

MAX_LINE = 1 << 20
"""Bytes of a line in either direction; a longer one from the runner is noise."""
MAX_LOG = 16 << 20
"""Bytes that are kept of each stream of a worker."""
KEYS = ("ready", "heartbeat", "id")
"""A line is a message when it is a JSON object with one of them; anything else is noise."""


class Log:
    """A file that takes up to `MAX_LOG` bytes, with its last lines in memory, secrets masked."""

    def __init__(self, path: Path, secrets: Sequence[str] = ()) -> None:
        self._path, self._lock = path, threading.Lock()
        self._secrets = [secret.encode() for secret in secrets if secret]
        self._size = path.stat().st_size if path.exists() else 0
        self._tail: deque[str] = deque(maxlen=40)

    def write(self, line: bytes) -> None:
        """Keep a line; without an end it gets one."""
        for secret in self._secrets:
            line = line.replace(secret, b"***")
        if not line.endswith(b"\n"):
            line += b"\n"
        with self._lock:
            # A progress bar rewrites its line; the last state is what it says.
            text = line.decode("utf-8", "replace").rstrip().rpartition("\r")[2].strip()
            if text:
                self._tail.append(text[:500])
            if self._size >= MAX_LOG:
                return
            self._size += len(line)
            if self._size >= MAX_LOG:
                line = b"[idtool] the log is full; what follows is left out\n"
            with contextlib.suppress(OSError), open(self._path, "ab") as file:  # a full disk is not the runner's fault
                file.write(line)

    def tail(self, lines: int) -> list[str]:
        """The last lines that are not empty."""
        with self._lock:
            return list(self._tail)[-lines:]


def lines(descriptor: int) -> Iterator[tuple[bytes, bool]]:
    """Lines of a pipe, with whether they are whole; one that is longer than `MAX_LINE` comes in pieces."""
    held, broken = b"", False
    while True:
        try:
            chunk = os.read(descriptor, 1 << 16)
        except OSError:
            chunk = b""
        if not chunk:
            break
        *ended, held = (held + chunk).split(b"\n")
        for line in ended:
            yield line + b"\n", not broken
            broken = False
        if len(held) > MAX_LINE:
            yield held, False
            held, broken = b"", True
    if held:
        yield held, not broken


def parsed(line: bytes) -> dict[str, Any] | None:
    """A message, or None for noise. Numbers that JSON does not have (NaN) become null."""
    if not line.lstrip().startswith(b"{"):
        return None
    try:
        message = json.loads(line, parse_constant=lambda _: None)
    except (ValueError, RecursionError):
        return None
    return message if isinstance(message, dict) and any(key in message for key in KEYS) else None
