"""What `idtool bench` does: a suite's requests through every method, scored, compared and reported."""

from __future__ import annotations

import contextlib
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from idtool import launch
from idtool.config import ConfigFile
from idtool.console import Reporter
from idtool.engine.step import Env
from idtool.errors import IdtoolError, Interrupted, RunFailed, UsageError
from idtool.evaluate import samples
from idtool.evaluate.build import wishes as build_wishes
from idtool.evaluate.cells import choose as choose_people
from idtool.evaluate.features import Runtime
from idtool.evaluate.folder import Bench
from idtool.evaluate.identities import Identity, read_identities, with_measured
from idtool.evaluate.pictures import pictures
from idtool.evaluate.prompting import captioner
from idtool.evaluate.references import check
from idtool.evaluate.report import write_reports
from idtool.evaluate.score_methods import score_methods
from idtool.evaluate.scoring import Chosen, choose, look_at, parse_families, with_needs
from idtool.evaluate.suite import Suite, describe, load_suite, suite_hash
from idtool.generate import methods as known
from idtool.generate.method import Method
from idtool.generate.pipeline import GenerateRequest, generate, surroundings
from idtool.generate.requests import Wish
from idtool.media.paths import to_uri
from idtool.registry import did_you_mean
from idtool.run import Run

ALL = "all"


@dataclass(frozen=True)
class BenchRequest:
    """The options of `idtool bench`, nothing resolved yet."""

    suite: str = "smoke"
    methods: tuple[str, ...] = (ALL,)
    """Names, or `all`: every method that can run here. Baselines come along."""
    identities: str | None = None
    """Where the people come from; None: the suite's own source."""
    profile: str = "auto"
    output: Path | None = None
    """None: `idtool-runs/bench-<suite>`."""
    metrics: tuple[str, ...] = ()
    """Families; empty: the suite's."""
    score_only: bool = False
    """Score what was generated before; make nothing."""
    skip_bad_references: bool = False
    limit: int | None = None
    """So many identities in place of the suite's number."""
    seed: int = 0
    engine: str = "auto"
    address: str | None = None
    workers: int | None = None
    device: str = "auto"
    batch: int = 4
    real: str | None = None
    """Pictures that set-level metrics compare with; None: the references."""
    force: bool = False
    only: str | None = None
    max_error_rate: float = 0.01
    models_dir: Path | None = None

    @property
    def folder(self) -> Path:
        return self.output or Path("idtool-runs") / f"bench-{Path(self.suite).stem}"


def bench(file: ConfigFile, request: BenchRequest, progress: Reporter) -> dict[str, Any]:
    """Run a benchmark; returns its summary. What was made and scored stays, and the same request goes on.

    Raises the errors of `idtool.errors`: UsageError before anything runs, for suites, methods and references that do
    not fit; RunFailed at the end, when a method that was named failed. A method that `all` brought in and that fails is
    told in the report.
    """
    suite = load_suite(request.suite)
    if request.limit is not None:
        suite = suite.with_count(request.limit)
    env, reason = surroundings(file, request, request.seed)
    chosen = choose(parse_families(request.metrics, suite.metrics), env)
    entries = _methods(file, request, suite, env)
    with ExitStack() as stack:
        folder = stack.enter_context(Bench.create(request.folder))
        stack.enter_context(launch.clean_stop(request.folder))
        stack.enter_context(contextlib.redirect_stdout(sys.stderr))
        progress.note(f"profile {env.profile}: {reason}")
        _same_suite(folder, suite, env.profile, request)
        runtime = Runtime.of(env, request, progress, request.max_error_rate)
        source = request.identities or suite.identities.source
        people = read_identities(source, folder=folder.path / "pictures", announce=progress.note)
        people = _with_good_references(folder, suite, people, runtime, request, progress)
        writer = captioner(env) if suite.prompting != "static" else None
        wishes = build_wishes(suite, people, request.seed, writer=writer)
        folder.save(
            suite={**describe(suite), "hash": suite_hash(suite)},
            profile=env.profile,
            profile_reason=reason,
            device=env.device,
            seed=env.seed,
            identities=len(people),
            requests=len(wishes),
            command=launch.recorded(launch.resume_command()),
            methods={name: {**folder.methods.get(name, {}), **entry} for name, entry in entries.items()},
        )
        (folder.path / "suite.yaml").write_text(suite.to_yaml(), encoding="utf-8")
        if not request.score_only:
            _generate_all(folder, file, env.profile, wishes, request, progress)
        _score_all(folder, suite, chosen, runtime, request)
        write_reports(folder.path, seed=request.seed)
        result = summary(folder.path)
    failed = [name for name, entry in folder.methods.items() if entry["state"] == "failed" and name in request.methods]
    if failed:
        error = RunFailed(
            f"{', '.join(failed)} failed: {folder.methods[failed[0]]['why']}",
            "The report has the others. Mend the cause, then run the same command.",
        )
        error.details = result
        raise error
    return result


