"""`idtool plan` and `idtool curate`."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import typer

from idtool.commands.shared import ConfigPath, Json, ModelsDir, Quiet, carry_out, emit, lines_of
from idtool.curate.request import CurateRequest

Recipe = Annotated[
    str, typer.Option("--recipe", "-r", envvar="IDTOOL_RECIPE", metavar="NAME", help="See `idtool recipes list`.")
]
Profile = Annotated[
    str,
    typer.Option(
        "--profile", "-p", envvar="IDTOOL_PROFILE", metavar="NAME", help="Which models; auto picks by what is here."
    ),
]
Inputs = Annotated[
    list[str] | None,
    typer.Option(
        "--input",
        "-i",
        metavar="PATH...",
        callback=lines_of("IDTOOL_INPUT"),
        help="Folders, images, videos, a manifest (CSV, Parquet, JSON lines), or URLs; without any, the built-in "
        "sample of synthetic people. Recipes that begin with words (instruct-identity) read none. "
        "(env: IDTOOL_INPUT, one per line)",
    ),
]
# Lets `--input a b c` and `--input dir/*.jpg` mean what they say: the parser gives b and c to this argument.
MoreInputs = Annotated[list[str] | None, typer.Argument(metavar="MORE", help="More inputs.", show_default=False)]
Output = Annotated[
    Path | None,
    typer.Option(
        "--output",
        "-o",
        envvar="IDTOOL_OUTPUT",
        metavar="RUN",
        help="The run's folder; the same again goes on with it.",
        show_default="idtool-runs/<recipe>",
    ),
]
Sets = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="STEP.KEY=VALUE",
        callback=lines_of("IDTOOL_SET"),
        help="Change a setting of the recipe, as in gate.resolution.short_side.min=512; repeatable. "
        "(env: IDTOOL_SET, one per line)",
    ),
]
Engine = Annotated[
    Literal["auto", "local", "ray"],
    typer.Option("--engine", envvar="IDTOOL_ENGINE", help="Where the work runs; auto: ray where it pays."),
]
Address = Annotated[
    str | None, typer.Option("--address", envvar="IDTOOL_ADDRESS", metavar="ADDR", help="A Ray cluster.")
]
Workers = Annotated[
    int | None, typer.Option("--workers", envvar="IDTOOL_WORKERS", min=1, help="Workers; else one per CPU.")
]
Limit = Annotated[
    int | None, typer.Option("--limit", "-n", envvar="IDTOOL_LIMIT", min=1, help="Take at most N of the inputs.")
]
Seed = Annotated[int, typer.Option("--seed", envvar="IDTOOL_SEED", min=0, help="Of everything that is drawn.")]
Device = Annotated[
    Literal["auto", "cpu", "cuda", "mps"],
    typer.Option("--device", envvar="IDTOOL_DEVICE", help="Where models run; auto: as the profile says."),
]
Only = Annotated[
    Literal["errors"] | None,
    typer.Option("--only", envvar="IDTOOL_ONLY", help="errors: retry just the rows of the run that failed."),
]


def plan(
    more_inputs: MoreInputs = None,
    recipe: Recipe = "dmid",
    inputs: Inputs = None,
    output: Output = None,
    profile: Profile = "auto",
    sets: Sets = None,
    config: ConfigPath = None,
    engine: Engine = "auto",
    address: Address = None,
    workers: Workers = None,
    limit: Limit = None,
    seed: Seed = 0,
    device: Device = "auto",
    only: Only = None,
    models_dir: ModelsDir = None,
    as_json: Json = False,
) -> None:
    """Say what `idtool curate` with the same options would do, and why, without doing it."""
    from idtool.commands import show
    from idtool.curate.pipeline import plan as make_plan

    every = (*(inputs or ()), *(more_inputs or ()))
    request = CurateRequest(
        recipe, config, profile, every, output, tuple(sets or ()), engine, address, workers, limit, seed, device, only,
        models_dir,
    )  # fmt: skip
    emit(make_plan(request), as_json, show.plan)


def curate(
    ctx: typer.Context,
    more_inputs: MoreInputs = None,
    recipe: Recipe = "dmid",
    inputs: Inputs = None,
    output: Output = None,
    profile: Profile = "auto",
    sets: Sets = None,
    config: ConfigPath = None,
    engine: Engine = "auto",
    address: Address = None,
    workers: Workers = None,
    limit: Limit = None,
    seed: Seed = 0,
    device: Device = "auto",
    only: Only = None,
    models_dir: ModelsDir = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Build a data set: run a recipe over the inputs, into a run folder with the data set and a report."""
    from idtool.commands import show
    from idtool.curate.pipeline import curate as run_recipe

    every = (*(inputs or ()), *(more_inputs or ()))
    request = CurateRequest(
        recipe, config, profile, every, output, tuple(sets or ()), engine, address, workers, limit, seed, device, only,
        models_dir,
    )  # fmt: skip
    carry_out(ctx, partial(run_recipe, request), quiet, as_json, show.curated)
