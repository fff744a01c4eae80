"""What `idtool plan` and `idtool curate` do: resolve the request, list the sources, plan, run, report."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from idtool import launch
from idtool.config import ConfigFile, ResolvedRecipe, load_config
from idtool.console import Reporter
from idtool.curate.profiles import choose_profile
from idtool.curate.registry import STEPS
from idtool.curate.report import write_report
from idtool.curate.request import CurateRequest
from idtool.engine.fingerprint import IdDigest, fingerprint
from idtool.engine.operator import OUTCOME, Context
from idtool.engine.plan import Planned, Upstream, plan_steps, state_of
from idtool.engine.runner import Options, Runner
from idtool.engine.step import Env, Step
from idtool.engine.table import Table
from idtool.errors import QualityError, RunFailed
from idtool.media.paths import local
from idtool.media.sources import SCHEMA, Listing, list_sources
from idtool.models.catalog import catalogue
from idtool.models.weights import cache_dir, use_mirror
from idtool.run import Run
from idtool.sample import make_sample, sample_folder

SOURCES_SCHEMA = pa.schema([*SCHEMA, *OUTCOME])


@dataclass(frozen=True)
class Prepared:
    """A request with everything resolved that does not need the inputs."""

    recipe: ResolvedRecipe
    profile: str
    profile_reason: str
    device: str
    planned: list[Planned]

    @property
    def reads_input(self) -> bool:
        """Whether the rows of the inputs matter: not to a recipe whose first step makes its rows from its settings."""
        steps = [entry.step for entry in self.planned if entry.skipped is None]
        return not steps or steps[0].rows_from != "settings" or any(step.rows_from == "sources" for step in steps)


def prepare(request: CurateRequest) -> Prepared:
    """Read the configuration, choose profile and device, build and check the steps."""
    use_mirror(request.models_dir)
    config: ConfigFile = load_config(request.config, STEPS, catalogue())
    recipe = config.resolve(request.recipe, request.sets)
    profile, reason = choose_profile(config, recipe, request.profile)
    recipe = config.resolve(request.recipe, request.sets, profile)
    device = launch.choose_device(request.device, config.profile(profile).device)
    env = Env(profile, config.profile(profile).bindings(), request.seed, device, config.config.methods)
    steps: list[tuple[str, Step]] = [(step.name, STEPS.get(step.kind)(step.settings, env)) for step in recipe.steps]
    return Prepared(recipe, profile, reason, device, plan_steps(steps, SOURCES_SCHEMA))


def plan(request: CurateRequest) -> dict[str, Any]:
    """What `curate` would do: every step with what it reads and writes, whether it is done, and why not."""
    prepared = prepare(request)
    states = state_of(prepared.planned, request.run_dir, _known_sources(request, prepared))
    return {
        "recipe": prepared.recipe.recipe,
        "source": prepared.recipe.source,
        "profile": prepared.profile,
        "profile_reason": prepared.profile_reason,
        "changes": list(prepared.recipe.changes),
        "device": prepared.device,
        "output": str(request.run_dir),
        "steps": [
            {
                "index": entry.index,
                "name": entry.name,
                "kind": entry.step.kind,
                "summary": entry.step.summary,
                "state": state,
                "why": why,
                "notes": entry.notes,
                "models": sorted({one.model for one in (*entry.step.models(), *entry.step.unwrapped())}),
                "columns": [name for name in entry.schema.names if name not in OUTCOME.names],
            }
            for entry, (state, why) in zip(prepared.planned, states, strict=True)
        ],
    }


def _known_sources(request: CurateRequest, prepared: Prepared) -> Upstream | None:
    """What the listing of the inputs would be, or None while the built-in sample is not made."""
    inputs = list(request.inputs) if prepared.reads_input else []
    if prepared.reads_input and not inputs:
        folder = sample_folder(cache_dir() / "sample", seed=request.seed)
        if not folder.is_dir():
            return None
        inputs = [str(folder / "manifest.csv")]
    sources = _Sources(inputs, request.limit)
    for _ in sources:
        pass
    return sources.upstream


def curate(request: CurateRequest, progress: Reporter) -> dict[str, Any]:
    """Run a recipe from its sources to its data set and report; returns the summary of the run.

    Raises the errors of `idtool.errors`; whatever was computed stays in the run, and the same request goes on.
    """
    prepared = prepare(request)
    progress.note(f"profile {prepared.profile}: {prepared.profile_reason}")
    if prepared.recipe.changes:
        progress.note(f"the recipe changes for this profile: {', '.join(prepared.recipe.changes)}")
    with Run.create(request.run_dir) as run, launch.clean_stop(request.run_dir), contextlib.redirect_stdout(sys.stderr):
        progress.log_to(run.path / "log.jsonl")
        inputs = _inputs(request, prepared, progress)
        listing = _Sources(inputs, request.limit)
        sources = listing.write(run.step_dir(0, "sources"))
        rows = sources.rows
        if left_out := listing.left_out():
            progress.note(f"left out of the inputs: {left_out}")
        executor = launch.executor(request.engine, request.address, request.workers, rows)
        run.save(
            recipe=prepared.recipe.recipe,
            summary=prepared.recipe.summary,
            paper=prepared.recipe.paper,
            profile=prepared.profile,
            profile_reason=prepared.profile_reason,
            changes=list(prepared.recipe.changes),
            seed=request.seed,
            device=prepared.device,
            inputs=[launch.recorded(value) for value in inputs],
            sample=bool(inputs) and not request.inputs,
            sources=rows,
            left_out=dict(+listing.listing.skipped),
            engine=executor.name,
            command=launch.recorded(launch.resume_command()),
        )
        launch.fetch(prepared.planned, run.path, listing.upstream, progress.note)
        (run.path / "recipe.yaml").write_text(prepared.recipe.to_yaml(), encoding="utf-8")
        context = Context(str(run.path), request.seed, prepared.device, threads=1)
        options = Options(request.only == "errors", prepared.recipe.max_error_rate)
        try:
            runner = Runner(run, executor, context, progress, options, launch.describe)
            runner.execute(prepared.planned, sources, listing.upstream)
        except (QualityError, RunFailed) as error:
            # What went wrong is also in the report; a disk too full for it must not hide the reason.
            report = None
            with contextlib.suppress(OSError):
                report = write_report(run.path)
            error.details = summary(run.path, report)
            raise
        finally:
            executor.close()
        report = write_report(run.path)
    return summary(run.path, report)


def summary(path: Path, report: Path | None = None) -> dict[str, Any]:
    """The counts of a run, as `--json` prints them."""
    run = Run(path)
    keys = ("index", "name", "state", "rows_in", "kept", "rejected", "errors", "reasons", "seconds", "skipped_because")
    dataset = run.path / "dataset"
    return {
        "run": str(path),
        "recipe": run.manifest.get("recipe"),
        "profile": run.manifest.get("profile"),
        "profile_reason": run.manifest.get("profile_reason"),
        "inputs": run.manifest.get("inputs"),
        "steps": [{key: entry[key] for key in keys if key in entry} for entry in run.steps],
        "dataset": str(dataset) if dataset.is_dir() else None,
        "report": str(report) if report else None,
    }


def _inputs(request: CurateRequest, prepared: Prepared, progress: Reporter) -> list[str]:
    """What the run reads: the inputs that were given, else the manifest of the built-in sample, made on first use;
    nothing where the recipe reads no input."""
    if not prepared.reads_input:
        if request.inputs:
            progress.note("--input is not read: the first step of this recipe makes its rows from its settings")
        return []
    if request.inputs:
        return list(request.inputs)
    progress.note("no --input: using the built-in sample of synthetic people")
    return [str(make_sample(cache_dir() / "sample", seed=request.seed, announce=progress.note) / "manifest.csv")]


class _Sources:
    """The listing of some inputs. Once read through, `upstream` tells it from any other. Ids cover sizes and times of
    change, so that a file that changed in place is a new row and is read again."""

    def __init__(self, inputs: Sequence[str], limit: int | None) -> None:
        self.listing = list_sources(inputs, limit=limit) if inputs else Listing([], limit)
        self._digest = IdDigest()

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for row in self.listing:
            row["id"] = fingerprint(row["id"], _stamp(row["uri"]))
            self._digest.update([f"{row['id']} {fingerprint(row)}"])
            yield row

    @property
    def upstream(self) -> Upstream:
        return Upstream("sources", self._digest.hexdigest())

    def write(self, folder: Path) -> Table:
        """The listing as the run's first table, by id."""
        return launch.first_table(folder, self, SOURCES_SCHEMA)

    def left_out(self) -> str | None:
        """What the listing passed over, in words, or None."""
        skipped = (+self.listing.skipped).most_common()
        return ", ".join(f"{number} {what}" for what, number in skipped) or None


def _stamp(uri: str) -> str:
    """Size and time of change of a local file; nothing for others."""
    path = local(uri)
    try:
        status = path.stat() if path is not None else None
    except OSError:
        return "missing"
    return f"{status.st_size} {status.st_mtime_ns}" if status else ""
