"""`idtool evaluate | bench | compare | audit`, `idtool metrics list|show` and `idtool suites list|show`."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from idtool.commands.curate import Address, Device, Engine, Only, Seed, Workers
from idtool.commands.generate import Profile
from idtool.commands.shared import (
    ConfigPath,
    Json,
    ModelsDir,
    Quiet,
    carry_out,
    config_file,
    emit,
    failures_told,
    lines_of,
)
from idtool.commands.shared import use_models_dir as use_mirror

metrics_app = typer.Typer(no_args_is_help=True, help="What can be measured: list and show metrics.")
suites_app = typer.Typer(no_args_is_help=True, help="Benchmarks as data: list and show suites.")

Metrics = Annotated[
    list[str] | None,
    typer.Option(
        "--metrics",
        metavar="A,B",
        callback=lines_of("IDTOOL_METRICS"),
        help="Families of `idtool metrics list`, or all; repeatable. (env: IDTOOL_METRICS, one per line)",
    ),
]
Folder = Annotated[
    Path | None,
    typer.Option("--output", "-o", envvar="IDTOOL_OUTPUT", metavar="DIR", help="The same again goes on with it."),
]
Real = Annotated[
    str | None,
    typer.Option(
        "--real", envvar="IDTOOL_REAL", metavar="DIR", help="Real pictures for FID, KID and CMMD; else the references."
    ),
]
Force = Annotated[bool, typer.Option("--force", help="FID also of fewer than 2,048 images; its number says so.")]
Suite = Annotated[
    str, typer.Option("--suite", "-s", envvar="IDTOOL_SUITE", metavar="NAME|FILE", help="See `idtool suites list`.")
]
Identities = Annotated[
    str | None,
    typer.Option(
        "--identities",
        "-i",
        envvar="IDTOOL_IDENTITIES",
        metavar="PATH",
        help="The people: a folder (one sub-folder each), a manifest, or a curated run; else the suite's own source.",
    ),
]


def evaluate(
    ctx: typer.Context,
    images: Annotated[
        list[str],
        typer.Option("--images", metavar="[NAME=]DIR|TABLE", help="What to score; repeat it to compare methods."),
    ],
    refs: Annotated[
        Path | None, typer.Option("--refs", metavar="DIR", help="Reference pictures: a sub-folder or a file a person.")
    ] = None,
    prompts: Annotated[
        str | None, typer.Option("--prompts", metavar="FILE", help="A table with columns image and prompt.")
    ] = None,
    metrics: Metrics = None,
    output: Folder = None,
    profile: Profile = "auto",
    real: Real = None,
    force: Force = False,
    config: ConfigPath = None,
    engine: Engine = "auto",
    address: Address = None,
    workers: Workers = None,
    device: Device = "auto",
    seed: Seed = 0,
    models_dir: ModelsDir = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Score images that are there already: Parquet scores, intervals, a report."""
    from idtool.commands import show_bench
    from idtool.evaluate.score_images import EvaluateRequest
    from idtool.evaluate.score_images import evaluate as score

    request = EvaluateRequest(
        images=tuple(images),
        refs=refs,
        prompts=prompts,
        metrics=tuple(metrics or ()),
        profile=profile,
        output=output,
        seed=seed,
        engine=engine,
        address=address,
        workers=workers,
        device=device,
        real=real,
        force=force,
        models_dir=models_dir,
    )
    work = partial(score, config_file(config), request)
    carry_out(ctx, work, quiet, as_json, show_bench.bench, failed=True)


