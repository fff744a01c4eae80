"""Requests through a runner that may die, hang or lie: it is started again with what is unfinished, and a request that
brings it down twice is given up, so that the others go on."""

from __future__ import annotations

import itertools
import shutil
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from idtool.engine.operator import Rejected
from idtool.errors import MissingError, RunFailed
from idtool.generate import runner_wire
from idtool.generate.method import Made, Request
from idtool.generate.runner_process import Launch, LineTooLong, RunnerFailed, RunnerProcess, RunnerTimeout

TRIES = 2
"""How often a request may bring the runner down before it is given up."""
FILES = ("in", "out", "work")
"""Folders of a worker that go when it ends."""
_LOOK_S = 0.2
"""How often the clock is looked at while an answer is awaited."""


@dataclass(frozen=True)
class Policy:
    """When a runner is given up."""

    timeout_s: float = 600.0
    """Seconds for one image."""
    start_timeout_s: float = 1800.0
    """Seconds until it must be ready."""
    heartbeat_s: float = 120.0
    """Seconds without a message that are taken for a hang, of a runner that promises heartbeats."""
    restarts: int = 5
    """Deaths in a row, without an answer in between, after which the run is stopped when there is one more."""
    in_flight: int = 1
    """Requests that it holds at a time."""


@dataclass
class _Job:
    request: Request
    outcome: Made | Exception | None = None
    falls: int = 0
    """How often the runner went down while it held this request and no other."""
    alone: bool = False
    """It went down with others: to be tried by itself."""


class Session:
    """One runner at a time, started again when it must be. Calls from several threads take turns."""

    def __init__(self, name: str, launch: Launch, start: Mapping[str, Any], policy: Policy) -> None:
        self.name, self.launch, self.start, self.policy = name, launch, dict(start), policy
        self.ready: dict[str, Any] = {}
        """What the runner said of itself."""
        self._current: RunnerProcess | None = None
        self._turn = threading.Lock()
        self._numbers = itertools.count(1)
        self._deaths = 0
        self._handed = self._answered = time.monotonic()
        self._closed = False

    def begin(self) -> None:
        """Start the runner and wait until it is ready. MissingError when it does not get that far."""
        with self._turn:
            try:
                self._start()
            except RunnerFailed as failure:
                if self._current is not None:
                    self._current.stop(gently=False)
                raise MissingError(
                    f"The runner of method {self.name!r} does not start: {self._told(failure)}.",
                    f"Its output is in {self.launch.folder}.",
                ) from None

    def serve(self, requests: Sequence[Request]) -> list[Made | Exception]:
        """The outcome of each request. RunFailed when the runner dies again and again, whatever it is given."""
        with self._turn:
            jobs = [_Job(request) for request in requests]
            waiting, held = deque(jobs), dict[str, _Job]()
            while waiting or held:
                try:
                    process = self._current if held and self._current else self._running()
                    self._hand_out(process, waiting, held)
                    if held:
                        self._take(process, held)
                except RunnerFailed as failure:
                    waiting.extendleft(reversed(self._fallen(held, failure)))
                    held.clear()
            return [job.outcome or RunnerFailed("the request was lost") for job in jobs]

    def close(self) -> None:
        """End the runner, also while another thread waits for it."""
        self._closed = True
        if self._current is not None:
            self._current.stop()
        for name in FILES:
            shutil.rmtree(self.launch.folder / name, ignore_errors=True)

    def _running(self) -> RunnerProcess:
        """The process, started again where it has ended."""
        if self._closed:
            raise RunFailed(f"The runner of method {self.name!r} was stopped.")
        if self._current is not None and self._current.alive:
            return self._current
        if self._deaths > self.policy.restarts:
            words = self._current.last_words() if self._current else ""
            raise RunFailed(
                f"The runner of method {self.name!r} went down {self._deaths} times in a row; its last words: {words}.",
                f"Its output is in {self.launch.folder}.",
            )
        return self._start()

    def _start(self) -> RunnerProcess:
        if self._current is not None:
            self._current.stop(gently=False)
        (self.launch.folder / "out").mkdir(parents=True, exist_ok=True)
        process = self._current = RunnerProcess(self.launch)
        process.say(f"started: {' '.join(self.launch.command)}")
        until = time.monotonic() + self.policy.start_timeout_s
        process.send(self.start, self.policy.start_timeout_s)
        while time.monotonic() < until:
            message = process.receive(min(until - time.monotonic(), 1.0))
            try:
                facts = None if message is None else runner_wire.ready_facts(message)
            except ValueError as error:
                process.stop(gently=False)
                raise MissingError(f"The runner of method {self.name!r} does not fit: {error}.") from None
            if facts is not None:
                self.ready = facts
                return process
        raise RunnerTimeout(f"it was not ready within {self.policy.start_timeout_s:g} s")

    def _hand_out(self, process: RunnerProcess, waiting: deque[_Job], held: dict[str, _Job]) -> None:
        """Give it as many requests as it may hold; one that is under suspicion only by itself."""
        while waiting and len(held) < self.policy.in_flight:
            if held and (waiting[0].alone or any(job.alone for job in held.values())):
                return
            job = waiting.popleft()
            name = f"{job.request.id}-{next(self._numbers)}"
            message = runner_wire.request_message(job.request, name, self.launch.folder)
            self._handed = time.monotonic()
            if not held:
                self._answered = self._handed
            held[name] = job
            try:
                process.send(message, self.policy.timeout_s)
            except LineTooLong as error:
                job.outcome = Rejected("request.too_long", str(error))
                del held[name]
                self._forget(name)

    def _take(self, process: RunnerProcess, held: dict[str, _Job]) -> None:
        """Wait for one more answer. RunnerTimeout when it does not come."""
        while True:
            message = process.receive(_LOOK_S)
            if message is None:
                self._check_time(process)
                continue
            name = str(message.get("id"))
            job = held.pop(name, None)
            if job is not None:
                job.outcome = runner_wire.answer(message, self.launch.folder)
                self._answered, self._deaths = time.monotonic(), 0
                self._forget(name)
                return
            process.say(f"ignored: an answer to {name!r}, which is not asked, or is answered already")

    def _check_time(self, process: RunnerProcess) -> None:
        now = time.monotonic()
        if now - self._answered > self.policy.timeout_s:
            raise RunnerTimeout(f"no image within {self.policy.timeout_s:g} s")
        if self.ready.get("heartbeat") and min(process.silent_for, now - self._handed) > self.policy.heartbeat_s:
            raise RunnerTimeout(f"no heartbeat for {self.policy.heartbeat_s:g} s")

    def _fallen(self, held: Mapping[str, _Job], failure: RunnerFailed) -> list[_Job]:
        """What is to be tried again after the runner went down, or was ended, while it held `held`."""
        self._deaths += 1
        if self._current is not None:
            self._current.stop(gently=False)
        told = self._told(failure)
        again = []
        for name, job in held.items():
            self._forget(name)
            job.falls += len(held) == 1
            job.alone = True
            if job.falls < TRIES:
                again.append(job)
            else:
                job.outcome = type(failure)(f"{TRIES} times at this request: {told}")
        return again

    def _told(self, failure: RunnerFailed) -> str:
        words = self._current.last_words() if self._current else ""
        return f"{failure}; its last words: {words[-300:]}" if words else str(failure)

    def _forget(self, name: str) -> None:
        """Remove what a request brought, and what the runner left in a folder of its name."""
        for folder in ("in", "out"):
            shutil.rmtree(self.launch.folder / folder / name, ignore_errors=True)
