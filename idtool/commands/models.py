"""`idtool models list|show|pull|check`."""

from __future__ import annotations

import sys
from dataclasses import asdict
from typing import Annotated

import typer

from idtool.commands.shared import ConfigPath, Json, ModelsDir, Quiet, config_file, emit, use_models_dir

app = typer.Typer(
    no_args_is_help=True, help="The models that profiles bind to roles: list, show, fetch and check them."
)

ProfileName = Annotated[
    str, typer.Option("--profile", envvar="IDTOOL_PROFILE", metavar="NAME", help="Whose models (see pipelines.yaml).")
]
Roles = Annotated[list[str] | None, typer.Option("--role", envvar="IDTOOL_ROLE", help="Only this role (repeatable).")]


@app.command("list")
def list_models(
    profile: ProfileName = "offline", config: ConfigPath = None, models_dir: ModelsDir = None, as_json: Json = False
) -> None:
    """Every role of a profile, its models, their licences and whether they are here."""
    from idtool.commands import show
    from idtool.models import manage

    use_models_dir(models_dir)
    rows = manage.rows(config_file(config).profile(profile).bindings())
    emit([asdict(row) for row in rows], as_json, show.models)


@app.command("show")
def show_model(
    name: Annotated[str, typer.Argument(metavar="MODEL", help="A name of `idtool models list`.")],
    models_dir: ModelsDir = None,
    as_json: Json = False,
) -> None:
    """All that is known of a model: source, files, hashes, licence, traps."""
    from idtool.commands import show
    from idtool.models import manage

    use_models_dir(models_dir)
    emit(manage.show(name), as_json, show.facts)


@app.command("pull")
def pull(
    profile: ProfileName = "offline",
    role: Roles = None,
    config: ConfigPath = None,
    models_dir: ModelsDir = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Fetch the models of a profile, checked against their pinned hashes."""
    from idtool.commands import show
    from idtool.models import manage

    def announce(text: str) -> None:
        if not quiet:
            sys.stderr.write(f"{text}\n")

    use_models_dir(models_dir)
    bindings = config_file(config).profile(profile).bindings()
    emit(asdict(manage.pull(bindings, role or None, announce=announce)), as_json, show.pulled)


@app.command("check")
def check(
    profile: ProfileName = "offline",
    role: Roles = None,
    device: Annotated[str, typer.Option("--device", envvar="IDTOOL_DEVICE", help="cpu, cuda or cuda:N.")] = "cpu",
    config: ConfigPath = None,
    models_dir: ModelsDir = None,
    as_json: Json = False,
) -> None:
    """Load each model of a profile and run it once. Exits 4 when one does not work."""
    from idtool.commands import show
    from idtool.models import manage

    use_models_dir(models_dir)
    bindings = config_file(config).profile(profile).bindings()
    rows = manage.check(bindings, role or None, device=device)
    emit([asdict(row) for row in rows], as_json, show.checked)
    if not all(row.ok for row in rows):
        raise typer.Exit(4)
