"""Runs of generation for tests: through the pipeline that the command line calls."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from idtool.config import ConfigFile, load_config
from idtool.console import make_reporter
from idtool.curate.registry import STEPS
from idtool.generate.pipeline import GenerateRequest, generate
from idtool.generate.requests import Wish
from idtool.models.catalog import catalogue
from idtool.run import Run


def configuration(path: Path | None = None) -> ConfigFile:
    """A checked pipelines.yaml; None: the packaged one."""
    return load_config(path, STEPS, catalogue())


def run(method: str, wishes: list[Wish], output: Path, *, config: Path | None = None, **options: Any) -> dict[str, Any]:
    """The summary of a run."""
    options = {"profile": "offline", **options}
    with make_reporter(quiet=True) as reporter:
        request = GenerateRequest(method, wishes, output=output, **options)
        return generate(configuration(config), request, reporter)


def table(output: Path) -> list[dict[str, Any]]:
    """All rows of a run's images, rejected and failed ones too, by seed."""
    path = Run(output).step_dir(1, "generate") / "table"
    from idtool.engine.table import Table

    return sorted(Table(path).read().to_pylist(), key=lambda row: (row["prompt"], row["seed"]))