def bench(
    ctx: typer.Context,
    suite: Suite = "smoke",
    methods: Annotated[
        list[str] | None,
        typer.Option(
            "--method",
            "--methods",
            "-m",
            metavar="A,B",
            callback=lines_of("IDTOOL_METHODS"),
            help="Names, or all: every method whose weights are here. Baselines come along. "
            "(env: IDTOOL_METHODS, one per line)",
        ),
    ] = None,
    identities: Identities = None,
    metrics: Metrics = None,
    output: Folder = None,
    profile: Profile = "auto",
    score_only: Annotated[bool, typer.Option("--score-only", help="Score what was generated before.")] = False,
    skip_bad_references: Annotated[
        bool, typer.Option("--skip-bad-references", help="Leave out people whose picture shows no or several faces.")
    ] = False,
    limit: Annotated[int | None, typer.Option("--limit", "-n", min=1, help="Identities, at most.")] = None,
    batch: Annotated[int, typer.Option("--batch", min=1, help="Images per call of a method, at most.")] = 4,
    real: Real = None,
    force: Force = False,
    config: ConfigPath = None,
    engine: Engine = "auto",
    address: Address = None,
    workers: Workers = None,
    device: Device = "auto",
    seed: Seed = 0,
    only: Only = None,
    models_dir: ModelsDir = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Run a benchmark: a suite's requests through every method, scored, compared and reported."""
    from idtool.commands import show_bench
    from idtool.evaluate.bench import BenchRequest
    from idtool.evaluate.bench import bench as run_suite

    names = [part.strip() for one in methods or ["all"] for part in one.split(",") if part.strip()]
    request = BenchRequest(
        suite=suite,
        methods=tuple(names) or ("all",),
        identities=identities,
        profile=profile,
        output=output,
        metrics=tuple(metrics or ()),
        score_only=score_only,
        skip_bad_references=skip_bad_references,
        limit=limit,
        seed=seed,
        engine=engine,
        address=address,
        workers=workers,
        device=device,
        batch=batch,
        real=real,
        force=force,
        only=only,
        models_dir=models_dir,
    )
    work = partial(run_suite, config_file(config), request)
    carry_out(ctx, work, quiet, as_json, show_bench.bench, failed=True)


def compare(
    first: Annotated[Path, typer.Argument(metavar="A", help="A benchmark's folder: what was.")],
    second: Annotated[Path, typer.Argument(metavar="B", help="Another: what is.")],
    rules: Annotated[
        Path | None,
        typer.Option("--fail-on", envvar="IDTOOL_FAIL_ON", metavar="FILE", help="regression.yaml: exit 3 when broken."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Also where suites or fingerprints differ.")] = False,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """What changed between two runs of one suite: paired differences, and whether rules are broken (exit 3)."""
    from idtool.commands import show_bench
    from idtool.evaluate.compare import compare as difference

    with failures_told(as_json, show_bench.compared):
        result = difference(first, second, rules, force=force, seed=seed)
    emit(result, as_json, show_bench.compared)


def audit(
    ctx: typer.Context,
    dataset: Annotated[
        str, typer.Option("--dataset", "-d", envvar="IDTOOL_DATASET", metavar="RUN|DIR", help="What is trained on.")
    ],
    suite: Suite = "smoke",
    identities: Identities = None,
    same_person: Annotated[
        float | None,
        typer.Option("--same-person", min=-1, max=1, help="Cosine of one person; else as calibrated for the network."),
    ] = None,
    output: Folder = None,
    profile: Profile = "auto",
    config: ConfigPath = None,
    engine: Engine = "auto",
    address: Address = None,
    workers: Workers = None,
    device: Device = "auto",
    models_dir: ModelsDir = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """People and near-duplicates of a training set that are also in a benchmark; exit 3 when there are any."""
    from idtool.commands import show_bench
    from idtool.evaluate.audit_run import AuditRequest
    from idtool.evaluate.audit_run import audit as look

    request = AuditRequest(
        dataset=dataset,
        suite=suite,
        identities=identities,
        same_person=same_person,
        profile=profile,
        output=output,
        engine=engine,
        address=address,
        workers=workers,
        device=device,
        models_dir=models_dir,
    )
    work = partial(look, config_file(config), request)
    carry_out(ctx, work, quiet, as_json, show_bench.audited, failed=True)


@metrics_app.command("list")
def list_metrics(
    profile: Profile = "auto", config: ConfigPath = None, models_dir: ModelsDir = None, as_json: Json = False
) -> None:
    """Every metric, and whether the profile has the networks for it."""
    from idtool.commands import show_bench
    from idtool.evaluate.listing import rows

    use_mirror(models_dir)
    emit(rows(config_file(config), profile), as_json, show_bench.metrics)


@metrics_app.command("show")
def show_metric(
    name: Annotated[str, typer.Argument(metavar="METRIC")],
    profile: Profile = "auto",
    config: ConfigPath = None,
    models_dir: ModelsDir = None,
    as_json: Json = False,
) -> None:
    """Definition, source, bounds and networks of a metric."""
    from idtool.commands import show
    from idtool.evaluate.listing import show as facts

    use_mirror(models_dir)
    emit(facts(config_file(config), name, profile), as_json, show.facts)


@suites_app.command("list")
def list_suites(as_json: Json = False) -> None:
    """Every suite that is shipped."""
    from idtool.commands import show_bench
    from idtool.evaluate.suite import describe, load_suite, suite_names

    emit([describe(load_suite(name)) for name in suite_names()], as_json, show_bench.suites)


@suites_app.command("show")
def show_suite(
    name: Annotated[str, typer.Argument(metavar="SUITE|FILE")],
    as_yaml: Annotated[bool, typer.Option("--yaml", help="The suite itself, to copy and edit.")] = False,
    as_json: Json = False,
) -> None:
    """Protocol, prompts, people and metrics of a suite."""
    from idtool.commands import show
    from idtool.evaluate.suite import describe, load_suite, suite_text

    if as_yaml:
        emit(suite_text(name), as_json, show.text)
    else:
        emit(describe(load_suite(name)), as_json, show.facts)
