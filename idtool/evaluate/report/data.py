"""All that a report says, as one plain dict: what `--json` prints and what report.html and report.md are made of."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import pyarrow.parquet as pq

from idtool.evaluate.folder import Bench
from idtool.evaluate.report import ordering
from idtool.evaluate.report_schema import ALL

REPORT, SCORES, SAMPLES = "report.parquet", "scores.parquet", "samples.parquet"
RANDOM = "random weights"
"""What the licence or the name of a model says that learned nothing: its numbers prove plumbing."""
Row = dict[str, Any]


def report_data(path: Path | str) -> Row:
    """The report of the benchmark in `path`, JSON-able.

    Keys: `bench, idtool, suite, profile, device, seed, created, updated, command, size, random_weights, primary,
    headline, against, methods, metrics, scores, slices, skipped, licences`. `methods` and `metrics` stand in the order
    of the report; `scores` is metric -> method -> the row of report.parquet; `slices` has one entry per metric and
    slice. UsageError where there is no benchmark. A benchmark that was never scored has no `metrics`.
    """
    bench = Bench(path)
    manifest = bench.manifest
    suite = manifest.get("suite") or {}
    rows = read_report(bench.path / REPORT)
    whole = [row for row in rows if row["slice"] == ALL]
    metrics = _metrics(manifest.get("metrics") or {}, whole)
    chosen = ordering.primaries(metrics, suite.get("primary") or {})
    order = ordering.in_order(metrics, suite.get("primary") or {})
    scores: dict[str, dict[str, Row]] = {name: {} for name in order}
    for row in whole:
        scores[row["metric"]][row["method"]] = row
    methods = _methods(bench.methods, whole)
    random = mark_random(metrics, methods)
    names = ordering.methods_in_order(methods, scores, chosen.values() or order[:1])
    keys = ("idtool", "profile", "device", "seed", "created", "updated", "command")
    return {
        "bench": str(bench.path),
        **{key: manifest.get(key) for key in keys},
        "suite": suite,
        "size": _size(bench.path / SAMPLES, manifest),
        "random_weights": random,
        "primary": chosen,
        "headline": ordering.headline(metrics, order, chosen),
        "against": ordering.second_axis(metrics, order, chosen),
        "methods": [{"name": name, **methods[name]} for name in names],
        "metrics": [{"name": name, **metrics[name]} for name in order],
        "scores": scores,
        "slices": _slices(rows, order),
        "skipped": dict(manifest.get("skipped") or {}),
        "licences": _licences(metrics, methods),
    }


def read_report(path: Path) -> list[Row]:
    """Rows of report.parquet, `missing` (reason -> samples) opened, without those of methods that have no samples;
    none where there is no such file."""
    if not path.is_file():
        return []
    rows: list[Row] = [row for row in pq.read_table(path).to_pylist() if row["n"] or row["n_missing"]]
    for row in rows:
        row["missing"] = json.loads(row["missing"]) if row["missing"] else {}
    return rows


METRIC: Row = {"summary": "", "paper": None, "per": "corpus", "settings": {}, "measures": {}, "models": []}
"""Of a metric that only the table knows, being made of the means of others."""
METHOD: Row = {
    "summary": "",
    "baseline": False,
    "licence": None,
    "conditions_on": None,
    "models": [],
    "state": "scored",
    "why": "",
    **dict.fromkeys(("requested", "made", "rejected", "errors")),
    "reasons": {},
}
MODEL: Row = dict.fromkeys(("role", "slot", "model", "revision", "licence", "sha256"))


def _metrics(told: Mapping[str, Row], rows: Iterable[Row]) -> dict[str, Row]:
    """Metric -> what the manifest says of it, or the table."""
    found = {name: {**METRIC, **entry} for name, entry in told.items()}
    keys = ("family", "axis", "unit", "better", "bounds", "fingerprint")
    for row in rows:
        if row["metric"] not in found:
            found[row["metric"]] = {**METRIC, **{key: row[key] for key in keys}, "summary": row["note"] or ""}
    for name, entry in found.items():
        entry["network"] = name.removeprefix(entry["family"]).lstrip("/")
        entry["models"] = [{**MODEL, **model} for model in entry["models"]]
    return found


def _methods(told: Mapping[str, Row], rows: Iterable[Row]) -> dict[str, Row]:
    found = {name: {**METHOD, **entry} for name, entry in told.items()}
    for row in rows:
        found.setdefault(row["method"], {**METHOD, "baseline": row["baseline"]})
    for entry in found.values():
        entry["models"] = [{**MODEL, **model} for model in entry["models"] or []]
    return found


def _size(path: Path, manifest: Mapping[str, Any]) -> Row:
    """`identities`, `requests`, `prompts` (distinct), `seeds` (distinct, or how many when they are many), `images`."""
    if not path.is_file():
        keys = ("identities", "requests")
        return {**{key: manifest.get(key) for key in keys}, "prompts": None, "seeds": [], "images": 0}
    table = pq.read_table(path, columns=["id", "identity", "prompt", "seed", "media"])
    seeds = sorted(pc.unique(table["seed"]).drop_null().to_pylist())
    return {
        "identities": len(pc.unique(table["identity"])),
        "requests": len(pc.unique(table["id"])),
        "prompts": len(pc.unique(table["prompt"])),
        "seeds": seeds if len(seeds) <= 8 else [],
        "images": len(table) - table["media"].null_count,
    }


def _is_random(model: Mapping[str, Any]) -> bool:
    return any(RANDOM in str(model.get(key)).lower() for key in ("licence", "label", "model"))


def mark_random(metrics: Mapping[str, Row], methods: Mapping[str, Row]) -> list[str]:
    """Marks metrics and methods that rest on models which say of themselves that their weights are random (`random`),
    and returns the names of those models."""
    told: set[str] = set()
    for entry in (*metrics.values(), *methods.values()):
        found = [str(model["model"]) for model in entry.get("models") or [] if _is_random(model)]
        entry["random"] = bool(found) or _is_random({"licence": entry.get("licence")})
        told.update(found if entry.get("state") not in ("cannot", "pending") else ())
    told |= {name for name, entry in methods.items() if entry["random"] and entry["state"] not in ("cannot", "pending")}
    return sorted(told)


def _slices(rows: Iterable[Row], order: Sequence[str]) -> list[Row]:
    """`slice, metric, values, cells` (method -> value -> row), by slice, then by metric."""
    found: dict[tuple[str, str], dict[str, dict[str, Row]]] = {}
    values: dict[str, Counter[str]] = {}
    for row in rows:
        if row["slice"] != ALL:
            cells = found.setdefault((row["slice"], row["metric"]), {})
            cells.setdefault(row["method"], {})[row["slice_value"]] = row
            values.setdefault(row["slice"], Counter())[row["slice_value"]] += row["n"]
    return [
        {"slice": name, "metric": metric, "values": _sorted_values(values[name]), "cells": found[name, metric]}
        for name in sorted(values)
        for metric in order
        if (name, metric) in found
    ]


def _sorted_values(values: Iterable[str]) -> list[str]:
    """Numbers by size, other words as they come in the alphabet."""

    def key(value: str) -> tuple[bool, float, str]:
        try:
            return (False, float(value), value)
        except ValueError:
            return (True, 0.0, value)

    return sorted(values, key=key)


def _licences(metrics: Mapping[str, Row], methods: Mapping[str, Row]) -> list[Row]:
    """`licence, models, metrics, methods`: whose terms the numbers inherit, networks that judged first."""
    found: dict[str, dict[str, list[str]]] = {}

    def add(licence: Any, key: str, name: str, model: str | None = None) -> None:
        entry = found.setdefault(str(licence or "not stated"), {"models": [], "metrics": [], "methods": []})
        for where, what in ((key, name), ("models", model)):
            if what and what not in entry[where]:
                entry[where].append(what)

    for name, metric in metrics.items():
        for model in metric["models"]:
            add(model["licence"], "metrics", name, model["model"])
    for name, method in methods.items():
        if method["state"] in ("cannot", "pending"):
            continue
        if method["licence"]:
            add(method["licence"], "methods", name)
        for model in method["models"]:
            add(model["licence"], "methods", name, model["model"])
    return [{"licence": licence, **entry} for licence, entry in found.items()]
