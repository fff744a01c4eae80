"""`idtool init` and `idtool doctor`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from idtool.commands.shared import Json, ModelsDir, emit, use_models_dir


def init(
    folder: Annotated[
        Path,
        typer.Argument(metavar="FOLDER", help="Where the files go.", show_default="here"),
    ] = Path(),
    force: Annotated[bool, typer.Option("--force", envvar="IDTOOL_FORCE", help="Overwrite a pipelines.yaml.")] = False,
    as_json: Json = False,
) -> None:
    """Write pipelines.yaml, to be edited, and its schema for editors."""
    from idtool.commands import show
    from idtool.config_schema import write_starter
    from idtool.curate.registry import STEPS

    emit({"written": [str(path) for path in write_starter(folder, STEPS, force=force)]}, as_json, show.facts)


def doctor(
    online: Annotated[
        bool, typer.Option("--online", envvar="IDTOOL_ONLINE", help="Also ask the package index whether it answers.")
    ] = False,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", envvar="IDTOOL_OUTPUT", metavar="RUN", help="Where a run would go."),
    ] = None,
    models_dir: ModelsDir = None,
    as_json: Json = False,
) -> None:
    """Check this machine: packages, devices, space, weights. Exits 4 when something needed is missing."""
    from idtool import doctor as checks
    from idtool.commands import show

    use_models_dir(models_dir)
    result = checks.report(checks.examine(online=online, output=output))
    emit(result, as_json, show.doctor)
    if result["status"] == "fail":
        raise typer.Exit(4)
