"""Runs planned steps over a run directory: skips what is done, takes over rows that are still true, commits shard by
shard, holds to the error budget, and writes each step's manifest entry last."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from itertools import compress
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from idtool.engine.apply import INPUT_ID
from idtool.engine.commit import Parts, conform
from idtool.engine.executor import Executor, Program, Shard, shard_key
from idtool.engine.fingerprint import IdDigest, row_keys
from idtool.engine.keyset import KeySet
from idtool.engine.operator import ERROR, KEPT, REJECTED, STORAGE_ERRNOS, Context
from idtool.engine.plan import Planned, Upstream, done_entry, stored_entry
from idtool.engine.progress import Progress
from idtool.engine.step import Binding, RowStep, TableContext, TableStep
from idtool.engine.table import KeptRows, Table, file_writer, write_table
from idtool.errors import QualityError, RunFailed
from idtool.manifest_folder import write_json
from idtool.run import REJECT_COLUMNS, Run


@dataclass(frozen=True)
class Options:
    """How a run is carried out; none of it changes results."""

    retry_errors: bool = False
    max_error_rate: float = 0.01


ALL_FAILED_ROWS = 8
"""A step whose first rows all end in errors is stopped: the cause is not the data."""


class Runner:
    """Carries out a plan."""

    def __init__(
        self,
        run: Run,
        executor: Executor,
        context: Context,
        progress: Progress,
        options: Options | None = None,
        describe_model: Callable[[Binding], dict[str, Any]] = asdict,
    ) -> None:
        self.run, self.executor, self.context, self.progress = run, executor, context, progress
        self.options = options or Options()
        self.describe_model = describe_model
        """What the manifest says of a model."""

    def execute(self, planned: Sequence[Planned], sources: Table, upstream: Upstream) -> Table:
        """Run every step that is not done; returns the last table. Raises RunFailed when a step cannot be
        completed and QualityError when a step keeps nothing; finished work stays."""
        table = sources
        entries: list[dict[str, Any]] = []
        for step in planned:
            entry, folder = self._head(step), self.run.step_dir(step.index, step.name)
            if step.skipped:
                entry |= {"state": "skipped", "skipped_because": step.skipped}
                self.progress.note(f"{step.name}: skipped, {step.skipped}")
            else:
                stored = done_entry(step, self.run.path)
                redo = stored is None or stored["fingerprint"] != upstream.after(step)
                if stored is not None and not redo and not (self.options.retry_errors and stored["errors"]):
                    entry = {**entry, **stored, "index": step.index, "name": step.name}
                    self.progress.note(f"{step.name}: up to date, {stored['kept']} rows kept")
                else:
                    entries.append(entry)
                    try:
                        entry |= self._run_step(step, table, upstream, len(planned))
                    except BaseException as error:
                        Parts(folder, step.schema).calm()
                        entry |= {"state": "failed", "message": str(error)[:500]}
                        self._save(entries, planned)
                        raise _storage_failure(error) from error
                    entries.pop()
                upstream = Upstream(entry["content"], entry["digest"])
                table = Table(folder / "table")
            entries.append(entry)
            self._save(entries, planned)
            if not step.skipped and not entry["kept"]:
                if entry["errors"]:
                    raise RunFailed(_emptied(entry), "Mend the cause, then run the same command with --only errors.")
                raise QualityError(_emptied(entry), "Loosen that gate (`idtool tune`), or give other input.")
        return table

    def _head(self, step: Planned) -> dict[str, Any]:
        return {
            "index": step.index,
            "name": step.name,
            "kind": step.step.kind,
            "summary": step.step.summary,
            "state": "pending",
            "notes": step.notes,
            "models": [self.describe_model(binding) for binding in (*step.step.models(), *step.step.unwrapped())],
        }

    def _save(self, entries: list[dict[str, Any]], planned: Sequence[Planned]) -> None:
        rest = [self._head(step) for step in planned[len(entries) :]]
        self.run.save(steps=[*entries, *rest])

    def _run_step(self, step: Planned, table: Table, upstream: Upstream, count: int) -> dict[str, Any]:
        folder = self.run.step_dir(step.index, step.name)
        started, clock = datetime.now(UTC).isoformat(timespec="seconds"), time.monotonic()
        kept = KeptRows(table.path)
        rows_in = kept.rows
        self.progress.step_start(step.name, step.index, count, rows_in)
        parts = Parts(folder, step.schema)
        statistics: dict[str, Any] = {}
        if isinstance(step.step, RowStep):
            keys = self._run_shards(step, step.step, kept, parts, upstream, rows_in)
        elif isinstance(step.step, TableStep):
            keys = self._run_table(step.step, kept, parts, folder, statistics)
        else:
            raise TypeError(f"{type(step.step).__name__} is neither a RowStep nor a TableStep")
        # From here to the new entry the step counts as not done: a kill in between must not pair the old entry
        # with the new table.
        (folder / "step.json").unlink(missing_ok=True)
        result = parts.compact(folder / "table", keys, folder / "spool")
        rewritten = step.step.finish(result)
        if rewritten is not None:
            result = write_table(folder / "table", (conform(batch, step.schema) for batch in rewritten), step.schema)
        entry = {
            "state": "done",
            "fingerprint": upstream.after(step),
            "content": upstream.content_after(step),
            "own": step.own,
            "rows_in": rows_in,
            **self._account(step, result),
            "statistics": statistics,
            "started": started,
            "seconds": round(time.monotonic() - clock, 3),
        }
        if entry["errors"] > self._budget(entry["kept"] + entry["rejected"] + entry["errors"]):
            raise RunFailed(
                f"Step {step.name!r}: {entry['errors']} rows failed; rejects/{folder.name}.parquet says why.",
                "Mend the cause, then run the same command again.",
            )
        write_json(folder / "step.json", entry)
        parts.clear()
        self.progress.step_end(step.name, entry)
        return entry

    def _budget(self, rows: int) -> float:
        """Errors that a step of so many rows may have; one bad row never stops a run."""
        return max(1.0, self.options.max_error_rate * rows)

    # -- row steps -----------------------------------------------------------------------------------------------

    def _run_shards(
        self, step: Planned, row_step: RowStep, table: Table, parts: Parts, upstream: Upstream, rows_in: int
    ) -> set[str]:
        content = upstream.content_after(step) if not step.step.selects_only else upstream.after(step)
        reused_keys, reused_ids = self._take_over(step, table, parts, content)
        if self.options.retry_errors:
            parts.drop_failed()
        finished, suspects = parts.keys(), parts.suspects()
        carried = [name for name in step.carried if name in table.schema.names]
        named = _keyed(table.batches(["id", *carried]), carried)
        cut = _cut(named, row_step.shard_rows, reused_ids)
        keys = [shard_key(content, rows[INPUT_ID].to_pylist()) for rows in cut]
        parts.keep_only({*keys, *reused_keys})
        tally: Counter[str] = Counter()
        causes: Counter[str] = Counter()
        budget = self._budget(rows_in)

        def count(stored: pa.Table) -> None:
            status = Counter(stored["status"].to_pylist())
            if status[ERROR]:
                failed = stored.filter(pc.equal(stored["status"], ERROR)).select(["reason", "message"]).to_pylist()
                causes.update(f"{row['reason']} ({row['message']})" for row in failed)
            tally.update(status)
            self.progress.advance(step.name, status[KEPT], status[REJECTED], status[ERROR])

        def pending() -> Iterator[Shard]:
            cut = _cut(_keyed(table.batches(), carried), row_step.shard_rows, reused_ids)
            for key, rows in zip(keys, cut, strict=True):
                if key not in finished:
                    parts.begin(key)
                    yield Shard(key, rows, suspect=key in suspects)

        for key in sorted(finished & {*keys, *reused_keys}):
            count(parts.read(key, ["status", "reason", "message"]))
        if set(keys) - finished:
            program = Program(tuple(row_step.operators()), self.context)
            for shard, output in self.executor.run(program, pending(), self.progress.warn):
                count(parts.commit(shard.key, output))
                if tally[ERROR] > budget or (tally[ERROR] >= ALL_FAILED_ROWS and tally[ERROR] == tally.total()):
                    raise _over_budget(step.name, tally, causes)
        if tally[ERROR] > budget:
            raise _over_budget(step.name, tally, causes)
        return {*keys, *reused_keys}

    def _take_over(self, step: Planned, table: Table, parts: Parts, content: str) -> tuple[set[str], KeySet]:
        """Rows of the step's former table that are still true: same way of making, same input row."""
        folder = parts.path.parent
        stored = stored_entry(folder)
        former = Table(folder / "table")
        usable = stored is not None and stored["content"] == content and step.step.reuses_rows and former.files
        if not usable or step.step.selects_only or not former.schema.equals(step.schema):
            return set(), KeySet()
        carried = [name for name in step.carried if name in table.schema.names]
        wanted = KeySet(row_keys(rows, carried) for rows in table.batches(["id", *carried], rows=65_536))
        failed = KeySet(
            batch.filter(pc.equal(batch["status"], ERROR))[INPUT_ID].to_pylist()
            for batch in (former.batches([INPUT_ID, "status"]) if self.options.retry_errors else ())
        )
        keys: set[str] = set()

        def reused() -> Iterator[list[str]]:
            for number, batch in enumerate(former.batches()):
                made_from = batch[INPUT_ID].to_pylist()
                still_true = wanted.has(made_from) & ~failed.has(made_from)
                if still_true.any():
                    key = f"reused-{number:06d}"
                    parts.commit(key, batch.filter(pa.array(still_true)))
                    keys.add(key)
                    yield list(compress(made_from, still_true))

        ids = KeySet(reused())
        if ids:
            self.progress.note(f"{step.name}: {len(ids)} rows taken over from the earlier run")
        return keys, ids

    # -- table steps ---------------------------------------------------------------------------------------------

    def _run_table(
        self, step: TableStep, table: Table, parts: Parts, folder: Path, statistics: dict[str, Any]
    ) -> set[str]:
        parts.clear()
        context = TableContext(
            run_dir=self.context.run_dir,
            seed=self.context.seed,
            device=self.context.device,
            threads=self.context.threads,
            step_dir=folder,
            statistics=statistics,
            executor=self.executor,
            progress=self.progress,
        )
        keys: set[str] = set()
        for number, batch in enumerate(step.run(table, context)):
            if INPUT_ID not in batch.column_names:
                batch = batch.append_column(INPUT_ID, batch["id"])
            key = f"table-{number:06d}"
            stored = parts.commit(key, batch)
            keys.add(key)
            status = Counter(stored["status"].to_pylist())
            self.progress.advance(step.kind, status[KEPT], status[REJECTED], status[ERROR])
        return keys

    def _account(self, step: Planned, table: Table) -> dict[str, Any]:
        """Counts, the digest of the kept rows' keys, and the step's file of rejects, in one pass."""
        digest, status, reasons = IdDigest(), Counter[str](), Counter[str]()
        columns = [name for name in REJECT_COLUMNS if name in table.schema.names]
        schema = pa.schema([*(table.schema.field(name) for name in columns), pa.field("step", pa.string())])
        path = self.run.path / "rejects" / f"{step.index:02d}-{step.name}.parquet"
        carried = [name for name in step.carried if name in table.schema.names]
        with file_writer(path, schema) as writer:
            for batch in table.batches(list(dict.fromkeys([*columns, *carried]))):
                kept = pc.equal(batch["status"], KEPT)
                digest.update(row_keys(batch.filter(kept), carried))
                lost = batch.filter(pc.invert(kept)).select(columns)
                status.update(batch["status"].to_pylist())
                reasons.update(lost["reason"].to_pylist())
                if lost.num_rows:
                    names = pa.array([step.name] * lost.num_rows, pa.string())
                    writer.write_table(lost.append_column("step", names))
        return {
            "kept": status[KEPT],
            "rejected": status[REJECTED],
            "errors": status[ERROR],
            "reasons": dict(reasons.most_common()),
            "digest": digest.hexdigest(),
        }


