"""What `idtool nightly` does: one night, and before it the night that broke off."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

from idtool.config import ConfigFile
from idtool.console import Reporter
from idtool.errors import IdtoolError, Interrupted, QualityError, UsageError
from idtool.evaluate.bench import BenchRequest, bench
from idtool.evaluate.compare import compare
from idtool.evaluate.folder import Bench
from idtool.evaluate.metrics.charis import DERIVED
from idtool.evaluate.nightly.notify import notify
from idtool.evaluate.nightly.settings import Nightly, to_yaml
from idtool.evaluate.nightly.store import Store
from idtool.evaluate.regression import load_rules
from idtool.evaluate.suite import load_suite
from idtool.run import lock_folder, write_json

DONE = "night.json"
"""In a night's working folder when it is in the store."""


def nightly(file: ConfigFile, job: Nightly, progress: Reporter, *, on: date | None = None) -> dict[str, Any]:
    """Run the night of `on` (today, UTC); returns its summary. First finishes nights that broke off.

    Raises QualityError (exit 3) when the night is complete and no good one: an expectation, a floor or a rule of
    regression is broken; whatever `bench` raises when it cannot be completed. The hook is told in every case.
    """
    suite = load_suite(job.suite)
    store = Store(job.store, suite.name)
    work = Path(job.work) / suite.name
    work.mkdir(parents=True, exist_ok=True)
    day = (on or datetime.now(UTC).date()).isoformat()
    with ExitStack() as stack:
        stack.callback(os.close, lock_folder(work))
        stack.enter_context(store.locked(job.stale_lock_hours))
        for broken in _unfinished(work, before=day):
            progress.note(f"the night of {broken} broke off: it is finished first")
            try:
                _one(file, job, store, work, broken, progress)
            except Interrupted:
                raise
            except IdtoolError as error:
                progress.warn(f"the night of {broken}: {error}")
        try:
            return _one(file, job, store, work, day, progress)
        finally:
            _tidy(job, store, work, progress)


def _unfinished(work: Path, before: str) -> list[str]:
    """Nights that were begun and are not in the store."""
    return sorted(
        folder.name
        for folder in work.iterdir()
        if folder.is_dir() and not folder.name.startswith(".") and folder.name < before and not (folder / DONE).exists()
    )


def _one(file: ConfigFile, job: Nightly, store: Store, work: Path, day: str, progress: Reporter) -> dict[str, Any]:
    started = datetime.now(UTC).isoformat(timespec="seconds")
    folder = work / day
    told: dict[str, Any] = {"suite": store.root.rpartition("suite=")[2], "date": day, "started": started}
    try:
        result = bench(file, _request(job, folder), progress)
        told |= {"bench": result["bench"], "methods": result["methods"], "leaderboard": result["leaderboard"]}
        troubles = [*_counts(job, Bench(folder).manifest, folder), *_regressions(job, store, folder, day, told)]
    except Interrupted:
        raise
    except IdtoolError as error:
        told |= {"good": False, "failed": str(error), "exit_code": error.exit_code}
        _tell(job, told, progress)
        raise
    told |= {"good": not troubles, "troubles": troubles, "finished": datetime.now(UTC).isoformat(timespec="seconds")}
    told["exit_code"] = QualityError.exit_code if troubles else 0
    store.publish(folder, day, {**told, "job": to_yaml(job)})
    write_json(folder / DONE, told)
    told["store"] = f"{store.shown}/suite={told['suite']}/date={day}"
    _tell(job, told, progress)
    if troubles:
        bad = QualityError(
            f"The night of {day} is no good one: {troubles[0]}"
            + (f" And {len(troubles) - 1} more." if len(troubles) > 1 else ""),
            "Its results are in the store; the next nights are compared with the last good one.",
        )
        bad.details = told
        raise bad
    return told


def _request(job: Nightly, folder: Path) -> BenchRequest:
    return BenchRequest(
        suite=job.suite,
        methods=job.methods,
        identities=job.identities,
        profile=job.profile,
        output=folder,
        metrics=job.metrics,
        skip_bad_references=job.skip_bad_references,
        limit=job.limit,
        seed=job.seed,
        engine=job.engine,
        address=job.address,
        workers=job.workers,
        device=job.device,
        batch=job.batch,
        only="errors" if (folder / "bench.json").exists() else None,
        models_dir=Path(job.models_dir) if job.models_dir else None,
    )


