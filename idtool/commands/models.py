"""`idtool models list|show|pull|check`."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal

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
    name: Annotated[str, typer.Argument(metavar="MODEL", help="A name or address of `idtool models list`.")],
    config: ConfigPath = None,
    models_dir: ModelsDir = None,
    as_json: Json = False,
) -> None:
    """All that is known of a model: source, files, hashes, licence, memory, traps."""
    from idtool.commands import show
    from idtool.models import manage

    use_models_dir(models_dir)
    profiles = {name: profile.bindings() for name, profile in config_file(config).config.profiles.items()}
    emit(manage.show(name, profiles), as_json, show.facts)


@app.command("pull")
def pull(
    profile: ProfileName = "offline",
    role: Roles = None,
    config: ConfigPath = None,
    models_dir: ModelsDir = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Fetch the models of a profile, checked against their pinned hashes. Exits 4 when one cannot be had."""
    from idtool.commands import show
    from idtool.models import manage

    def announce(text: str) -> None:
        if not quiet:
            sys.stderr.write(f"{text}\n")

    use_models_dir(models_dir)
    bindings = config_file(config).profile(profile).bindings()
    result = manage.pull(bindings, role or None, announce=announce)
    emit(asdict(result), as_json, show.pulled)
    if result.failed:
        raise typer.Exit(4)


@app.command("check")
def check(
    profile: ProfileName = "offline",
    role: Roles = None,
    device: Annotated[str, typer.Option("--device", envvar="IDTOOL_DEVICE", help="cpu, cuda, cuda:N or mps.")] = "cpu",
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


@app.command("calibrate")
def calibrate(
    role: Annotated[
        Literal["identity"],
        typer.Argument(metavar="ROLE", help="identity: from which cosine on two faces are one person."),
    ],
    pairs: Annotated[
        Path,
        typer.Option(
            "--pairs",
            metavar="PATH",
            help="Labelled photos: a folder with a folder for each person, a manifest with a column identity, or a CSV "
            "with columns a, b, same.",
        ),
    ],
    profile: ProfileName = "offline",
    model: Annotated[
        list[str] | None, typer.Option("--model", metavar="MODEL", help="Only this network of the role (repeatable).")
    ] = None,
    fmr: Annotated[
        list[float] | None,
        typer.Option("--fmr", min=0, max=1, help="False match rate to find the threshold for (repeatable)."),
    ] = None,
    device: Annotated[str, typer.Option("--device", envvar="IDTOOL_DEVICE", help="cpu, cuda, cuda:N or mps.")] = "cpu",
    config: ConfigPath = None,
    models_dir: ModelsDir = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Find the thresholds of a profile's networks on labelled photos: error rates, ROC, the line for pipelines.yaml.

    What is found is kept in the cache under the hash of the network, and recipes use it where the profile states no
    threshold of its own.
    """
    from idtool.commands import show
    from idtool.errors import UsageError
    from idtool.models import calibrate as calibration
    from idtool.registry import did_you_mean

    use_models_dir(models_dir)
    bindings = config_file(config).profile(profile).bindings()
    for needed in ("faces", role):
        if not bindings.get(needed):
            raise UsageError(f"Profile {profile!r} binds no model to role {needed}.", "Choose another --profile.")
    networks = {binding.model: binding for binding in bindings[role]}
    for name in model or ():
        if name not in networks:
            raise UsageError(f"Profile {profile!r} binds no {name!r} to role {role}.", did_you_mean(name, networks))
    results = []
    for name in model or networks:

        def report(done: int, total: int, name: str = name) -> None:
            if not quiet and (done == total or done % 160 == 0):
                sys.stderr.write(f"{name}: {done} of {total} photos\n")

        found = calibration.calibrate(
            bindings["faces"][0],
            networks[name],
            pairs,
            fmr=tuple(fmr or calibration.FMRS),
            device=device,
            progress=report,
        )
        results.append({**found.as_dict(), "yaml": found.as_yaml(), "stored": str(found.store())})
    emit(results, as_json, show.calibrated)
