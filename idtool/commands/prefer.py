"""`idtool prefer` and `idtool review`."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from idtool.commands.curate import Device, Seed
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
from idtool.errors import UsageError

PreferRun = Annotated[Path, typer.Argument(metavar="RUN", help="The folder that `idtool prefer --output` wrote.")]


def prefer(
    ctx: typer.Context,
    bench: Annotated[
        Path,
        typer.Option("--from", envvar="IDTOOL_FROM", metavar="BENCH", help="What `idtool bench` or `evaluate` scored."),
    ],
    rule: Annotated[
        Literal["dmid", "idglow"],
        typer.Option(
            "--rule",
            envvar="IDTOOL_RULE",
            help="dmid: best against worst of several seeds. idglow: photos and good images against poorer ones.",
        ),
    ] = "dmid",
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", envvar="IDTOOL_OUTPUT", metavar="RUN", show_default="idtool-runs/prefer-<rule>"),
    ] = None,
    reward: Annotated[
        Literal["facesim+clip", "facesim"],
        typer.Option("--reward", help="dmid: the paper's R, or likeness alone where no CLIP score is there."),
    ] = "facesim+clip",
    metrics: Annotated[
        list[str] | None,
        typer.Option(
            "--metric",
            metavar="PART=NAME",
            callback=lines_of("IDTOOL_METRIC"),
            help="Which metric stands for id, obj, sem or aes, as in id=facesim/arcface-mbf; repeatable. "
            "(env: IDTOOL_METRIC, one per line)",
        ),
    ] = None,
    mu: Annotated[
        float | None,
        typer.Option("--mu", min=0, help="dmid: weight of CLIP.", show_default="4 on cosines, 1 on z-scores"),
    ] = None,
    zscore: Annotated[bool, typer.Option("--zscore", help="dmid: standardise both terms within each prompt.")] = False,
    floor: Annotated[
        float | None, typer.Option("--floor", min=-1, max=1, help="Likeness that a chosen generation has.")
    ] = 0.5,
    gap_quantile: Annotated[
        float, typer.Option("--gap-quantile", min=0, max=0.999, help="dmid: smaller gaps of R are dropped; 0: none.")
    ] = 0.25,
    use: Annotated[
        str | None,
        typer.Option("--use", metavar="A,B", help="idglow: the parts that count.", show_default="id,obj,sem,aes"),
    ] = None,
    tau: Annotated[
        list[str] | None,
        typer.Option("--tau", metavar="PART=VALUE", help="idglow: a threshold, as in aes=0.5; repeatable."),
    ] = None,
    rule_filter: Annotated[
        Literal["guarded", "paper"],
        typer.Option(
            "--filter", help="idglow: paper: any difference above its threshold; guarded: and none far below."
        ),
    ] = "guarded",
    people: Annotated[
        str | None, typer.Option("--people", metavar="N,N", help="idglow: numbers of references.", show_default="2,3")
    ] = None,
    most: Annotated[
        int, typer.Option("--most", min=0, help="idglow: pairs of each source from one group, at most; 0: all.")
    ] = 1,
    photos: Annotated[
        list[str] | None, typer.Option("--photos", metavar="NAME", help="idglow: this method's images are photos.")
    ] = None,
    perturbed: Annotated[
        list[str] | None,
        typer.Option("--perturbed", metavar="NAME", help="idglow: this method's images are worse copies."),
    ] = None,
    crops: Annotated[
        Literal["flag", "drop", "ignore"],
        typer.Option("--crops", help="idglow: references that are cut out of the chosen photo."),
    ] = "flag",
    methods: Annotated[
        list[str] | None, typer.Option("--method", "-m", metavar="NAME", help="Whose images; else all but baselines'.")
    ] = None,
    across: Annotated[bool, typer.Option("--across", help="dmid: compare images of different methods, too.")] = False,
    losers: Annotated[
        Path | None,
        typer.Option(
            "--write-losers",
            metavar="DIR",
            help="Mine nothing: write worse copies of the good images there, and tables for `idtool evaluate`.",
        ),
    ] = None,
    seed: Seed = 0,
    judge: Annotated[bool, typer.Option("--judge", help="Ask the profile's judge about every pair.")] = False,
    profile: Profile = "auto",
    config: ConfigPath = None,
    device: Device = "auto",
    models_dir: ModelsDir = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Make preference pairs for DPO from scored images: arithmetic on stored scores, seconds, no model."""
    from idtool.commands import show
    from idtool.curate.prefer.mine import PreferRequest
    from idtool.curate.prefer.mine import prefer as mine

    named = _named("--metric", metrics)
    if losers is not None:
        from idtool.curate.prefer.losers import write_losers

        told = write_losers(
            bench,
            losers,
            methods=tuple(methods or ()),
            metric=named.get("id"),
            floor=floor,
            photos=tuple(photos or ()),
            seed=seed,
        )
        emit(told, as_json, show.facts)
        return
    if rule == "dmid":
        settings: dict[str, Any] = {"clip": reward != "facesim", "zscore": zscore, "mu": mu}
        settings |= {"floor": floor, "gap_quantile": gap_quantile}
    else:
        settings = {"filter": rule_filter, "floor": floor, "most": most or None}
        settings |= {"photos": tuple(photos or ()), "perturbed": tuple(perturbed or ())}
        settings["tau"] = {name: _number("--tau", name, value) for name, value in _named("--tau", tau).items()}
        if use:
            settings["use"] = tuple(part.strip() for part in use.split(",") if part.strip())
        if people:
            settings["people"] = tuple(part.strip() for part in people.split(",") if part.strip())
    request = PreferRequest(
        bench=bench,
        rule=rule,
        output=output,
        settings=settings,
        metrics=named,
        methods=tuple(methods or ()),
        across=across,
        crops=crops,
        judge=judge,
        profile=profile,
        device=device,
        models_dir=models_dir,
    )
    work = partial(mine, config_file(config) if judge else None, request)
    carry_out(ctx, work, quiet, as_json, show.facts)


