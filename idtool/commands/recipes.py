"""`idtool recipes list|show`."""

from __future__ import annotations

from typing import Annotated

import typer

from idtool.commands.shared import ConfigPath, Json, config_file, emit, lines_of

app = typer.Typer(no_args_is_help=True, help="The recipes of pipelines.yaml.")


@app.command("list")
def list_recipes(config: ConfigPath = None, as_json: Json = False) -> None:
    """Every recipe in one line."""
    from idtool.commands import show

    emit(config_file(config).recipes(), as_json, show.records)


@app.command("show")
def show_recipe(
    name: Annotated[str, typer.Argument(metavar="RECIPE")],
    sets: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="STEP.KEY=VALUE", callback=lines_of("IDTOOL_SET"), help="As for `idtool curate`."
        ),
    ] = None,
    profile: Annotated[
        str | None, typer.Option("--profile", metavar="NAME", help="With what the recipe changes for this profile.")
    ] = None,
    config: ConfigPath = None,
    as_json: Json = False,
) -> None:
    """A recipe as it would be carried out, every default written out."""
    from idtool.commands import show

    file = config_file(config)
    if profile is not None:
        file.profile(profile)
    resolved = file.resolve(name, sets or (), profile)
    emit(resolved.content() if as_json else resolved.to_yaml(), as_json, show.text)