def _keyed(batches: Iterator[pa.Table], carried: Sequence[str]) -> Iterator[pa.Table]:
    for batch in batches:
        yield batch.append_column(INPUT_ID, pa.array(row_keys(batch, carried), pa.string()))


def _cut(batches: Iterator[pa.Table], size: int, leave_out: KeySet) -> Iterator[pa.Table]:
    """Shards of `size` rows, in id order. The first has one row: the canary, which shows within seconds whether
    models, packages and devices are in order."""
    held: pa.Table | None = None
    want = 1
    for batch in batches:
        if leave_out:
            batch = batch.filter(pa.array(~leave_out.has(batch[INPUT_ID].to_pylist())))
        held = batch if held is None else pa.concat_tables([held, batch])
        while held.num_rows >= want:
            yield _copy(held.slice(0, want))
            held, want = held.slice(want), size
    if held is not None and held.num_rows:
        yield _copy(held)


def _copy(rows: pa.Table) -> pa.Table:
    """A slice still refers to, and would be sent with, the buffers of the whole batch."""
    return rows.take(pa.array(range(rows.num_rows), pa.int64()))


def _over_budget(name: str, tally: Counter[str], causes: Counter[str]) -> RunFailed:
    text = "; ".join(f"{cause} x{number}" for cause, number in causes.most_common(3))
    return RunFailed(
        f"Step {name!r} stopped: {tally[ERROR]} of {tally.total()} rows failed. Most often: {text}.",
        "What is computed is kept; mend the cause, then run the same command with --only errors.",
    )


def _emptied(entry: dict[str, Any]) -> str:
    top = ", ".join(f"{reason} x{number}" for reason, number in Counter(entry["reasons"]).most_common(3))
    return f"Step {entry['name']!r} kept none of its {entry['rows_in']} rows ({top or 'nothing came in'})."


def _storage_failure(error: BaseException) -> BaseException:
    if isinstance(error, OSError) and error.errno in STORAGE_ERRNOS:
        return RunFailed(
            f"Cannot write {error.filename or 'to the run'}: {error.strerror}.",
            "Free space (or choose another --output), then run the same command: it goes on where it stopped.",
        )
    return error
