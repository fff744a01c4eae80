"""What networks see of samples, references and prompts: made once by the engine, kept as one table per measure, and
read by every metric.

    <folder>/<measure>/table/*.parquet    id, the measure's columns, status, reason, message; sorted by id
    <folder>/<measure>/feature.json       how they were made, written last
    <folder>/work/…                       an engine run, while it lasts

A new measure, a new model or new rows cost just what is new: rows that are here under the same fingerprint stay, also
those that nobody asks for at the moment. Rows that ended in an error are tried again.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from idtool import launch
from idtool.engine.commit import sorted_batches
from idtool.engine.executor import Executor
from idtool.engine.fingerprint import IdDigest, fingerprint
from idtool.engine.operator import ERROR, KEPT, OUTCOME, Context
from idtool.engine.plan import Upstream, plan_steps
from idtool.engine.progress import Progress
from idtool.engine.runner import Options, Runner
from idtool.engine.step import Env
from idtool.engine.table import KeptRows, Table, write_table
from idtool.errors import QualityError, UsageError
from idtool.evaluate.look import Look, LookSettings
from idtool.evaluate.measures.base import Measure
from idtool.manifest_folder import write_json
from idtool.run import Run

FILE = "feature.json"
STATE = ("status", "reason", "message")


@dataclass(frozen=True)
class Runtime:
    """How measures are made."""

    env: Env
    executor: Callable[[int], Executor]
    """The executor for a number of rows; the caller closes it."""
    progress: Progress
    batch: int = 16
    max_error_rate: float = 0.01

    @classmethod
    def of(cls, env: Env, request: Any, progress: Progress, max_error_rate: float = 0.01) -> Runtime:
        """As a request asks for it: with its `engine`, `address` and `workers`."""

        def executor(rows: int) -> Executor:
            return launch.executor(request.engine, request.address, request.workers, rows)

        return cls(env, executor, progress, max_error_rate=max_error_rate)


@dataclass(frozen=True)
class Feature:
    """A measure's table and how it was made."""

    measure: type[Measure]
    table: Table
    fingerprint: str
    facts: Mapping[str, Any]
    """What the network said of itself: weights, preprocessing, versions."""
    models: Sequence[Mapping[str, Any]]

    @property
    def label(self) -> str:
        """Short name of the network: its architecture where that is known, else the end of its address."""
        named = self.facts.get("architecture")
        model = str(self.models[0]["model"]) if self.models else self.measure.name
        return str(named) if named else model.rstrip("/").split("/")[-1].split(":")[-1]


def ensure(
    folder: Path, rows: Table, measures: Sequence[type[Measure]], runtime: Runtime, what: str
) -> dict[str, Feature]:
    """Every measure's feature for every row of `rows` (sorted by id); makes what is missing. `what` names the rows in
    progress lines. Raises what the engine raises; finished groups stay, and so do the shards of the one that failed."""
    env = runtime.env
    wanted: list[str] = rows.read(["id"])["id"].to_pylist() if rows.files else []
    found = {cls.name: _stored(folder, cls, env) for cls in measures}
    prints = _fingerprints(measures, env)
    missing = {cls.name: _missing(found[cls.name], prints[cls.name], wanted) for cls in measures}
    for group in _groups([cls for cls in measures if missing[cls.name]], missing):
        lost = missing[group[0].name]
        _make(folder, rows, group, lost, found, runtime, what)
        for cls in group:
            _merge(folder, cls, prints[cls.name], set(lost), env)
            found[cls.name] = _stored(folder, cls, env)
        shutil.rmtree(folder / "work", ignore_errors=True)
    features = {name: feature for name, feature in found.items() if feature is not None}
    return {name: feature for name, feature in features.items() if feature.table.files}


def _fingerprints(measures: Sequence[type[Measure]], env: Env) -> dict[str, str]:
    """Of what a measure's values depend on: its own settings and model, and those of the measures that it reads."""
    writer = {name: cls for cls in measures for name in cls.writes.names}
    done: dict[str, str] = {}
    for cls in measures:  # in order of dependence
        needs = {writer[name].name for name in (*cls.reads, *cls.uses) if name in writer}
        done[cls.name] = fingerprint(cls.made(env).config(), sorted(done[name] for name in needs if name != cls.name))
    return done