def review(
    run: PreferRun,
    decisions: Annotated[
        list[Path] | None,
        typer.Option(
            "--decisions",
            metavar="FILE",
            help="What the page saved; several of several reviewers: the majority decides.",
        ),
    ] = None,
    swap: Annotated[
        bool, typer.Option("--swap/--no-swap", help="Pairs whose rejected image was preferred: swap, or drop them.")
    ] = True,
    blind: Annotated[bool, typer.Option("--blind", help="Sides drawn by lot, scores hidden.")] = False,
    seed: Annotated[int, typer.Option("--seed", envvar="IDTOOL_SEED", min=0, help="Of the lot.")] = 0,
    per_page: Annotated[int, typer.Option("--per-page", min=1, help="Pairs on one page, at most.")] = 50,
    megabytes: Annotated[float, typer.Option("--page-mb", min=0.5, help="Pictures in one page, at most.")] = 12.0,
    undecided: Annotated[bool, typer.Option("--undecided", help="Only pairs that no review decided yet.")] = False,
    as_json: Json = False,
) -> None:
    """Write a page on which people decide between the images of each pair; or read their decisions back."""
    from idtool.commands import show

    if decisions:
        from idtool.curate.prefer.decisions import apply

        with failures_told(as_json):
            result = apply(run, decisions, swap=swap)
    else:
        from idtool.curate.prefer.review import write_pages

        budget = int(megabytes * 1_000_000)
        result = write_pages(run, blind=blind, seed=seed, per_page=per_page, budget=budget, again=undecided)
    emit(result, as_json, show.facts)


def _named(option: str, given: list[str] | None) -> dict[str, str]:
    """`PART=VALUE` of a repeated option."""
    found: dict[str, str] = {}
    for text in given or ():
        name, equals, value = text.partition("=")
        if not equals or not value or name in found:
            raise UsageError(f"{option} {text}: not of the form PART=VALUE, each part once.", f"As in {option} id=….")
        found[name.strip()] = value.strip()
    return found


def _number(option: str, name: str, value: str) -> float:
    try:
        return float(value)
    except ValueError:
        raise UsageError(f"{option} {name}={value}: that is no number.", f"As in {option} {name}=0.05.") from None
