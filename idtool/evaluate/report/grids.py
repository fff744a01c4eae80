"""Requests side by side: reference, prompt and what every method made of them; the same choice for the same seed."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from idtool.evaluate.report.data import SAMPLES, SCORES
from idtool.evaluate.report.pictures import SIDES, Pictures, side_for

SHOWN = 8
"""Requests side by side."""
UNFIT = 0.5
"""Probability of unfit content from which a picture is blurred."""
Row = dict[str, Any]


def grids(data: Mapping[str, Any], pictures: Pictures, budget: int, shown: int = SHOWN) -> list[Row]:
    """`prompt, identity, seed, slices, references, cells` for a few requests; a cell per method: `method, baseline,
    name` of its picture, `media`, `why` there is none, `blurred`, `scores` (the primary metrics)."""
    root = Path(data["bench"])
    chosen = choose(_requests(root / SAMPLES), shown, data["seed"] or 0)
    made = samples(root / SAMPLES, chosen)
    scores = _scores(root / SCORES, chosen, list(data["primary"].values()))
    wanted = {row["media"] for row in made.values() if row["media"]}
    wanted |= {uri for row in made.values() for uri in row["references"]}
    side = side_for(len(wanted), budget, SIDES[1:])
    methods = [one for one in data["methods"] if any(method == one["name"] for _, method in made)]
    found = []
    for key in chosen:
        rows = {method: row for (sample, method), row in made.items() if sample == key}
        first = next(iter(rows.values()))
        cells = [_cell(rows.get(one["name"]), one, pictures, side, scores) for one in methods]
        found.append(
            {
                "prompt": first["prompt"],
                "identity": first["identity"],
                "seed": first["seed"],
                "slices": json.loads(first["slices"] or "{}"),
                "references": [pictures.use(uri, side) for uri in first["references"]],
                "cells": cells,
            }
        )
    return found


def choose(requests: Mapping[str, tuple[str, str]], shown: int, seed: int) -> list[str]:
    """Ids of requests (id -> identity, prompt): one of each identity in turn, with the prompts that were shown least.
    Drawn by the seed, and never by what came out of them."""
    by_identity: dict[str, list[str]] = {}
    for key in sorted(requests):
        by_identity.setdefault(requests[key][0], []).append(key)
    rng = np.random.default_rng(seed)
    turns = [by_identity[name] for name in sorted(by_identity)]
    order = [[turns[k][i] for i in rng.permutation(len(turns[k]))] for k in rng.permutation(len(turns))]
    used: Counter[str] = Counter()
    chosen: list[str] = []
    while len(chosen) < min(shown, len(requests)):
        for left in order:
            if left and len(chosen) < shown:
                key = min(left, key=lambda one: used[requests[one][1]])
                left.remove(key)
                used[requests[key][1]] += 1
                chosen.append(key)
    return chosen


def samples(path: Path, ids: Iterable[str]) -> dict[tuple[str, str], Row]:
    """(sample, method) -> its row of samples.parquet."""
    wanted = list(dict.fromkeys(ids))
    if not wanted or not path.is_file():
        return {}
    rows = pq.read_table(path, filters=[("id", "in", wanted)]).to_pylist()
    return {(row["id"], row["method"]): row for row in rows}


def _requests(path: Path) -> dict[str, tuple[str, str]]:
    if not path.is_file():
        return {}
    table = pq.read_table(path, columns=["id", "identity", "prompt"])
    columns = (table[name].to_pylist() for name in ("id", "identity", "prompt"))
    return {key: (identity or "", prompt or "") for key, identity, prompt in zip(*columns, strict=True)}


def _scores(path: Path, ids: Sequence[str], metrics: Sequence[str]) -> dict[tuple[str, str], list[Row]]:
    if not ids or not metrics or not path.is_file():
        return {}
    table = pq.read_table(
        path,
        columns=["sample", "method", "metric", "value", "missing"],
        filters=[("metric", "in", list(metrics)), ("sample", "in", list(ids))],
    )
    found: dict[tuple[str, str], list[Row]] = {}
    for row in sorted(table.to_pylist(), key=lambda row: metrics.index(row["metric"])):
        found.setdefault((row["sample"], row["method"]), []).append(row)
    return found


def _cell(
    row: Row | None,
    method: Mapping[str, Any],
    pictures: Pictures,
    side: int,
    scores: Mapping[tuple[str, str], list[Row]],
) -> Row:
    cell = {"method": method["name"], "baseline": method["baseline"], "scores": []}
    if row is None:
        return {**cell, "name": None, "media": None, "why": "not asked for", "blurred": False}
    name = pictures.use(row["media"], side)
    why = row["why"] or ("" if name else "not shown: unreadable, or no room left")
    return {
        **cell,
        "name": name,
        "media": row["media"],
        "why": why,
        "blurred": (row["nsfw"] or 0.0) > UNFIT,
        "scores": scores.get((row["id"], method["name"]), []),
    }
