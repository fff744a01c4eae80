"""Runs through the command line, in this process so that weights are loaded once, and their tables as plain rows."""

from __future__ import annotations

import itertools
import json
import shutil
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from typer.testing import CliRunner, Result

from idtool.cli import app
from idtool.run import Run

Row = dict[str, Any]
SMALLER = ("gate.resolution.short_side.min=200",)
"""Most of the photos have less than the 768 px that the recipe asks for."""


def idtool(*args: object) -> Result:
    """One command line."""
    return CliRunner().invoke(app, [str(arg) for arg in args])


def answer(*args: object) -> Any:
    """The JSON that a command prints; it must end well."""
    result = idtool(*args, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def curate(output: Path, inputs: Iterable[Path], *sets: str, engine: str = "local") -> Path:
    """The dmid recipe with the offline profile; returns the run's folder."""
    options = [part for path in inputs for part in ("--input", path)]
    options += [part for value in sets for part in ("--set", value)]
    answer("curate", "--recipe", "dmid", "--profile", "offline", "--engine", engine, "--output", output, *options)
    return output


def again(run: Path, output: Path, inputs: Iterable[Path], *sets: str) -> Path:
    """A copy of a run, gone on with under other settings: only what these touch is computed."""
    shutil.copytree(run, output)
    return curate(output, inputs, *sets)


def rows(run: Path, step: str, *columns: str, kept: bool = False) -> list[Row]:
    """Rows of a step's table, with their outcome."""
    wanted = [*dict.fromkeys((*columns, "status", "reason"))] if columns else None
    found: list[Row] = Run(run).step_table(step).read(wanted).to_pylist()
    return [row for row in found if row["status"] == "kept"] if kept else found


def entry(run: Path, step: str) -> Row:
    return Run(run).entry(step)


def reasons(run: Path, *, folders: bool = False) -> dict[str, str]:
    """File name (with its folder) -> the reason of its rejection, over all steps whose rows are files."""
    found: dict[str, str] = {}
    for table in Run(run).rejects():
        for row in table.to_pylist():
            if "~" not in row["id"]:
                found["/".join(Path(row["uri"]).parts[-2:]) if folders else row["name"]] = row["reason"]
    return found


def lost_frames(run: Path) -> dict[str, Counter[str]]:
    """Video name -> reasons of its frames' rejections."""
    found: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for table in Run(run).rejects():
        for row in table.to_pylist():
            if "~" not in row["id"]:
                found[row["name"]][row["reason"]] += 1
    return found


def person(uri: str) -> str:
    """Who a photo of `identities/` shows: its folder."""
    return Path(uri).parent.name


def agreement(truth: Sequence[str], found: Sequence[str]) -> tuple[float, float, float]:
    """Purity (share of rows of their group's main person), and precision and recall over pairs of rows."""
    groups: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for name, group in zip(truth, found, strict=True):
        groups[group][name] += 1
    purity = sum(max(group.values()) for group in groups.values()) / len(truth)
    both = same = together = 0
    for a, b in itertools.combinations(range(len(truth)), 2):
        same += truth[a] == truth[b]
        together += found[a] == found[b]
        both += truth[a] == truth[b] and found[a] == found[b]
    return purity, both / together, both / same


def events(run: Path) -> list[Row]:
    """What the run's log tells, oldest first."""
    return [json.loads(line) for line in (run / "log.jsonl").read_text(encoding="utf-8").splitlines()]


def steps_started(log: Iterable[Row]) -> list[str]:
    return [event["step"] for event in log if event["event"] == "step_start"]


def tables(run: Path) -> dict[str, list[Row]]:
    """Every step's rows, to compare runs by."""
    return {step["name"]: rows(run, step["name"]) for step in Run(run).steps if step["state"] == "done"}
