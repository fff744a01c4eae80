"""Progress of long work for whoever watches: live bars on a terminal, plain lines elsewhere, JSON lines in the run.

Everything here goes to standard error: standard output belongs to results.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Protocol

PLAIN_SECONDS = 5.0
"""A plain line at most this often, unless another tenth of the rows is done."""


class Reporter(Protocol):
    """What long work tells while it runs. Used as a context manager around the work."""

    def __enter__(self) -> Reporter: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...
    def log_to(self, path: Path) -> None:
        """From now on, also append every event to this file, one JSON object per line."""

    def step_start(self, name: str, index: int, count: int, rows: int | None) -> None:
        """Step `index` (from 1) of `count` begins on `rows` rows (None: unknown)."""

    def advance(self, name: str, kept: int, rejected: int, errors: int) -> None:
        """So many further rows are done."""

    def step_end(self, name: str, summary: dict[str, Any]) -> None:
        """The step is complete; `summary` is its manifest entry."""

    def note(self, text: str) -> None: ...
    def warn(self, text: str) -> None: ...


class _Step:
    """Counts of the step that runs."""

    def __init__(self, name: str, index: int, count: int, rows: int | None, now: float) -> None:
        self.name, self.index, self.count, self.rows, self.started = name, index, count, rows, now
        self.kept = self.rejected = self.errors = 0

    @property
    def done(self) -> int:
        return self.kept + self.rejected + self.errors

    def rate(self, now: float) -> float:
        """Rows per second so far."""
        return self.done / (now - self.started) if now > self.started else 0.0

    def eta(self, now: float) -> float | None:
        """Seconds to go; None when there is nothing to reckon from. A step that expands rows passes its number."""
        rate = self.rate(now)
        return (self.rows - self.done) / rate if rate and self.rows and self.done < self.rows else None


class _Reporter:
    """Keeps count and writes the log; subclasses show it."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self.step: _Step | None = None
        self._log: IO[str] | None = None

    def __enter__(self) -> _Reporter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            self._write("stopped", error=type(error).__name__, message=str(error)[:500])
        if self._log is not None:
            self._log.close()
            self._log = None

    def log_to(self, path: Path) -> None:
        if self._log is not None:
            self._log.close()
        path.parent.mkdir(parents=True, exist_ok=True)
        self._log = open(path, "a", encoding="utf-8", buffering=1)  # noqa: SIM115 - closed on exit

    def step_start(self, name: str, index: int, count: int, rows: int | None) -> None:
        self.step = _Step(name, index, count, rows, self.clock())
        self._write("step_start", step=name, index=index, count=count, rows=rows)
        self.show_start(self.step)

    def advance(self, name: str, kept: int, rejected: int, errors: int) -> None:
        if self.step is None:
            return
        self.step.kept += kept
        self.step.rejected += rejected
        self.step.errors += errors
        self._write("advance", step=self.step.name, kept=kept, rejected=rejected, errors=errors)
        self.show_progress(self.step)

    def step_end(self, name: str, summary: dict[str, Any]) -> None:
        keys = ("rows_in", "kept", "rejected", "errors", "reasons", "seconds")
        self._write("step_end", step=name, **{key: summary[key] for key in keys if key in summary})
        self.show_end(name, summary)
        self.step = None

    def note(self, text: str) -> None:
        self._write("note", text=text)
        self.show_note(text)

    def warn(self, text: str) -> None:
        self._write("warning", text=text)
        self.show_warning(text)

    def _write(self, event: str, **facts: Any) -> None:
        if self._log is not None:
            stamp = datetime.now(UTC).isoformat(timespec="milliseconds")
            self._log.write(
                json.dumps({"time": stamp, "event": event, **facts}, ensure_ascii=False, default=str) + "\n"
            )

    def show_start(self, step: _Step) -> None: ...
    def show_progress(self, step: _Step) -> None: ...
    def show_end(self, name: str, summary: dict[str, Any]) -> None: ...
    def show_note(self, text: str) -> None: ...
    def show_warning(self, text: str) -> None: ...


class QuietReporter(_Reporter):
    """Warnings only (`-q`)."""

    def show_warning(self, text: str) -> None:
        sys.stderr.write(f"warning: {text}\n")


