"""A run whose step fails on every row: exit code 1, and a report that says what happened."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from idtool.cli import app
from idtool.curate import pipeline
from idtool.evaluate.measures.pixels import Pixels
from tests.curate import fake_run

CONFIG = Path(__file__).resolve().parents[1] / "cheap.yaml"


def run_it(folder: Path) -> int:
    (folder / "in").mkdir()
    for seed in range(3):
        fake_run.draw(seed).save(folder / "in" / f"{seed}.png")
    options = ["--config", str(CONFIG), "--recipe", "cheap", "--engine", "local", "--workers", "1"]
    return (
        CliRunner()
        .invoke(app, ["curate", *options, "--input", str(folder / "in"), "--output", str(folder / "run")])
        .exit_code
    )


def broken(self: Pixels, items: object) -> None:
    raise RuntimeError("the <sensor> is cracked")


def test_a_failed_step_is_told_in_the_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Pixels, "__call__", broken)
    assert run_it(tmp_path) == 1
    html = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert "the &lt;sensor&gt; is cracked" in html
    assert "<h1>3 images kept from 3 inputs, not finished</h1>" in html


def test_a_report_that_cannot_be_written_does_not_hide_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Pixels, "__call__", broken)
    monkeypatch.setattr(pipeline, "write_report", full)
    assert run_it(tmp_path) == 1
