"""What `idtool generate` does: a table of requests, one method, a run with its images and a gallery to look at."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa

from idtool import launch
from idtool.config import ConfigFile
from idtool.console import Reporter
from idtool.engine.fingerprint import IdDigest, fingerprint
from idtool.engine.operator import OUTCOME, Context
from idtool.engine.plan import Upstream, plan_steps
from idtool.engine.runner import Options, Runner
from idtool.engine.step import Env, Step
from idtool.engine.table import Table
from idtool.errors import MissingError, QualityError, RunFailed, UsageError
from idtool.generate import methods
from idtool.generate.gallery import write_gallery
from idtool.generate.method import Method
from idtool.generate.requests import SCHEMA, Wish, rows
from idtool.generate.rows import Generate, GenerateSettings
from idtool.machine import find_cuda
from idtool.models.weights import use_mirror
from idtool.run import Run

TABLE_SCHEMA = pa.schema([*SCHEMA, *OUTCOME])


@dataclass(frozen=True)
class GenerateRequest:
    """The options of `idtool generate`, nothing resolved yet."""

    method: str
    wishes: Sequence[Wish] = ()
    profile: str = "auto"
    output: Path | None = None
    """The run directory; None: `idtool-runs/generate-<method>`."""
    settings: dict[str, Any] = field(default_factory=dict)
    """Changes to the method's settings."""
    run: dict[str, Any] = field(default_factory=dict)
    """Values of `GenerateSettings` that differ from its defaults."""
    engine: str = "auto"
    address: str | None = None
    workers: int | None = None
    device: str = "auto"
    only: str | None = None
    """`errors`: retry just the rows that failed in the run."""
    max_error_rate: float = 0.01
    models_dir: Path | None = None

    @property
    def run_dir(self) -> Path:
        return self.output or Path("idtool-runs") / f"generate-{self.method}"


def generate(file: ConfigFile, request: GenerateRequest, progress: Reporter) -> dict[str, Any]:
    """Make every image; returns the summary of the run. Raises the errors of `idtool.errors`; whatever was made
    stays in the run, and the same request goes on."""
    if not request.wishes:
        raise UsageError("There is nothing to make.", "Give --prompt, or --requests FILE.")
    env, reason = surroundings(file, request)
    cls, spec = methods.resolve(file, request.method, request.settings)
    state, why = methods.state_of(cls, spec, env.bindings)
    if state == "cannot":
        raise MissingError(f"Method {request.method!r} cannot run here: {why}.", "`idtool methods list` shows others.")
    method = cls(spec, env.bindings)
    check_people(method, request.wishes)
    step = Generate(GenerateSettings.model_validate(request.run), env, method)
    steps: list[tuple[str, Step]] = [("generate", step)]
    planned = plan_steps(steps, TABLE_SCHEMA)
    progress.note(f"profile {env.profile}: {reason}")
    with Run.create(request.run_dir) as run, launch.clean_stop(request.run_dir), contextlib.redirect_stdout(sys.stderr):
        progress.log_to(run.path / "log.jsonl")
        sources, upstream = write_requests(run.step_dir(0, "requests"), request.wishes)
        executor = launch.executor(request.engine, request.address, request.workers, sources.rows)
        run.save(
            recipe="generate",
            summary=cls.summary,
            method=spec.name,
            kind=spec.kind,
            licence=spec.licence,
            conditions_on=spec.conditions_on,
            profile=env.profile,
            profile_reason=reason,
            device=env.device,
            sources=sources.rows,
            engine=executor.name,
            command=launch.recorded(launch.resume_command()),
        )
        launch.fetch(planned, run.path, upstream, progress.note, wrapped=False)
        context = Context(str(run.path), env.seed, env.device, threads=1)
        options = Options(request.only == "errors", request.max_error_rate)
        try:
            Runner(run, executor, context, progress, options, launch.describe).execute(planned, sources, upstream)
        except (QualityError, RunFailed) as error:
            error.details = summary(run.path)
            raise
        finally:
            method.close()
            executor.close()
        write_gallery(run.path)
    return summary(run.path)


