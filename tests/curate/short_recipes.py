"""Recipes of a few steps, run through the command line on the tiny profile."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from idtool.run import Run
from tests.acceptance.runs import idtool
from tests.zoo import Zoo
from tests.zoo.profile import tiny_pipelines

Steps = Sequence[Mapping[str, Any]]


def write(folder: Path, zoo: Zoo, steps: Steps, *roles: str, **bound: Mapping[str, Any]) -> Path:
    """pipelines.yaml with the recipe `short`; `roles` of the zoo's profile, and further ones as they are given."""
    path = tiny_pipelines(folder, zoo, *roles)
    content = yaml.safe_load(path.read_text("utf-8"))
    content["recipes"]["short"] = {"summary": "a few steps", "steps": [dict(step) for step in steps]}
    content["profiles"]["tiny"]["roles"] |= {role: {"licence": "random weights", **one} for role, one in bound.items()}
    path.write_text(yaml.safe_dump(content, sort_keys=False, allow_unicode=True), "utf-8")
    return path


def curate(config: Path, output: Path, inputs: Path, *sets: str) -> Run:
    """The run; it must end well."""
    options = [part for value in sets for part in ("--set", value)]
    command = ["curate", "--recipe", "short", "--profile", "tiny", "--config", config, "--output", output]
    result = idtool(*command, "--input", inputs, "--engine", "local", *options, "--json")
    assert result.exit_code == 0, result.output
    return Run(output)


def rows_of(run: Run, step: str, origin: str | None = None) -> list[dict[str, Any]]:
    """Rows of a step's table, in order of their ids; those of one origin."""
    rows: list[dict[str, Any]] = run.step_table(step).read().to_pylist()
    return [row for row in rows if origin is None or row["origin"] == origin]