def summary(path: Path) -> dict[str, Any]:
    """What `--json` prints: the state of every method, the leaderboard, and where the reports are."""
    from idtool.evaluate.report import leaderboard

    folder = Bench(path)
    manifest = folder.manifest
    files = {name: folder.path / name for name in ("report.html", "report.md", "report.parquet", "scores.parquet")}
    keys = ("state", "why", "requested", "made", "rejected", "errors")
    return {
        "bench": str(path),
        "suite": manifest["suite"]["name"],
        "profile": manifest["profile"],
        "identities": manifest.get("identities"),
        "requests": manifest.get("requests"),
        "methods": {name: {key: entry.get(key) for key in keys} for name, entry in folder.methods.items()},
        "skipped": manifest.get("skipped", {}),
        "leaderboard": leaderboard(folder.path),
        "files": {name: str(file) for name, file in files.items() if file.is_file()},
    }


def _methods(file: ConfigFile, request: BenchRequest, suite: Suite, env: Env) -> dict[str, dict[str, Any]]:
    """Manifest entries of the methods: those to run, and with `all` those that cannot, with the reason."""
    everything = ALL in request.methods
    names = list(file.config.methods)
    for name in request.methods:
        if name != ALL and name not in names:
            raise UsageError(f"{file.origin} has no method {name!r}.", did_you_mean(name, names))
    wanted = [name for name in names if everything or name in request.methods or name in suite.baselines]
    entries: dict[str, dict[str, Any]] = {}
    for name in wanted:
        cls, spec = known.resolve(file, name)
        state, why = known.state_of(cls, spec, env.bindings)
        if state == "fetch" and everything and name not in request.methods:
            state, why = "cannot", f"{why}; `idtool models pull` or --methods {name} fetches it"
        fewest, most = cls(spec, env.bindings).people
        if state != "cannot" and not any(fewest <= size <= most for size in suite.sizes):
            sizes = " or ".join(map(str, suite.sizes))
            state, why = "cannot", f"takes {fewest} to {most} people, the suite has {sizes}"
        if state == "cannot" and name in request.methods:
            raise UsageError(f"Method {name!r} cannot run here: {why}.", "`idtool methods list` shows the others.")
        entries[name] = {
            "summary": file.config.methods[name].summary or cls.summary,
            "kind": spec.kind,
            "baseline": cls.baseline,
            "licence": spec.licence or "; ".join(dict.fromkeys(one.licence for one in spec.bindings.values())) or None,
            "conditions_on": conditions(cls, spec.conditions_on, env),
            "models": spec.models(),
            "settings": spec.settings.model_dump(mode="json"),
            "state": "cannot" if state == "cannot" else "pending",
            "why": why if state == "cannot" else "",
            "requested": 0,
            "made": 0,
            "rejected": 0,
            "errors": 0,
            "reasons": {},
        }
    if not any(entry["state"] == "pending" for entry in entries.values()):
        raise UsageError("No method of this benchmark can run here.", "`idtool methods list` says why.")
    return entries


def conditions(cls: type[Method], told: str | None, env: Env) -> str | None:
    """The face network that a method looks through, by the name of its model where the profile decides it."""
    if told and "profile" in told and env.has("identity"):
        return env.require("identity").model
    return told


def _same_suite(folder: Bench, suite: Suite, profile: str, request: BenchRequest) -> None:
    """UsageError for a folder of another suite or profile: their numbers must not stand in one table (DESIGN §6)."""
    before = folder.manifest.get("suite")
    if before is None:
        return
    for what, old, new in (
        ("suite", before.get("hash"), suite_hash(suite)),
        ("profile", folder.manifest.get("profile"), profile),
        ("seed", folder.manifest.get("seed"), request.seed),
    ):
        if old != new:
            raise UsageError(
                f"{request.folder} holds a benchmark of another {what} ({old}, not {new}).", "Choose another --output."
            )


