"""What makes a night a good one: exact counts and floors, and rules against the last good night and a baseline."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from idtool.engine.fingerprint import fingerprint
from idtool.errors import QualityError, UsageError
from idtool.evaluate.compare import compare
from idtool.evaluate.folder import Bench
from idtool.evaluate.nightly.settings import Expect, Nightly
from idtool.evaluate.nightly.store import Night, Store
from idtool.evaluate.regression import load_rules
from idtool.evaluate.report_schema import ALL

SCRATCH = ".compare-"
"""How folders begin that a night is fetched into."""
CHANGED = ("better", "worse", "changed")
TOLD = ("metric", "method", "before", "after", "difference", "ci_low", "ci_high", "p", "verdict")


def check(job: Nightly, store: Store) -> None:
    """What a night is judged with is there: a mistake must show in seconds, not after hours of work. UsageError."""
    if job.regression:
        load_rules(Path(job.regression))
    if job.baseline and not Path(job.baseline).is_dir() and job.baseline not in {one.date for one in store.nights()}:
        raise UsageError(
            f"The baseline {job.baseline} is neither a night of the store nor a benchmark's folder.",
            "Check `baseline`.",
        )


def judge(job: Nightly, store: Store, folder: Path, day: str) -> dict[str, Any]:
    """`troubles`, one sentence each, empty for a good night; `compared` (previous, baseline → with, violations, what
    changed); `series`, which nights that can be compared have in common."""
    manifest = Bench(folder).manifest
    troubles = [*_methods(job.expect, manifest), *_metrics(job.expect, manifest), *_gaps(job.expect, manifest, folder)]
    told: dict[str, Any] = {"series": series(manifest), "compared": {}}
    known = set()
    for one in _violations(None, folder, job)["violations"]:
        known.add(_key(one))
        troubles.append(_sentence(one["message"]))
    nights = [night for night in store.nights() if night.date < day]
    for what, which in _others(job, nights):
        found = _compared(job, store, which, folder)
        told["compared"][what] = found
        if "cannot" not in found:
            troubles += [
                f"Against the {what} ({which}): {_sentence(one['message'])}"
                for one in found["violations"]
                if _key(one) not in known
            ]
        elif what == "baseline" or not _seen_before(told["series"], nights):
            troubles.append(f"The {what} ({which}) cannot be compared: {found['cannot']}")
    return {**told, "troubles": troubles}


def series(manifest: Mapping[str, Any]) -> str:
    """Suite, profile and fingerprints of the metrics: nights that agree in these can be compared."""
    metrics = {name: entry["fingerprint"] for name, entry in manifest["metrics"].items()}
    return fingerprint(manifest["suite"]["hash"], manifest["profile"], metrics)


def _methods(expect: Expect, manifest: Mapping[str, Any]) -> Iterator[str]:
    methods: Mapping[str, Any] = manifest["methods"]
    for name in dict.fromkeys((*expect.methods, *methods)):
        entry = methods.get(name, {"state": "not part of the benchmark", "why": ""})
        if entry["state"] == "failed" or (name in expect.methods and entry["state"] != "scored"):
            state = "failed" if entry["state"] == "failed" else f"is {entry['state']}"
            yield _sentence(f"method {name} {state}" + (f": {entry['why']}" if entry["why"] else ""))
        elif entry["state"] == "scored" and (name in expect.methods or not entry["baseline"]):
            share = entry["made"] / entry["requested"] if entry["requested"] else 0.0
            if share < expect.made:
                yield f"{name} made {entry['made']} of {entry['requested']} images, less than {expect.made:.0%}."
    if expect.requests is not None and manifest["requests"] != expect.requests:
        yield f"{manifest['requests']} requests per method instead of {expect.requests}."


def _metrics(expect: Expect, manifest: Mapping[str, Any]) -> Iterator[str]:
    made = {entry["family"] for entry in manifest["metrics"].values()}
    for family in expect.metrics:
        if family not in made:
            yield _sentence(f"metric {family} was not made: {manifest['skipped'].get(family, 'not asked for')}")


def _gaps(expect: Expect, manifest: Mapping[str, Any], folder: Path) -> Iterator[str]:
    """Metrics of methods of which too much is missing."""
    import pyarrow.parquet as pq

    names = {name for name, entry in manifest["metrics"].items() if entry["family"] in expect.metrics}
    if not names or expect.missing >= 1:
        return
    table = pq.read_table(folder / "scores.parquet", columns=["method", "metric", "value"])
    counts = table.group_by(["method", "metric"]).aggregate([("value", "count", None), ([], "count_all")])
    for row in sorted(counts.to_pylist(), key=lambda row: (row["method"], row["metric"])):
        missing = row["count_all"] - row["value_count"]
        if row["metric"] in names and missing > expect.missing * row["count_all"]:
            yield f"{row['metric']} of {row['method']}: {missing} of {row['count_all']} not scored."


def _others(job: Nightly, nights: list[Night]) -> list[tuple[str, str]]:
    """What tonight is compared with."""
    good = [night.date for night in nights if night.good]
    found = {"previous": good[-1] if good else None, "baseline": job.baseline}
    return [(what, which) for what, which in found.items() if which is not None]


def _compared(job: Nightly, store: Store, which: str, folder: Path) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix=SCRATCH, dir=folder.parent) as scratch:
        other = Path(which) if Path(which).is_dir() else store.fetch(which, Path(scratch) / which)
        try:
            result = _violations(other, folder, job)
        except UsageError as error:  # of another suite, or judged by other networks
            return {"with": which, "violations": [], "changes": [], "cannot": error.message}
    rows = (row for row in result["differences"] if row["slice"] == ALL and row["verdict"] in CHANGED)
    changes = [{name: row[name] for name in TOLD} for row in rows]
    return {"with": which, "violations": result["violations"], "changes": changes}


def _violations(other: Path | None, folder: Path, job: Nightly) -> dict[str, Any]:
    try:
        return compare(other, folder, Path(job.regression) if job.regression else None, seed=job.seed)
    except QualityError as error:
        return error.details


def _seen_before(mine: str, nights: list[Night]) -> bool:
    """Whether a night since the last good one was of tonight's kind already, and told that it cannot be compared.
    Without this no night could ever be good again after a network is exchanged."""
    last = max((k for k, night in enumerate(nights) if night.good), default=-1)
    return any(night.status.get("series") == mine for night in nights[last + 1 :])


def _key(violation: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(violation.get(name) for name in ("rule", "metric", "method", "slice", "limit"))


def _sentence(text: str) -> str:
    return f"{text.rstrip('.')}."
