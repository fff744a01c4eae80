"""What `idtool prefer` does: from a scored benchmark folder to a run with preference pairs."""

from __future__ import annotations

from collections.abc import Mapping
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
from idtool.curate.prefer.parts import choose
from idtool.curate.prefer.writing import Writer
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


def prefer(file: ConfigFile | None, request: PreferRequest, progress: Reporter) -> dict[str, Any]:
    """Mine the pairs; returns the summary. `file` is only needed with `judge`.

    UsageError for what does not fit; MissingError for a metric or a judge that is not there; QualityError when no pair
    is left (the reasons are in the run).
    """
    use_mirror(request.models_dir)
    settings = _settings(request)
    bench = Bench(request.bench)
    methods = _methods(bench, request, settings)
    parts = choose(bench.manifest, settings.parts, request.metrics)
    if isinstance(settings, DmidSettings):
        dmid.check_scales(parts, settings)
    judge = inspecting.load_judge(file, request) if request.judge else None
    for part in parts.values():
        progress.note(f"{part.name}: {part.metric}, {part.how}")
    apart = request.rule == "dmid" and not request.across
    copies = settings.perturbed if isinstance(settings, IdGlowSettings) else ()
    with Run.create(request.folder) as run:
        _may_write(run, request)
        images = source.read(
            bench.path, {name: part.metric for name, part in parts.items()}, methods=methods, apart=apart, copies=copies
        )
        found: Found = (
            dmid.mine(images, settings) if isinstance(settings, DmidSettings) else idglow.mine(images, settings)
        )
        progress.step_start(table.KIND, 1, 1, len(images.keys))
        inspector = inspecting.Inspector(request.crops, judge)
        tau = settings.thresholds if isinstance(settings, IdGlowSettings) else {}
        writer = Writer(run, bench.path, images, methods, parts, tau, inspector)
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
            rule=request.rule,
            bench=str(bench.path),
            bench_updated=bench.manifest.get("updated"),
            profile=bench.manifest.get("profile"),
            settings={**settings.model_dump(mode="json"), "crops": request.crops},
            metrics={name: vars(part) for name, part in parts.items()},
            methods=sorted(methods),
            judge=inspector.describe(),
            pairs_hash=writer.digest.value,
            steps=[entry],
        )
        table.publish(run, table.mined(run))
        progress.step_end(table.KIND, entry)
        if count := entry["flags"].get("reference_crop"):
            progress.warn(f"{count} pairs have a reference that is cut out of the chosen photo: they teach to copy")
    result = summary(run)
    if not entry["kept"]:
        told = ", ".join(f"{reason} {count}" for reason, count in entry["reasons"].items())
        error = QualityError(
            f"No pair is left of {len(images.keys)} groups: {told or 'there are no images'}.",
            f"{run.path / 'rejects' / '00-prefer.parquet'} says why of each; loosen the bounds, or make more images.",
        )
        error.details = result
        raise error
    return result


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


def _settings(request: PreferRequest) -> Rule:
    model: type[Rule] = DmidSettings if request.rule == "dmid" else IdGlowSettings
    try:
        return model.model_validate(dict(request.settings))
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(map(str, first["loc"])) or "settings"
        text = first["msg"].removeprefix("Value error, ")
        hint = did_you_mean(name, model.model_fields, "It has") if first["type"] == "extra_forbidden" else ""
        raise UsageError(f"Rule {request.rule}, {name}: {text}.", hint) from error


def _methods(bench: Bench, request: PreferRequest, settings: Rule) -> frozenset[str]:
    known = bench.methods
    named = (*request.methods, *(getattr(settings, "photos", ())), *(getattr(settings, "perturbed", ())))
    for name in named:
        if name not in known:
            raise UsageError(f"{request.bench} has no method {name!r}.", did_you_mean(name, known, "It has"))
    both = set(getattr(settings, "photos", ())) & set(getattr(settings, "perturbed", ()))
    if both:
        raise UsageError(f"{', '.join(sorted(both))} cannot be photos and worse copies at once.", "Name it once.")
    # A copied reference has the best likeness of all: as a winner it would teach to copy.
    chosen = request.methods or tuple(name for name, entry in known.items() if not entry.get("baseline"))
    if not (chosen or named):
        raise UsageError(f"{request.bench} has no methods but baselines.", "Name one with --method.")
    return frozenset((*chosen, *named))


def _may_write(run: Run, request: PreferRequest) -> None:
    kind = run.manifest.get("kind")
    if kind not in (None, table.KIND) or (kind is None and run.steps):
        raise UsageError(f"{request.folder} holds another kind of run.", "Choose another --output.")
    if any(entry["name"] == table.REVIEWED[1] for entry in run.steps):
        raise UsageError(f"The pairs in {request.folder} have been reviewed.", "Choose another --output.")
