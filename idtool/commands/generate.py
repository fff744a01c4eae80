"""`idtool generate` and `idtool methods list|show`."""

from __future__ import annotations

from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from idtool.commands.curate import Address, Device, Engine, Only, Output, Workers
from idtool.commands.shared import ConfigPath, Json, ModelsDir, Quiet, carry_out, config_file, emit, lines_of
from idtool.commands.shared import use_models_dir as use_mirror

if TYPE_CHECKING:
    from idtool.generate.requests import Wish

app = typer.Typer(no_args_is_help=True, help="The generators of pipelines.yaml: list and show them.")

Profile = Annotated[
    str,
    typer.Option(
        "--profile",
        "-p",
        envvar="IDTOOL_PROFILE",
        metavar="NAME",
        help="Whose face detector, text-to-image model and so on; auto picks by what is here.",
    ),
]
References = Annotated[
    list[str] | None,
    typer.Option("--ref", "-r", metavar="PATH", help="A picture of the person; repeat it for several people."),
]
Prompts = Annotated[
    list[str] | None, typer.Option("--prompt", metavar="TEXT", help="What to show; repeat it for several images.")
]
Requests = Annotated[
    str | None,
    typer.Option(
        "--requests",
        metavar="FILE",
        help="A table (CSV, JSON lines, Parquet) with columns prompt, reference(s) and optionally identity, box(es), "
        "seed, n, width, height, negative_prompt, settings.",
    ),
]
Sets = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        callback=lines_of("IDTOOL_SET"),
        help="Change a setting of the method, as in steps=20; repeatable. `idtool methods show NAME` lists them.",
    ),
]


def generate(
    ctx: typer.Context,
    method: Annotated[str, typer.Option("--method", "-m", envvar="IDTOOL_METHOD", metavar="NAME")],
    prompts: Prompts = None,
    references: References = None,
    boxes: Annotated[
        list[str] | None,
        typer.Option("--box", metavar="L,T,R,B", help="Where a person stands, as shares of the frame; one per --ref."),
    ] = None,
    requests: Requests = None,
    number: Annotated[int, typer.Option("-n", min=1, help="Images for each prompt, with seeds that follow.")] = 1,
    seed: Annotated[int, typer.Option("--seed", envvar="IDTOOL_SEED", min=0)] = 0,
    width: Annotated[int | None, typer.Option("--width", min=8, help="Pixels; else the method's own.")] = None,
    height: Annotated[int | None, typer.Option("--height", min=8)] = None,
    negative: Annotated[str | None, typer.Option("--negative", metavar="TEXT", help="Negative prompt.")] = None,
    output: Output = None,
    profile: Profile = "auto",
    sets: Sets = None,
    several: Annotated[
        str, typer.Option("--several-faces", metavar="refuse|largest", help="References with more than one face.")
    ] = "refuse",
    nsfw_limit: Annotated[
        float | None, typer.Option("--nsfw-limit", min=0, max=1, help="Reject images above it; else they are judged.")
    ] = None,
    batch: Annotated[int, typer.Option("--batch", min=1, help="Images per call, at most.")] = 4,
    config: ConfigPath = None,
    engine: Engine = "auto",
    address: Address = None,
    workers: Workers = None,
    device: Device = "auto",
    only: Only = None,
    models_dir: ModelsDir = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Make images of people from reference pictures and prompts, into a run folder with a gallery."""
    from idtool.commands import show
    from idtool.generate.pipeline import GenerateRequest, parse_settings
    from idtool.generate.pipeline import generate as run_method

    wishes = _wishes(requests, prompts, references, boxes, number, seed, width, height, negative)
    request = GenerateRequest(
        method=method,
        wishes=wishes,
        profile=profile,
        output=output,
        settings=parse_settings(sets or ()),
        run={"several": several, "nsfw_limit": nsfw_limit, "batch": batch},
        engine=engine,
        address=address,
        workers=workers,
        device=device,
        only=only,
        models_dir=models_dir,
    )
    carry_out(ctx, partial(run_method, config_file(config), request), quiet, as_json, show.generated)


def _wishes(
    requests: str | None,
    prompts: list[str] | None,
    references: list[str] | None,
    boxes: list[str] | None,
    number: int,
    seed: int,
    width: int | None,
    height: int | None,
    negative: str | None,
) -> list[Wish]:
    """The rows of a file, or one for each prompt of the command line. UsageError when both or neither are given."""
    from idtool.errors import UsageError
    from idtool.generate.requests import Wish, read_wishes
    from idtool.media.paths import to_uri

    if requests is not None:
        given = {"--prompt": prompts, "--ref": references, "--box": boxes, "--negative": negative}
        for option, value in given.items():
            if value:
                raise UsageError(f"{option} and --requests were both given.", "Put everything into the table.")
        return read_wishes(requests, seed=seed, n=number)
    if not prompts and not references:
        raise UsageError("There is nothing to make.", "Give --prompt and --ref, or --requests FILE.")
    uris = tuple(to_uri(path) for path in references or ())
    for path, uri in zip(references or (), uris, strict=True):
        if uri.startswith("/") and not Path(uri).exists():
            raise UsageError(f"reference {path} does not exist.", "Check the path given with --ref.")
    try:
        places = tuple(tuple(float(part) for part in text.split(",")) for text in boxes or ())
        return [
            Wish(
                prompt,
                uris,
                boxes=places,
                negative_prompt=negative,
                seed=seed,
                n=number,
                width=width,
                height=height,
            )
            for prompt in prompts or ("",)
        ]
    except ValueError as error:
        raise UsageError(f"{error}.", "See `idtool generate --help`.") from error


@app.command("list")
def list_methods(
    profile: Profile = "auto", config: ConfigPath = None, models_dir: ModelsDir = None, as_json: Json = False
) -> None:
    """Every method, what it takes and whether it can run here."""
    from idtool.commands import show
    from idtool.generate import methods

    use_mirror(models_dir)
    file = config_file(config)
    rows = [asdict(row) for row in methods.rows(file, _roles(file, profile))]
    emit(rows, as_json, show.methods)


@app.command("show")
def show_method(
    name: Annotated[str, typer.Argument(metavar="METHOD")],
    profile: Profile = "auto",
    config: ConfigPath = None,
    models_dir: ModelsDir = None,
    as_json: Json = False,
) -> None:
    """All that is known of a method: models, licences, settings, what it conditions on."""
    from idtool.commands import show
    from idtool.generate import methods

    use_mirror(models_dir)
    file = config_file(config)
    emit(methods.show(file, name, _roles(file, profile)), as_json, show.facts)


def _roles(file: Any, profile: str) -> Any:
    from idtool.generate.pipeline import choose_profile

    name, _ = choose_profile(file, profile)
    return file.profile(name).bindings()
