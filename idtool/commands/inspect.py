"""Commands that read a run: `idtool tune | explain | report | export`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, cast

import typer

from idtool.commands.shared import Json, RunDir, emit, lines_of
from idtool.errors import UsageError


def tune(
    run: RunDir,
    sweep: Annotated[
        list[str] | None,
        typer.Option(
            "--sweep",
            "-s",
            metavar="GATE.BOUND=FROM:TO:STEP",
            callback=lines_of("IDTOOL_SWEEP"),
            help="As in aesthetic.min=4.5:6.5:0.1 or pose.yaw.abs_max=30,45,60; repeatable. "
            "(env: IDTOOL_SWEEP, one per line)",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """What other thresholds would keep, from the values that the run has stored: seconds, no model."""
    from idtool.commands import show
    from idtool.curate import tune as curves

    emit(curves.tune(run, sweep or []), as_json, show.tuned)


def explain(
    run: RunDir,
    item: Annotated[
        str, typer.Argument(metavar="ID", help="An id or its beginning, a file name, a path, a pair's id.")
    ],
    as_json: Json = False,
) -> None:
    """One sample's whole story: source, measures, gates with value and threshold, pairs."""
    from idtool.commands import show
    from idtool.curate import explain as story

    emit(story.explain(run, item), as_json, show.explained)


def report(
    what: Annotated[str, typer.Argument(metavar="RUN|BENCH|trend", help="A run, a benchmark, or the word trend.")],
    store: Annotated[
        str | None,
        typer.Argument(metavar="STORE", help="With trend: the store of `idtool nightly`.", show_default=False),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE", help="With trend: the page.", show_default="trend.html"),
    ] = None,
    send: Annotated[
        list[str] | None,
        typer.Option("--send", metavar="mlflow|wandb|trackio", help="Send a benchmark's numbers there; repeatable."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Write a run's or a benchmark's reports again; or draw the history of nightly benchmarks."""
    from idtool.commands import show

    if what == "trend":
        from idtool.evaluate.report.trend import write_trend

        if store is None:
            raise UsageError("report trend needs the store of nightly results.", "idtool report trend STORE")
        emit({"report": str(write_trend(store, output or Path("trend.html")))}, as_json, show.facts)
        return
    folder = Path(what)
    if (folder / "bench.json").is_file():
        from idtool.evaluate.report import write_reports
        from idtool.evaluate.report.sinks import send as send_to

        told = {name: str(path) for name, path in write_reports(folder).items()}
        emit({**told, **{name: send_to(folder, name) for name in send or ()}}, as_json, show.facts)
        return
    from idtool.curate.report import write_report

    emit({"report": str(write_report(folder))}, as_json, show.facts)


def export(
    run: RunDir,
    output: Annotated[
        str | None,
        typer.Option(
            "--output",
            "-o",
            envvar="IDTOOL_EXPORT",
            metavar="DIR|URL",
            help="Where to: a folder, or s3://bucket/folder and its like.",
            show_default="RUN/dataset",
        ),
    ] = None,
    remove_identity: Annotated[
        list[str] | None,
        typer.Option(
            "--remove-identity",
            metavar="NAME",
            callback=lines_of("IDTOOL_REMOVE_IDENTITY"),
            help="Leave this person out; repeatable. (env: IDTOOL_REMOVE_IDENTITY, one per line)",
        ),
    ] = None,
    splits: Annotated[
        list[str] | None,
        typer.Option(
            "--split",
            metavar="NAME=SHARE",
            callback=lines_of("IDTOOL_SPLIT"),
            help="Other splits, as in --split train=0.8 --split test=0.2. (env: IDTOOL_SPLIT, one per line)",
        ),
    ] = None,
    format: Annotated[
        str | None,
        typer.Option(
            "--format",
            envvar="IDTOOL_FORMAT",
            metavar="NAME",
            help="parquet, webdataset, folder, folder-diffusers, folder-kohya, folder-pairs, lance or fiftyone; of "
            "preference pairs: diffusers-dpo or trl.",
            show_default="as the recipe says",
        ),
    ] = None,
    same_person: Annotated[
        float | None,
        typer.Option(
            envvar="IDTOOL_SAME_PERSON",
            min=-1,
            max=1,
            help="With --remove-identity: cosine from which a face counts as theirs.",
            show_default="that of the run",
        ),
    ] = None,
    remove_alike: Annotated[
        bool,
        typer.Option(
            "--remove-alike",
            envvar="IDTOOL_REMOVE_ALIKE",
            help="With --remove-identity: leave out whatever else comes too close to them, in place of failing.",
        ),
    ] = False,
    push: Annotated[
        str | None,
        typer.Option(
            metavar="hf:OWNER/NAME", help="Also send it to the hub; private. Needs HF_TOKEN.", show_default=False
        ),
    ] = None,
    public: Annotated[bool, typer.Option("--public", help="With --push: for everybody to see.")] = False,
    yes_i_may_share: Annotated[
        bool,
        typer.Option(
            "--yes-i-may-share",
            help="With --push: I have the right to send images whose licence or consent says otherwise.",
        ),
    ] = False,
    reviewed_only: Annotated[
        bool, typer.Option("--reviewed-only", help="Of preference pairs: those that somebody decided on.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Write the data set of a run again, elsewhere, in another format or without certain people; or send it away."""
    from idtool.commands import show
    from idtool.curate.export import Pushing, export_run

    if push is None and (public or yes_i_may_share):
        raise UsageError("--public and --yes-i-may-share are for --push.", "Add --push hf:OWNER/NAME.")
    if format in ("diffusers-dpo", "trl"):
        from idtool.curate.prefer.dpo_export import export as export_pairs
        from idtool.manifest_folder import local_only

        if push or same_person is not None or remove_alike:
            raise UsageError(f"--format {format} takes neither --push nor --same-person.", "Leave them out.")
        shares = dict(map(_share, splits)) if splits else None
        people = tuple(remove_identity or ())
        if output is not None:
            local_only(output)
        told = export_pairs(
            run,
            None if output is None else Path(output),
            cast(Literal["diffusers-dpo", "trl"], format),
            remove_identity=people,
            splits=shares,
            reviewed_only=reviewed_only,
        )
        emit(told, as_json, show.facts)
        return
    if reviewed_only:
        raise UsageError("--reviewed-only is of preference pairs.", "Add --format diffusers-dpo or trl.")
    result = export_run(
        run,
        output if output is None or "://" in output else Path(output),
        remove_identity=tuple(remove_identity or ()),
        splits=dict(map(_share, splits)) if splits else None,
        format=format,
        same_person=same_person,
        remove_alike=remove_alike,
        push=None if push is None else Pushing(push, public, yes_i_may_share),
    )
    emit(result, as_json, show.facts)


def _share(text: str) -> tuple[str, float]:
    name, _, share = text.partition("=")
    try:
        return name, float(share)
    except ValueError:
        raise UsageError(f"--split {text}: not of the form NAME=SHARE.", "As in --split train=0.9.") from None
