"""A runner: somebody else's program that makes images, as a process that is talked to in lines of JSON.

This file knows processes and lines, not what the lines mean (`idtool.generate.runner_wire`) nor what to do when the
process dies (`idtool.generate.runner_session`). The process is started through `runners/supervise.py`, so that it and
all it starts end with us, whatever ends us.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from idtool.generate.runner_streams import MAX_LINE, Log, lines, parsed

_SUPERVISE = Path(__file__).with_name("runners") / "supervise.py"


class RunnerFailed(Exception):
    """The runner cannot go on: it ended, or it was ended because it hung."""


class RunnerDied(RunnerFailed):
    """The runner ended by itself."""


class RunnerTimeout(RunnerFailed):
    """The runner was ended because it took too long or fell silent."""


class LineTooLong(ValueError):
    """A message does not fit into a line."""


@dataclass(frozen=True)
class Launch:
    """How a runner is started."""

    command: tuple[str, ...]
    folder: Path
    """The worker's own: logs, and `work`, where the process starts."""
    environment: Mapping[str, str]
    secrets: tuple[str, ...] = ()
    """Values that must not get into logs and messages."""
    stop_s: float = 10.0
    """Seconds that the runner has to end by itself, and once more after SIGTERM."""


class RunnerProcess:
    """One life of a runner. Starts with the object; `stop` ends it."""

    def __init__(self, launch: Launch) -> None:
        self.launch = launch
        work = launch.folder / "work"
        work.mkdir(parents=True, exist_ok=True)
        self._noise = Log(launch.folder / "stdout.log", launch.secrets)
        self._errors = Log(launch.folder / "stderr.log", launch.secrets)
        self._messages: queue.Queue[dict[str, Any] | None] = queue.Queue(maxsize=4096)
        self._ended = False
        self._heard = time.monotonic()
        held, self._lifeline = os.pipe()
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-S", str(_SUPERVISE), str(held), f"{launch.stop_s:g}", "--", *launch.command],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                bufsize=0,
                cwd=work,
                env=dict(launch.environment),
                pass_fds=(held,),
                start_new_session=True,  # Ctrl-C is ours to handle, not the runner's
            )
        except BaseException:
            os.close(self._lifeline)
            raise
        finally:
            os.close(held)
        assert self._process.stdin and self._process.stdout and self._process.stderr  # noqa: S101 - all are pipes
        self._stdin = self._process.stdin
        os.set_blocking(self._stdin.fileno(), False)
        self._threads = [
            threading.Thread(target=self._read_messages, args=(self._process.stdout.fileno(),), daemon=True),
            threading.Thread(target=self._read_errors, args=(self._process.stderr.fileno(),), daemon=True),
        ]
        for thread in self._threads:
            thread.start()
        self._stopping = threading.Lock()

    @property
    def alive(self) -> bool:
        return not self._ended and self._process.poll() is None

    @property
    def silent_for(self) -> float:
        """Seconds since the last message, heartbeats included."""
        return time.monotonic() - self._heard

    def send(self, message: Mapping[str, Any], timeout: float) -> None:
        """Write a line. RunnerDied when nobody is there, RunnerTimeout when it is not taken in time, LineTooLong
        beyond `MAX_LINE`."""
        line = json.dumps(message, ensure_ascii=False, allow_nan=False).encode("utf-8", "replace") + b"\n"
        if len(line) > MAX_LINE:
            raise LineTooLong(f"the request is {len(line)} bytes long; a runner takes {MAX_LINE}")
        until = time.monotonic() + timeout
        while line:
            try:
                _, writable, _ = select.select([], [self._stdin], [], min(0.5, max(0.0, until - time.monotonic())))
                line = line[os.write(self._stdin.fileno(), line) :] if writable else line
            except BlockingIOError:
                continue
            except (OSError, ValueError) as error:  # ValueError: closed by `stop`
                raise self._died() from error
            if line and time.monotonic() >= until:
                raise RunnerTimeout(f"it reads no requests; nothing was taken within {timeout:g} s")

    def receive(self, timeout: float) -> dict[str, Any] | None:
        """The next message that is no heartbeat; None when there is none in time. RunnerDied when it has ended."""
        try:
            message = self._messages.get(timeout=max(0.0, timeout))
        except queue.Empty:
            return None
        if message is None:
            self._messages.put(None)  # the end stays the end
            raise self._died()
        return message

    def last_words(self, lines: int = 12) -> str:
        """The end of its standard error, and of the noise on standard output when there is no other."""
        return " / ".join(self._errors.tail(lines) or self._noise.tail(lines))

    def say(self, text: str) -> None:
        """A line of ours in the log of its noise."""
        self._noise.write(f"[idtool] {text}\n".encode())

    def stop(self, *, gently: bool = True) -> None:
        """End it: standard input is closed, then SIGTERM, then SIGKILL, to it and all that it started. Safe to call
        again, and from another thread than the one that talks to it."""
        with self._stopping:
            with contextlib.suppress(OSError):
                self._stdin.close()
            if gently:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self._process.wait(self.launch.stop_s)
            if self._lifeline >= 0:
                os.close(self._lifeline)
                self._lifeline = -1
            try:
                self._process.wait(self.launch.stop_s + 5.0)
            except subprocess.TimeoutExpired:  # the supervisor itself was stopped by somebody
                self._process.kill()
                self._process.wait()
            for thread in self._threads:
                thread.join(1.0)
            self._ended = True

    def _died(self) -> RunnerDied:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(1.0)  # its last output comes before its status
        code = self._process.poll()
        self._threads[1].join(1.0)
        return RunnerDied("it closed its standard output" if code is None else f"it ended with {ending(code)}")

    def _read_messages(self, descriptor: int) -> None:
        for line, whole in lines(descriptor):
            message = parsed(line) if whole else None
            if message is None:
                self._noise.write(line)
                continue
            self._heard = time.monotonic()
            if "id" in message or "ready" in message:
                try:
                    self._messages.put_nowait(message)
                except queue.Full:
                    self._noise.write(line)
        self._messages.put(None)

    def _read_errors(self, descriptor: int) -> None:
        for line, _ in lines(descriptor):
            self._errors.write(line)


def ending(code: int) -> str:
    """`exit code 3`, or `signal SIGSEGV`."""
    if code > 128:
        with contextlib.suppress(ValueError):
            return f"signal {signal.Signals(code - 128).name}"
    return f"exit code {code}"
