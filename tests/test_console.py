"""Progress reporters: what they print where, and the log they keep."""

from __future__ import annotations

import io
import json
import re
import sys
from pathlib import Path

import pytest
from rich.console import Console

from idtool.console import (
    PlainReporter,
    QuietReporter,
    RichReporter,
    _Reporter,
    duration,
    make_reporter,
)

SUMMARY = {"rows_in": 100, "kept": 90, "rejected": 9, "errors": 1, "seconds": 125.0, "reasons": {"unreadable": 9}}


class Clock:
    """Time that the test moves."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def drive(reporter: _Reporter, clock: Clock, shards: int = 10) -> None:
    with reporter:
        reporter.note("profile offline: no CUDA")
        reporter.step_start("measure", 2, 5, 100)
        for _ in range(shards):
            clock.now += 2.0
            reporter.advance("measure", 9, 1, 0)
        reporter.warn("out of memory, going on with half")
        reporter.step_end("measure", SUMMARY)


def test_plain_lines_are_few_and_carry_rate_and_remaining_time() -> None:
    out, clock = io.StringIO(), Clock()
    drive(PlainReporter(out, clock), clock)
    lines = out.getvalue().splitlines()
    assert lines[0] == "profile offline: no CUDA"
    assert lines[1] == "[2/5] measure: 100 rows"
    assert "[2/5] measure: 50 of 100 rows, 5.0/s, 10 s left, 5 rejected, 0 errors" in lines
    assert lines[-2] == "warning: out of memory, going on with half"
    assert lines[-1] == "[2/5] measure: done, 90 kept, 9 rejected, 1 errors, 2 min 05 s"
    assert "\x1b" not in out.getvalue()


def test_plain_prints_at_most_every_five_seconds_or_tenth() -> None:
    out, clock = io.StringIO(), Clock()
    reporter = PlainReporter(out, clock)
    reporter.step_start("ingest", 1, 1, 100_000)
    for _ in range(1000):
        clock.now += 0.02
        reporter.advance("ingest", 10, 0, 0)
    # 20 seconds, 10 % of the rows.
    assert len(out.getvalue().splitlines()) in (4, 5, 6)


def test_steps_of_unknown_length_and_steps_that_add_rows() -> None:
    out, clock = io.StringIO(), Clock()
    reporter = PlainReporter(out, clock)
    reporter.step_start("sources", 1, 1, None)
    clock.now += 6
    reporter.advance("sources", 60, 0, 0)
    reporter.step_start("frames", 1, 1, 10)
    clock.now += 6
    reporter.advance("frames", 60, 0, 0)
    assert "[1/1] sources: 60 rows, 10.0/s, 0 rejected, 0 errors" in out.getvalue()
    assert "[1/1] frames: 60 rows, 10.0/s, 0 rejected, 0 errors" in out.getvalue()


def test_terminal_shows_finished_steps_and_counts() -> None:
    out, clock = io.StringIO(), Clock()
    console = Console(file=out, force_terminal=True, width=120, color_system=None)
    drive(RichReporter(console, clock), clock)
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", out.getvalue())
    assert "✓ measure: 90 kept, 9 rejected, 1 errors, 2 min 05 s" in text
    assert "! out of memory, going on with half" in text
    assert "2/5 measure" in text


def test_quiet_prints_warnings_only(capsys: pytest.CaptureFixture[str]) -> None:
    clock = Clock()
    drive(QuietReporter(clock), clock)
    captured = capsys.readouterr()
    assert captured.err == "warning: out of memory, going on with half\n"
    assert captured.out == ""


def test_log_has_every_event_as_json_and_is_appended_to(tmp_path: Path) -> None:
    log, clock = tmp_path / "run" / "log.jsonl", Clock()
    for _ in range(2):
        reporter = PlainReporter(io.StringIO(), clock)
        reporter.log_to(log)
        drive(reporter, clock, shards=1)
    events = [json.loads(line) for line in log.read_text("utf-8").splitlines()]
    assert [event["event"] for event in events] == ["note", "step_start", "advance", "warning", "step_end"] * 2
    assert events[4]["reasons"] == {"unreadable": 9}
    assert events[1] | {"time": ""} == {
        "time": "", "event": "step_start", "step": "measure", "index": 2, "count": 5, "rows": 100,
    }  # fmt: skip


def test_log_says_what_stopped_the_work(tmp_path: Path) -> None:
    reporter = PlainReporter(io.StringIO())
    with pytest.raises(RuntimeError), reporter:
        reporter.log_to(tmp_path / "log.jsonl")
        raise RuntimeError("boom")
    event = json.loads((tmp_path / "log.jsonl").read_text("utf-8"))
    assert (event["event"], event["error"], event["message"]) == ("stopped", "RuntimeError", "boom")


@pytest.mark.parametrize("variable", ["NO_COLOR", "CI"])
def test_live_progress_only_on_a_terminal_that_wants_it(variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NO_COLOR", "CI"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    assert isinstance(make_reporter(), RichReporter)
    monkeypatch.setenv(variable, "1")
    assert isinstance(make_reporter(), PlainReporter)
    assert isinstance(make_reporter(quiet=True), QuietReporter)


def test_no_live_progress_in_a_pipe(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: False, raising=False)
    assert isinstance(make_reporter(), PlainReporter)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.04, "0.0 s"),
        (9.96, "10.0 s"),
        (59.4, "59 s"),
        (59.6, "1 min 00 s"),
        (3599.7, "1 h 00 min"),
        (7800, "2 h 10 min"),
    ],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_a_reader_that_goes_away_does_not_stop_the_work() -> None:
    class Gone(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError

    clock = Clock()
    reporter = PlainReporter(Gone(), clock)
    drive(reporter, clock)
    assert reporter.step is None
