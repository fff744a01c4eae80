"""What `idtool prefer` does: from a scored benchmark folder to a run with preference pairs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from idtool.config import ConfigFile
from idtool.console import Reporter
from idtool.curate.prefer import candidates as source
from idtool.curate.prefer import dmid, idglow, inspecting, table
from idtool.curate.prefer.dmid import DmidSettings
from idtool.curate.prefer.idglow import IdGlowSettings
from idtool.curate.prefer.pairs import Found
from idtool.curate.prefer.parts import Part, choose
from idtool.curate.prefer.writing import Writer
from idtool.engine.progress import Progress
from idtool.errors import QualityError, UsageError
from idtool.evaluate.folder import Bench
from idtool.models.weights import use_mirror
from idtool.registry import did_you_mean
from idtool.run import Run


@dataclass(frozen=True)
class PreferRequest:
    """The options of `idtool prefer`, nothing resolved yet."""

    bench: Path
    rule: Literal["dmid", "idglow"] = "dmid"
    output: Path | None = None
    """None: `idtool-runs/prefer-<rule>`."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Of the rule."""
    metrics: Mapping[str, str] = field(default_factory=dict)
    """Part -> name of its metric, where it is not to be chosen."""
    methods: tuple[str, ...] = ()
    """Whose images; empty: all that are no baselines."""
    across: bool = False
    """Whether images of several methods may be in one group. Rule idglow always does that."""
    crops: Literal["flag", "drop", "ignore"] = "flag"
    """What is done with pairs whose reference is cut out of the chosen photo."""
    judge: bool = False
    """Ask role `judge` about every pair."""
    profile: str = "auto"
    device: str = "auto"
    models_dir: Path | None = None

    @property
    def folder(self) -> Path:
        return self.output or Path("idtool-runs") / f"prefer-{self.rule}"


Rule = DmidSettings | IdGlowSettings
RULES: Mapping[str, type[Rule]] = {"dmid": DmidSettings, "idglow": IdGlowSettings}


def prefer(file: ConfigFile | None, request: PreferRequest, progress: Reporter) -> dict[str, Any]:
    """Mine the pairs; returns the summary. `file` is only needed with `judge`.

    UsageError for what does not fit; MissingError for a metric or a judge that is not there; QualityError when no pair
    is left (the reasons are in the run).
    """
    use_mirror(request.models_dir)
    settings = settings_of(request.rule, request.settings)
    bench = Bench(request.bench)
    job = Job.of(bench, settings, request.metrics, request.methods, request.across)
    judge = inspecting.load_judge(file, request) if request.judge else None
    with Run.create(request.folder) as run:
        entry = mine(run, job, inspecting.Inspector(request.crops, judge), progress)
    result = summary(run)
    if not entry["kept"]:
        told = ", ".join(f"{reason} {count}" for reason, count in entry["reasons"].items())
        error = QualityError(
            f"No pair is left of {entry['groups']} groups: {told or 'there are no images'}.",
            f"{run.path / 'rejects' / '00-prefer.parquet'} says why of each; loosen the bounds, or make more images.",
        )
        error.details = result
        raise error
    return result


@dataclass(frozen=True)
class Job:
    """A mining whose metrics and methods are settled."""

    bench: Bench
    settings: Rule
    methods: frozenset[str]
    parts: Mapping[str, Part]
    apart: bool
    """Whether images of two methods are never in one group."""

    @classmethod
    def of(
        cls, bench: Bench, settings: Rule, metrics: Mapping[str, str], methods: Sequence[str] = (), across: bool = False
    ) -> Job:
        """Arguments as in `PreferRequest`. UsageError and MissingError as `prefer`."""
        chosen = _methods(bench, methods, settings)
        parts = choose(bench.manifest, settings.parts, metrics)
        if isinstance(settings, DmidSettings):
            dmid.check_scales(parts, settings)
        return cls(bench, settings, chosen, parts, isinstance(settings, DmidSettings) and not across)