def _with_good_references(
    folder: Bench,
    suite: Suite,
    people: Sequence[Identity],
    runtime: Runtime,
    request: BenchRequest,
    progress: Reporter,
) -> list[Identity]:
    """The people of the source with reference pictures that a benchmark can rest on, and with their age and gender by
    a network where the suite asks for that. UsageError when pictures that would be used do not do, unless they are to
    be left out; others of the same people then step in."""
    measures = ["people"] if suite.subjects == "faces" and runtime.env.has("faces") else []
    if suite.identities.attributes == "measured":
        measures.append("attributes")
    if not measures:
        return list(people)
    skip = request.skip_bad_references
    looked_at = list(people) if skip or "attributes" in measures else choose_people(suite, people, request.seed)
    most = None if skip else suite.identities.per_person
    uris = [uri for one in looked_at for uri in one.references[:most]]
    seen = look_at(folder.path / "references", "media", uris, with_needs(measures), runtime)
    told = with_measured(people, seen.rows) if "attributes" in measures else list(people)
    if "people" not in measures:
        return told
    used = [replace(one, references=one.references[:most]) for one in looked_at]
    problems = check(used, seen, suite)
    if not problems:
        return told
    if not skip:
        shown = "; ".join(problem.text for problem in problems[:5])
        more = f"; and {len(problems) - 5} more" if len(problems) > 5 else ""
        raise UsageError(f"Reference pictures do not fit: {shown}{more}.", "Replace them, or --skip-bad-references.")
    bad = {problem.uri for problem in problems}
    for problem in problems[:20]:
        progress.warn(f"left out: {problem.text}")
    left = [one.without(bad) for one in told]
    return [one for one in left if one.references]


def _generate_all(
    folder: Bench, file: ConfigFile, profile: str, wishes: Sequence[Wish], request: BenchRequest, progress: Reporter
) -> None:
    for name, entry in list(folder.methods.items()):
        if entry["state"] == "cannot":
            continue
        progress.note(f"{name}: {len(wishes)} requests")
        asked = GenerateRequest(
            method=name,
            wishes=wishes,
            profile=profile,
            output=folder.method(name),
            run={"several": "largest", "batch": request.batch},
            engine=request.engine,
            address=request.address,
            workers=request.workers,
            device=request.device,
            only=request.only,
            max_error_rate=request.max_error_rate,
        )
        try:
            generate(file, asked, progress)
        except Interrupted:
            raise
        except IdtoolError as error:
            progress.warn(f"{name}: {error}")
            entry |= {"state": "failed", "why": str(error)}
        else:
            entry |= {"state": "made", "why": ""}
        folder.save()


def _score_all(folder: Bench, suite: Suite, chosen: Chosen, runtime: Runtime, request: BenchRequest) -> None:
    """Every method of which there is anything, also of a run that broke off: what it lacks counts as missing."""
    rows: dict[str, Iterator[dict[str, Any]]] = {}
    for name, entry in folder.methods.items():
        counts = _counts(folder.method(name))
        if counts is None:
            if entry["state"] == "pending":
                entry |= {"state": "failed", "why": "nothing was generated: run without --score-only"}
            continue
        entry |= counts
        entry["state"] = "failed" if entry["state"] == "failed" else "scored"
        rows[name] = samples.of_run(folder.method(name))
    for stale in (folder.path / "scores").glob("*"):
        if stale.name not in folder.methods:
            shutil.rmtree(stale)
    source = request.real or (suite.real if suite.real not in (None, "references") else None)
    real = [to_uri(str(path.absolute())) for path in pictures(Path(source))] if source else ()
    score_methods(folder, rows, chosen, runtime, real=real, force=request.force)


def _counts(path: Path) -> dict[str, Any] | None:
    """How many images of a generation run came out; None where it has no table."""
    try:
        run = Run(path)
        entry: Mapping[str, Any] = run.steps[0]
    except (UsageError, IndexError):
        return None
    if entry.get("state") != "done":
        return None
    return {
        "requested": entry["rows_in"],
        "made": entry["kept"],
        "rejected": entry["rejected"],
        "errors": entry["errors"],
        "reasons": entry["reasons"],
        "seconds": entry.get("seconds"),
    }