def _counts(job: Nightly, manifest: Mapping[str, Any], folder: Path) -> list[str]:
    """What the night lacks of what was expected: exact counts and floors."""
    expect, troubles = job.expect, []
    methods: Mapping[str, Any] = manifest["methods"]
    for name in expect.methods:
        state = methods.get(name, {}).get("state", "not part of the benchmark")
        if state != "scored":
            troubles.append(f"method {name} is {state}: {methods.get(name, {}).get('why', '')}".rstrip(": ") + ".")
    if expect.requests is not None and manifest["requests"] != expect.requests:
        troubles.append(f"{manifest['requests']} requests per method instead of {expect.requests}.")
    for name, entry in methods.items():
        if entry["state"] == "scored" and (name in expect.methods or not entry["baseline"]):
            share = entry["made"] / entry["requested"] if entry["requested"] else 0.0
            if share < expect.made:
                troubles.append(
                    f"{name} made {entry['made']} of {entry['requested']} images, less than {expect.made:.0%}."
                )
    made = {entry["family"] for entry in manifest["metrics"].values()}
    troubles += [
        f"metric {family} was not made: {manifest['skipped'].get(family, 'not asked for')}."
        for family in expect.metrics
        if family not in made
    ]
    return [*troubles, *_gaps(expect.metrics, expect.missing, manifest, folder)]


def _gaps(families: tuple[str, ...], most: float, manifest: Mapping[str, Any], folder: Path) -> list[str]:
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    names = [name for name, entry in manifest["metrics"].items() if entry["family"] in families]
    if not names or most >= 1:
        return []
    table = pq.read_table(folder / "scores.parquet", columns=["method", "metric", "value"])
    troubles = []
    for method in sorted(set(table["method"].to_pylist())):
        for name in names:
            rows = table.filter(pc.and_(pc.equal(table["method"], method), pc.equal(table["metric"], name)))
            if rows.num_rows and rows["value"].null_count / rows.num_rows > most:
                troubles.append(f"{name} of {method}: {rows['value'].null_count} of {rows.num_rows} not scored.")
    return troubles


def _regressions(job: Nightly, store: Store, folder: Path, day: str, told: dict[str, Any]) -> list[str]:
    """What rules are broken against the last good night and against the baseline."""
    good = [night.date for night in store.nights() if night.good and night.date < day]
    against = {"previous": good[-1] if good else None, "baseline": job.baseline}
    rules = load_rules(Path(job.regression)) if job.regression else None
    troubles: list[str] = []
    told["compared"] = {}
    for what, which in against.items():
        if which is None:
            continue
        with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
            other = Path(which) if Path(which).is_dir() else store.fetch(which, Path(scratch) / which)
            if not (other / "bench.json").is_file():
                raise UsageError(
                    f"The {what} {which} is neither a night of the store nor a benchmark.", "Check its date."
                )
            try:
                result = compare(other, folder, rules, seed=job.seed, derived=DERIVED)
            except UsageError as error:  # another suite, or other networks: nothing to compare, which must be seen
                troubles.append(f"The {what} ({which}) cannot be compared: {error}")
                continue
        told["compared"][what] = {"with": which, "violations": result.violations}
        troubles += [f"Against the {what} ({which}): {one['text']}." for one in result.violations]
    return troubles


def _tell(job: Nightly, told: dict[str, Any], progress: Reporter) -> None:
    if job.notify is None or (job.notify.on == "trouble" and told["good"]):
        return
    why = notify(job.notify, told)
    if why:
        progress.warn(why)


def _tidy(job: Nightly, store: Store, work: Path, progress: Reporter) -> None:
    """Throw away what is older than asked for; never the baseline, nor the last good night."""
    finished = sorted(folder for folder in work.iterdir() if folder.is_dir() and (folder / DONE).exists())
    for folder in finished[: -job.keep.work]:
        shutil.rmtree(folder)
    if job.keep.days is None:
        return
    nights = store.nights()
    good = [night.date for night in nights if night.good]
    stay = {job.baseline, good[-1] if good else None}
    oldest = (datetime.now(UTC).date() - timedelta(days=job.keep.days)).isoformat()
    for night in nights:
        if night.date < oldest and night.date not in stay:
            progress.note(f"the night of {night.date} is removed from the store")
            store.remove(night.date)


def told(folder: Path) -> dict[str, Any]:
    """The summary of a finished night's working folder."""
    found: dict[str, Any] = json.loads((folder / DONE).read_text("utf-8"))
    return found
