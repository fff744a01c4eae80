"""`idtool nightly`: one command for a scheduler."""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from idtool.commands.shared import ConfigPath, Json, Quiet, carry_out, config_file

if TYPE_CHECKING:
    from idtool.console import Reporter


def nightly(
    ctx: typer.Context,
    job: Annotated[
        Path, typer.Argument(metavar="JOB", envvar="IDTOOL_NIGHTLY", help="A nightly.yaml; see deploy/nightly/.")
    ],
    on: Annotated[
        str | None, typer.Option("--date", metavar="YYYY-MM-DD", help="The night's date; else today, UTC.")
    ] = None,
    config: ConfigPath = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Run tonight's benchmark, finish one that broke off, publish, compare with the last good night (exit 3)."""
    from idtool.commands import show_bench
    from idtool.errors import UsageError
    from idtool.evaluate.nightly.job import nightly as run_job
    from idtool.evaluate.nightly.settings import read

    try:
        day = date.fromisoformat(on) if on else None
    except ValueError as error:
        raise UsageError(f"--date {on} is no date.", "As in --date 2026-11-26.") from error

    def work(reporter: Reporter) -> Any:
        return run_job(config_file(config), read(job), reporter, on=day)

    carry_out(ctx, work, quiet, as_json, show_bench.night, failed=True)