def _stored(folder: Path, cls: type[Measure], env: Env) -> Feature | None:
    try:
        told = json.loads((folder / cls.name / FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    table = Table(folder / cls.name / "table")
    return Feature(cls, table, told["fingerprint"], told["facts"], told["models"])


def _missing(stored: Feature | None, wanted_print: str, wanted: Sequence[str]) -> list[str]:
    if stored is None or stored.fingerprint != wanted_print or not stored.table.files:
        return list(wanted)
    have: set[str] = set()
    for batch in stored.table.batches(["id", "status"], 65_536):
        have.update(batch.filter(pc.not_equal(batch["status"], ERROR))["id"].to_pylist())
    return [key for key in wanted if key not in have]


def _groups(measures: Sequence[type[Measure]], missing: Mapping[str, list[str]]) -> list[list[type[Measure]]]:
    """Measures that lack the same rows are made in one pass over the images, as long as what they read comes before."""
    writer = {name: cls.name for cls in measures for name in cls.writes.names}
    groups: list[tuple[str, list[type[Measure]]]] = []
    place: dict[str, int] = {}
    for cls in measures:
        key = hashlib.sha256("\0".join([cls.kind, *missing[cls.name]]).encode()).hexdigest()
        first = max((place[writer[name]] for name in (*cls.reads, *cls.uses) if name in writer), default=0)
        at = next((k for k in range(first, len(groups)) if groups[k][0] == key), len(groups))
        if at == len(groups):
            groups.append((key, []))
        groups[at][1].append(cls)
        place[cls.name] = at
    return [group for _, group in groups]


def _make(
    folder: Path,
    rows: Table,
    group: Sequence[type[Measure]],
    lost: Sequence[str],
    found: Mapping[str, Feature | None],
    runtime: Runtime,
    what: str,
) -> None:
    """The group's measures of the rows `lost`, as an engine run in `folder/work`. An unfinished run of the same work
    goes on; one of other work is thrown away."""
    work = folder / "work"
    own = {name for cls in group for name in cls.writes.names}
    needed = {name for cls in group for name in (*cls.reads, *cls.uses)} - own
    sources = [one for one in found.values() if one is not None and needed & set(one.measure.writes.names)]
    plan = fingerprint(
        [cls.name for cls in group], list(lost), [[one.measure.name, one.fingerprint] for one in sources]
    )
    run = _open(work, plan)
    schema = pa.schema(
        [*rows.schema, *(field for one in sources for field in one.measure.writes if field.name in needed)]
    )
    step = Look(LookSettings(batch=runtime.batch), runtime.env, tuple(group))
    planned = plan_steps([("look", step)], schema)
    digest = IdDigest()
    digest.update(lost)
    upstream = Upstream(plan, digest.hexdigest())
    outcome = pa.schema([*schema, *OUTCOME])
    with run:
        chosen = frozenset(lost)

        def joined() -> Iterator[pa.Table]:
            cursors = [(one, Cursor(one.table, ["id", *one.measure.writes.names])) for one in sources]
            for batch in rows.batches(rows=1024):
                part = batch.filter(pa.array([key in chosen for key in batch["id"].to_pylist()], pa.bool_()))
                if not part.num_rows:
                    continue
                ids = part["id"].to_pylist()
                for one, cursor in cursors:
                    taken = cursor.take(ids)
                    for field in one.measure.writes:
                        if field.name in needed:
                            part = part.append_column(field, taken[field.name].cast(field.type))
                for field in OUTCOME:
                    value = KEPT if field.name == "status" else None
                    part = part.append_column(field, pa.array([value] * part.num_rows, field.type))
                yield part.select(outcome.names).cast(outcome)

        first = KeptRows(write_table(run.step_dir(0, "rows") / "table", joined(), outcome).path)
        runtime.progress.note(f"{what}: {', '.join(cls.name for cls in group)} of {len(lost)}")
        launch.fetch(planned, run.path, upstream, runtime.progress.note)
        context = Context(str(run.path), runtime.env.seed, runtime.env.device, threads=1)
        executor = runtime.executor(len(lost))
        try:
            options = Options(retry_errors=True, max_error_rate=runtime.max_error_rate)
            Runner(run, executor, context, runtime.progress, options, launch.describe).execute(planned, first, upstream)
        except QualityError:
            pass  # no image could be read, say: each row has its reason
        finally:
            executor.close()


def _open(work: Path, plan: str) -> Run:
    with contextlib.suppress(UsageError):  # damaged by whatever killed it: nothing in it can be used
        run = Run.create(work)
        if run.manifest.get("plan") == plan:
            return run
    shutil.rmtree(work, ignore_errors=True)
    run = Run.create(work)
    run.save(plan=plan)
    return run


def _merge(folder: Path, cls: type[Measure], print_: str, new: set[str], env: Env) -> None:
    """The rows that were just made, and those of before that still count, as the measure's table."""
    made = Run(folder / "work")
    entry = made.steps[0]
    fresh = Table(made.step_dir(entry["index"], entry["name"]) / "table")
    schema = pa.schema([pa.field("id", pa.string()), *cls.writes, *(OUTCOME.field(name) for name in STATE)])
    target = folder / cls.name
    told = target / FILE
    scratch = folder / "merge"
    shutil.rmtree(scratch, ignore_errors=True)
    files = list(write_table(scratch / "new", _columns(fresh, schema), schema).files)
    old = _stored(folder, cls, env)
    if old is not None and old.fingerprint == print_ and old.table.files:
        files += write_table(scratch / "old", _columns(old.table, schema, new), schema).files
    told.unlink(missing_ok=True)
    write_table(target / "table", sorted_batches(files, schema, scratch / "spool"), schema)
    bindings = cls.made(env).bindings()
    facts_file = made.path / "models" / f"{cls.name}.json"
    facts = json.loads(facts_file.read_text("utf-8")) if facts_file.is_file() else (dict(old.facts) if old else {})
    write_json(
        told,
        {
            "measure": cls.name,
            "version": cls.version,
            "summary": cls.summary,
            "fingerprint": print_,
            "config": cls.made(env).config(),
            "models": [launch.describe(binding) for binding in bindings],
            "facts": facts,
        },
    )
    shutil.rmtree(scratch, ignore_errors=True)


def _columns(table: Table, schema: pa.Schema, without: set[str] | None = None) -> Iterator[pa.Table]:
    for batch in table.batches(schema.names):
        if without:
            batch = batch.filter(pa.array([key not in without for key in batch["id"].to_pylist()], pa.bool_()))
        yield batch


class Cursor:
    """Reads a table that is sorted by id along with ascending ids, without holding more than a few batches."""

    def __init__(self, table: Table, columns: Sequence[str]) -> None:
        self._batches = table.batches(list(columns), 1024)
        self._held: pa.Table | None = None
        self._schema = pa.schema([table.schema.field(name) for name in columns])

    def take(self, ids: Sequence[str]) -> pa.Table:
        """The rows of `ids`, in their order; a row of nulls for an id that the table lacks. Ids of later calls must
        not come before those of this one."""
        parts = [] if self._held is None else [self._held]
        while ids and not (parts and parts[-1].num_rows and parts[-1]["id"][-1].as_py() >= ids[-1]):
            batch = next(self._batches, None)
            if batch is None:
                break
            parts.append(batch)
        held = pa.concat_tables(parts) if parts else self._schema.empty_table()
        held = held.combine_chunks()
        wanted = pa.array(ids, pa.string())
        taken = held.take(pc.index_in(wanted, value_set=held["id"].combine_chunks()))
        if ids:
            later = pc.greater(held["id"], ids[-1])
            self._held = held.filter(later)
        return taken