def mine(run: Run, job: Job, inspector: inspecting.Inspector, progress: Progress) -> dict[str, Any]:
    """Mine the pairs of a scored folder into a run that is empty or holds such pairs; returns the run's one entry.
    UsageError for another kind of run, and for pairs that were reviewed."""
    settings, bench, parts = job.settings, job.bench, job.parts
    _may_write(run)
    for part in parts.values():
        progress.note(f"{part.name}: {part.metric}, {part.how}")
    images = source.read(
        bench.path,
        {name: part.metric for name, part in parts.items()},
        methods=job.methods,
        apart=job.apart,
        copies=settings.perturbed if isinstance(settings, IdGlowSettings) else (),
    )
    found: Found = dmid.mine(images, settings) if isinstance(settings, DmidSettings) else idglow.mine(images, settings)
    progress.step_start(table.KIND, 1, 1, len(images.keys))
    tau = settings.thresholds if isinstance(settings, IdGlowSettings) else {}
    writer = Writer(run, bench.path, images, job.methods, parts, tau, inspector)
    counts = writer.write(found, progress)
    entry = {
        "index": 0,
        "name": table.KIND,
        "kind": table.KIND,
        "state": "done",
        "rows_in": len(images.ids),
        "groups": len(images.keys),
        **counts,
    }
    run.save(
        kind=table.KIND,
        rule=next(name for name, model in RULES.items() if isinstance(settings, model)),
        bench=str(bench.path),
        bench_updated=bench.manifest.get("updated"),
        profile=bench.manifest.get("profile"),
        settings={**settings.model_dump(mode="json"), "crops": inspector.crops},
        metrics={name: vars(part) for name, part in parts.items()},
        methods=sorted(job.methods),
        judge=inspector.describe(),
        pairs_hash=writer.digest.value,
        steps=[entry],
    )
    table.publish(run, table.mined(run))
    progress.step_end(table.KIND, entry)
    if count := entry["flags"].get("reference_crop"):
        progress.warn(f"{count} pairs have a reference that is cut out of the chosen photo: they teach to copy")
    return entry


def summary(run: Run) -> dict[str, Any]:
    """What `--json` prints."""
    entry = run.steps[-1]
    keys = ("rows_in", "groups", "kept", "rejected", "errors", "reasons", "sources", "flags", "margin")
    return {
        "run": str(run.path),
        "rule": run.manifest["rule"],
        "metrics": {name: part["metric"] for name, part in run.manifest["metrics"].items()},
        **{key: entry[key] for key in keys if key in entry},
        "files": {"preferences": str(run.path / table.NAME)},
    }


def settings_of(rule: str, values: Mapping[str, Any]) -> Rule:
    """The settings of a rule, checked. UsageError names the first that does not fit."""
    model = RULES[rule]
    try:
        return model.model_validate(dict(values))
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(map(str, first["loc"])) or "settings"
        text = first["msg"].removeprefix("Value error, ")
        hint = did_you_mean(name, model.model_fields, "It has") if first["type"] == "extra_forbidden" else ""
        raise UsageError(f"Rule {rule}, {name}: {text}.", hint) from error


def _methods(bench: Bench, asked: Sequence[str], settings: Rule) -> frozenset[str]:
    known = bench.methods
    named = (*asked, *(getattr(settings, "photos", ())), *(getattr(settings, "perturbed", ())))
    for name in named:
        if name not in known:
            raise UsageError(f"{bench.path} has no method {name!r}.", did_you_mean(name, known, "It has"))
    both = set(getattr(settings, "photos", ())) & set(getattr(settings, "perturbed", ()))
    if both:
        raise UsageError(f"{', '.join(sorted(both))} cannot be photos and worse copies at once.", "Name it once.")
    # A copied reference has the best likeness of all: as a winner it would teach to copy.
    chosen = asked or tuple(name for name, entry in known.items() if not entry.get("baseline"))
    if not (chosen or named):
        raise UsageError(f"{bench.path} has no methods but baselines.", "Name one with --method.")
    return frozenset((*chosen, *named))


def _may_write(run: Run) -> None:
    kind = run.manifest.get("kind")
    if kind not in (None, table.KIND) or (kind is None and run.steps):
        raise UsageError(f"{run.path} holds another kind of run.", "Choose another --output.")
    if any(entry["name"] == table.REVIEWED[1] for entry in run.steps):
        raise UsageError(
            f"The pairs in {run.path} have been reviewed.", "Choose another --output, or move that folder away."
        )