class PlainReporter(_Reporter):
    """Whole lines without colour or cursor movement: for logs, pipes, CI and NO_COLOR."""

    def __init__(self, out: IO[str] | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(clock)
        self.out = out or sys.stderr
        self._last_time, self._last_done = 0.0, 0

    def _line(self, text: str) -> None:
        # Whoever watched may have gone (`2>&1 | head`); the work goes on, and log.jsonl has it all.
        with contextlib.suppress(BrokenPipeError):
            self.out.write(text + "\n")
            self.out.flush()

    def show_start(self, step: _Step) -> None:
        self._last_time, self._last_done = step.started, 0
        rows = "" if step.rows is None else f": {step.rows} rows"
        self._line(f"[{step.index}/{step.count}] {step.name}{rows}")

    def show_progress(self, step: _Step) -> None:
        now = self.clock()
        tenth = step.rows is not None and step.done - self._last_done >= step.rows / 10 and now - self._last_time >= 1
        if now - self._last_time < PLAIN_SECONDS and not tenth:
            return
        self._last_time, self._last_done = now, step.done
        self._line(f"[{step.index}/{step.count}] {step.name}: {progress_text(step, now)}")

    def show_end(self, name: str, summary: dict[str, Any]) -> None:
        head = f"[{self.step.index}/{self.step.count}] " if self.step else ""
        self._line(f"{head}{name}: done, {outcome_text(summary)}")

    def show_note(self, text: str) -> None:
        self._line(text)

    def show_warning(self, text: str) -> None:
        self._line(f"warning: {text}")


class RichReporter(_Reporter):
    """A live line per running step on a terminal; finished steps stay above it."""

    def __init__(self, console: Any = None, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(clock)
        from rich.console import Console
        from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn

        self.console = console or Console(stderr=True, highlight=False)
        columns = (SpinnerColumn(), TextColumn("{task.description}", markup=False), BarColumn(24))
        self.progress = Progress(
            *columns, TextColumn("{task.fields[facts]}", markup=False), console=self.console, transient=True
        )
        self._task: Any = None

    def __enter__(self) -> RichReporter:
        self.progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.progress.stop()
        super().__exit__(kind, error, trace)

    def show_start(self, step: _Step) -> None:
        label = f"{step.index}/{step.count} {step.name}"
        self._task = self.progress.add_task(label, total=step.rows or None, facts="")

    def show_progress(self, step: _Step) -> None:
        self.progress.update(self._task, completed=step.done, facts=progress_text(step, self.clock()))

    def show_end(self, name: str, summary: dict[str, Any]) -> None:
        if self._task is not None:
            self.progress.remove_task(self._task)
            self._task = None
        self._print("✓", "green", f"{name}: {outcome_text(summary)}")

    def show_note(self, text: str) -> None:
        self._print("·", "dim", text)

    def show_warning(self, text: str) -> None:
        self._print("!", "yellow", text)

    def _print(self, sign: str, style: str, text: str) -> None:
        from rich.text import Text

        self.console.print(Text.assemble((sign, style), " ", text))


def progress_text(step: _Step, now: float) -> str:
    """`128 of 500 rows, 42.1/s, 9 s left, 3 rejected, 0 errors`."""
    of = f" of {step.rows}" if step.rows is not None and step.done <= step.rows else ""
    eta = step.eta(now)
    left = "" if eta is None else f", {duration(eta)} left"
    return f"{step.done}{of} rows, {step.rate(now):.1f}/s{left}, {step.rejected} rejected, {step.errors} errors"


def outcome_text(summary: dict[str, Any]) -> str:
    """`412 kept, 88 rejected, 0 errors, 12 s`."""
    counts = ", ".join(f"{summary.get(key, 0)} {key}" for key in ("kept", "rejected", "errors"))
    return f"{counts}, {duration(summary.get('seconds', 0.0))}"


def duration(seconds: float) -> str:
    """`0.4 s`, `12 s`, `3 min 05 s`, `2 h 10 min`."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def make_reporter(*, quiet: bool = False) -> _Reporter:
    """The reporter that fits where standard error goes."""
    if quiet:
        return QuietReporter()
    plain = any(os.environ.get(name) for name in ("NO_COLOR", "CI")) or os.environ.get("TERM") == "dumb"
    return PlainReporter() if plain or not sys.stderr.isatty() else RichReporter()
