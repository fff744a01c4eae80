"""scores.parquet and bench.json -> report.parquet (a row for each method, metric and slice) and pairs.parquet."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pyarrow as pa

from idtool.engine.table import file_writer
from idtool.errors import UsageError
from idtool.evaluate.folder import Bench
from idtool.evaluate.report_schema import ALL, PAIRS, REPORT
from idtool.evaluate.statistics.derived import Derived, Parts, known, parts_of
from idtool.evaluate.statistics.matrix import read_matrix
from idtool.evaluate.statistics.summary import SIGN, summarise

FILE, PAIRS_FILE, SCORES = "report.parquet", "pairs.parquet", "scores.parquet"
MAX_REASONS = 20
"""Reasons for missing scores that are told one by one; further ones are counted together."""
NETWORKS = ("identity", "clip", "features")
"""Roles whose network a method may look through."""

Row = dict[str, Any]


def write_report_table(bench: Path, *, seed: int = 0, derived: Derived | None = None) -> Path:
    """Write report.parquet and pairs.parquet of a scored benchmark; returns the first. UsageError where nothing is
    scored.

    `seed`: of resampling. `derived`: family -> how its number for a set follows from the means of other metrics; None:
    as idtool's metrics say. Metrics are handled one after another, so memory is that of the scores of one.
    """
    folder = Bench(bench)
    scores = folder.path / SCORES
    if not scores.exists():
        raise UsageError(f"{bench} has no {SCORES}.", "Score it first: `idtool bench --score-only`.")
    with ExitStack() as stack:
        report = stack.enter_context(file_writer(folder.path / FILE, REPORT))
        pairs = stack.enter_context(file_writer(folder.path / PAIRS_FILE, PAIRS))
        for rows, compared in _metrics(folder.manifest, scores, seed, known() if derived is None else derived):
            report.write_table(pa.Table.from_pylist(rows, REPORT))
            pairs.write_table(pa.Table.from_pylist(compared, PAIRS))
    return folder.path / FILE


def _metrics(
    manifest: Mapping[str, Any], scores: Path, seed: int, derived: Derived
) -> Iterator[tuple[list[Row], list[Row]]]:
    """Rows of report.parquet and of pairs.parquet of each metric."""
    told: Mapping[str, Row] = manifest["metrics"]
    for name, metric in told.items():
        if metric["per"] == "set":
            yield _set_rows(manifest, name, metric, seed), []
        else:
            yield _rows(manifest, scores, name, metric, parts_of(name, told, derived), seed)


def _rows(
    manifest: Mapping[str, Any],
    scores: Path,
    name: str,
    metric: Row,
    parts: Parts,
    seed: int,
) -> tuple[list[Row], list[Row]]:
    methods: Mapping[str, Row] = manifest["methods"]
    matrix = read_matrix(scores, parts.metrics, list(methods))
    complete = [key for key in matrix.methods if methods[key]["state"] == "scored"]
    ranked = contenders({key: methods[key] for key in complete})
    rows: list[Row] = []
    pairs: list[Row] = []
    for (key, value), part in matrix.by_slice() if len(matrix.keys) else ():
        found = summarise(
            part, metric["better"], complete=complete, ranked=ranked, statistic=parts.statistic, seed=seed
        )
        told = {**_made(manifest, metric, seed), "metric": name, "slice": key, "slice_value": value}
        rows += [
            {**told, **_of_method(method, methods[method], metric), **_written(numbers, parts.note)}
            for method, numbers in found.methods.items()
        ]
        pairs += [{**told, **pair} for pair in found.pairs]
    return rows, pairs


def _written(numbers: Row, note: str) -> Row:
    """Statistics as they are stored: reasons as JSON, remarks as one text."""
    missing = dict(list(numbers["missing"].items())[:MAX_REASONS])
    others = sum(numbers["missing"].values()) - sum(missing.values())
    if others:
        missing["other reasons"] = others
    notes = [*numbers["notes"], *([note] if note else [])]
    return {**numbers, "missing": json.dumps(missing, ensure_ascii=False), "note": "; ".join(notes) or None}


def _set_rows(manifest: Mapping[str, Any], name: str, metric: Row, seed: int) -> list[Row]:
    """A metric of whole sets: one number each, no identities to resample."""
    methods: Mapping[str, Row] = manifest["methods"]
    scored = {key: told[name] for key, told in manifest.get("set_scores", {}).items() if name in told}
    complete = {key: methods[key] for key in scored if methods[key]["state"] == "scored"}
    known = {key: scored[key]["value"] for key in contenders(complete) if scored[key]["value"] is not None}
    sign = SIGN[metric["better"]]
    rows = []
    for method, score in scored.items():
        value, mine = score["value"], method in known and sign
        note = f"of {score['n']} images against {score['n_real']} real ones; a number of the whole set has no interval"
        rows.append(
            {
                **_made(manifest, metric, seed),
                **_of_method(method, methods[method], metric),
                "metric": name,
                "slice": ALL,
                "slice_value": "",
                "mean": value,
                "std": score["std"],
                "n": score["n"] if value is not None else 0,
                "n_missing": 0 if value is not None else score["n"],
                "missing": json.dumps({} if value is not None else {score["note"] or "no value": score["n"]}),
                "rank": 1 + sum(sign * (other - value) > 0 for other in known.values()) if mine else None,
                "note": "; ".join(text for text in (score["note"], note) if text),
            }
        )
    return rows


def contenders(methods: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Methods that can be the best: all but the baselines, which bound a metric without meaning to be good at it; the
    baselines too where there is nothing else."""
    found = [name for name, entry in methods.items() if not entry["baseline"]]
    return found or list(methods)


def _made(manifest: Mapping[str, Any], metric: Row, seed: int) -> Row:
    suite = manifest["suite"]
    return {
        "suite": suite["name"],
        "suite_hash": suite["hash"],
        "profile": manifest["profile"],
        "fingerprint": metric["fingerprint"],
        "idtool": manifest["idtool"],
        "seed": seed,
        "date": manifest.get("updated"),
    }


def _of_method(name: str, entry: Row, metric: Row) -> Row:
    keys = ("family", "axis", "unit", "better", "bounds")
    return {
        "method": name,
        "baseline": bool(entry["baseline"]),
        **{key: metric[key] for key in keys},
        "conditions_on_same": looks_through(entry, metric["models"]),
    }


def looks_through(entry: Mapping[str, Any], models: Sequence[Mapping[str, Any]]) -> bool:
    """Whether a method conditions on a network of a metric: it names that network, or holds the same weights."""
    named = _words(entry.get("conditions_on") or "")
    held = {model["model"] for model in entry.get("models") or ()}
    for model in models:
        if model.get("role") not in NETWORKS:
            continue
        short = _words(re.split(r"[/:]", model["model"].rstrip("/"))[-1])
        if model["model"] in held or (short and short in named):
            return True
    return False


def _words(text: str) -> str:
    return re.sub(r"[^a-z0-9]", "", text.lower())