def summary(path: Path) -> dict[str, Any]:
    """The counts of a run and where its images are, as `--json` prints them."""
    run = Run(path)
    entry = run.steps[0]
    keys = ("index", "name", "state", "rows_in", "kept", "rejected", "errors", "reasons", "seconds", "notes")
    gallery = run.path / "index.html"
    return {
        "run": str(path),
        "method": run.manifest.get("method"),
        "profile": run.manifest.get("profile"),
        "steps": [{key: entry[key] for key in keys if key in entry}],
        "images": images(run.path) if entry["state"] == "done" else [],
        "gallery": str(gallery) if gallery.is_file() else None,
    }


def images(path: Path, limit: int = 100) -> list[str]:
    """Paths of the images of a run, in the order of the table; at most `limit`."""
    run = Run(path)
    found: list[str] = []
    for batch in run.step_table(1).batches(["media"], kept_only=True):
        for ref in batch["media"].to_pylist():
            if len(found) == limit:
                return found
            found.append(str(run.store_root / ref.removeprefix("store:")))
    return found


class Asked(Protocol):
    """What requests for images and for scores have in common."""

    @property
    def profile(self) -> str: ...
    @property
    def device(self) -> str: ...
    @property
    def models_dir(self) -> Path | None: ...


def surroundings(file: ConfigFile, request: Asked, seed: int = 0) -> tuple[Env, str]:
    """The profile's models on the device that was asked for, and why it is this profile. UsageError for an unknown
    profile, MissingError for a device that is not here."""
    use_mirror(request.models_dir)
    profile, reason = choose_profile(file, request.profile)
    device = launch.choose_device(request.device, file.config.profiles[profile].device)
    return Env(profile, file.profile(profile).bindings(), seed, device), reason


def choose_profile(file: ConfigFile, name: str) -> tuple[str, str]:
    """The profile and why; `auto` takes the first of the file's `auto` list whose device is here."""
    if name != "auto":
        file.profile(name)
        return name, "asked for by name"
    *candidates, last = file.config.auto
    for candidate in candidates:
        if file.profile(candidate).device != "cuda" or find_cuda():
            return candidate, "its device is here"
    return last, f"{', '.join(candidates) or 'nothing'} needs CUDA, and none is here"


def check_people(method: Method, wishes: Sequence[Wish]) -> None:
    """UsageError when no request fits the method: a table for two people and a method for one. Requests that fit in
    part are left to the rows."""
    fewest, most = method.people
    counts = sorted({len(wish.references) for wish in wishes})
    if all(not fewest <= count <= most for count in counts):
        wanted = f"{fewest}" if fewest == most else f"{fewest} to {most}"
        raise UsageError(
            f"Method {method.spec.name!r} takes {wanted} reference(s); the requests have "
            f"{', '.join(map(str, counts))}.",
            "`idtool methods list` shows which methods take several people.",
        )


def write_requests(folder: Path, wishes: Sequence[Wish]) -> tuple[Table, Upstream]:
    """The run's first table, by id, and what tells it from any other."""
    digest = IdDigest()

    def told() -> Iterator[dict[str, Any]]:
        for one in rows(wishes):
            digest.update([f"{one['id']} {fingerprint(one)}"])
            yield one

    table = launch.first_table(folder, told(), TABLE_SCHEMA)
    return table, Upstream("requests", digest.hexdigest())


def parse_settings(sets: Sequence[str]) -> dict[str, Any]:
    """`key=value` of `--set`, values as YAML; UsageError for anything else."""
    from idtool.yaml_source import scalar

    found: dict[str, Any] = {}
    for text in sets:
        key, equals, value = text.partition("=")
        if not equals or not key.strip():
            raise UsageError(f"--set {text}: not of the form KEY=VALUE.", "As in --set steps=28.")
        try:
            found[key.strip()] = scalar(value)
        except ValueError as error:
            raise UsageError(f"--set {text}: {error}.", "Quote it for YAML.") from error
    return found
