"""`idtool explain`: the whole story of one image, frame, video or pair, from the tables of its run."""

from __future__ import annotations

import difflib
import math
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from idtool.curate import facts
from idtool.curate.gate import GateSettings, verdicts
from idtool.engine.apply import INPUT_ID
from idtool.engine.operator import KEPT, OUTCOME
from idtool.engine.table import Table
from idtool.errors import UsageError
from idtool.run import Run

PREFIX = 6
"""Shortest beginning of an id that is looked up."""
MAX_LISTED = 100
LONG = 64
"""Lists longer than this (embeddings) are told by their length."""


def explain(run: Path, item: str) -> dict[str, Any]:
    """What happened to `item`: an id or its beginning (6 characters or more), a file name, a path or URL, a pair id.

    Returns `{"id", "what": image|frame|video|pair, "source", "verdict", "steps", …}`: `steps` has, for every step
    that ran, the row's `status, reason, value, threshold, message`, the values `measured` there and, for gates, all
    `checks` (also those after the first that failed). Images and frames add `identity`, `pairs` and `duplicates`,
    videos `children`, pairs `images`. Raises UsageError, with the candidates or the nearest names, when `item` does
    not name one thing.
    """
    opened = Run(run)
    steps = [(entry, opened.step_table(entry["index"])) for entry in opened.steps if entry["state"] == "done"]
    found = _find(steps, item)
    chain = [found["id"]] if not found.get("parent") else [found["parent"], found["id"]]
    story = [part for number in range(len(steps)) if (part := _step(steps, number, chain, found)) is not None]
    own = [part for part in story if part["id"] == found["id"]]
    result = {
        "id": found["id"],
        "what": _what(found),
        "source": {key: value for key, value in found.items() if key not in ("status", "reason") and value is not None},
        "verdict": _verdict(own, opened),
        "steps": story,
    }
    if result["what"] == "pair":
        return result | {"images": {side: _side(steps, found["id"], side) for side in "ab"}}
    if result["what"] == "video":
        result["children"] = _children(steps, found["id"])
    measured = {key: value for part in own for key, value in part["measured"].items()}
    result["identity"] = {key: value for key, value in measured.items() if key.startswith("identity")} or None
    return result | {"pairs": _pairs(steps, found["id"]), "duplicates": _duplicates(steps, found)}


Steps = list[tuple[dict[str, Any], Table]]
LOOKED_AT = ("id", "parent", "kind", "name", "uri", "group", "source", "licence", "consent", "status", "reason")


def _find(steps: Steps, item: str) -> dict[str, Any]:
    """The row (in the first table that has it) that `item` names."""
    found: dict[str, dict[str, Any]] = {}
    exact: dict[str, dict[str, Any]] = {}
    names: set[str] = set()
    for _, table in steps:
        columns = [name for name in LOOKED_AT if name in table.schema.names]
        for batch in table.batches(columns, rows=65_536):
            same = pc.equal(batch["id"], item)
            match = same if len(item) < PREFIX else pc.starts_with(batch["id"], item)
            if "name" in columns:
                match = pc.or_(match, _named(batch, item))
                names.update(name for name in batch["name"].to_pylist()[:1000] if name and len(names) < 100_000)
            for row in batch.filter(match).to_pylist():
                found.setdefault(row["id"], row)
            for row in batch.filter(same).to_pylist():
                exact.setdefault(row["id"], row)
    if exact:
        return exact[item]
    # A video's id begins the ids of its frames, an image's those of its pairs: the shorter one is meant.
    short = {key: row for key, row in found.items() if not any(_begins(other, key) for other in found if other != key)}
    if len(short) == 1:
        return next(iter(short.values()))
    if short:
        some = [f"{key} ({row.get('uri') or 'pair'})" for key, row in list(short.items())[:10]]
        more = f" and {len(short) - 10} more" if len(short) > 10 else ""
        raise UsageError(f"{item!r} could be {', '.join(some)}{more}.", "Give the full id or the path.")
    close = difflib.get_close_matches(Path(item).name, sorted(names), 3, 0.5)
    hint = f"Did you mean {' or '.join(map(repr, close))}?" if close else "Give an id, a file name or a path."
    raise UsageError(f"Nothing in this run is called {item!r}.", hint)


def _begins(short: str, long: str) -> bool:
    return long.startswith((f"{short}-", f"{short}~"))


def _named(batch: pa.Table, item: str) -> pa.Array:
    """Rows whose file is `item`: name, URI, end of the URI, or a path that leads to it. Frames have the name of
    their video and do not count."""
    whole = Path(item).absolute().as_posix()
    by_name = pc.fill_null(pc.equal(batch["name"], item), False)
    by_uri = pc.is_in(batch["uri"], pa.array([item, whole, f"file://{whole}"]))
    by_end = pc.fill_null(pc.ends_with(batch["uri"], f"/{item.removeprefix('./')}"), False)
    match = pc.or_(pc.or_(by_name, by_uri), by_end)
    return pc.and_(match, pc.is_null(batch["parent"])) if "parent" in batch.column_names else match


def _what(row: Mapping[str, Any]) -> str:
    if "~" in row["id"]:
        return "pair"
    if row.get("parent"):
        return "frame"
    return str(row.get("kind") or "file")


def _row(table: Table, row_id: str, uri: str | None = None) -> dict[str, Any] | None:
    """One whole row; among rows of one id (copies of a file) the one at `uri`, else the kept one."""
    rows = pq.read_table(table.files, filters=pc.field("id") == row_id).to_pylist()
    rows.sort(key=lambda row: (row.get("uri") != uri, row["status"] != KEPT))
    return rows[0] if rows else None


def _step(steps: Steps, number: int, chain: list[str], found: Mapping[str, Any]) -> dict[str, Any] | None:
    """What one step did with the row (or, before there was a row, with the video that it comes from)."""
    entry, table = steps[number]
    row = None
    for row_id in reversed(chain):
        row = _row(table, row_id, found.get("uri"))
        if row is not None:
            break
    if row is None:
        return None
    # A step that makes a new kind of row (pairs) shows all of its own columns.
    before = set(steps[number - 1][1].schema.names) if number and not _is_first(steps, number, row["id"]) else set()
    schema = table.schema
    shown = [
        field for field in schema if field.name not in before and field.name not in {*OUTCOME.names, INPUT_ID, "id"}
    ]
    result = {
        "step": entry["name"],
        "kind": entry["kind"],
        "id": row["id"],
        **{name: row[name] for name in OUTCOME.names},
        "measured": {field.name: _plain(row[field.name]) for field in shown if row[field.name] is not None},
        "units": {f.name: f.metadata[b"unit"].decode() for f in shown if f.metadata and f.metadata.get(b"unit")},
    }
    if entry["kind"] == "gate":
        result["checks"] = _checks(entry, schema, row)
    return result


def _is_first(steps: Steps, number: int, row_id: str) -> bool:
    """Whether no earlier step has columns of this kind of row: pairs have `a_id`, images do not."""
    return "~" in row_id and "a_id" not in steps[number - 1][1].schema.names


def _checks(entry: Mapping[str, Any], schema: pa.Schema, row: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Every bound of a gate step against the row's value, also after the first that failed."""
    checks = []
    for gate, columns in GateSettings.model_validate(facts.settings(entry)).gates.items():
        for column, bound in columns.items():
            if column not in schema.names:
                continue
            values = pa.array([row[column]], schema.field(column).type)
            for passes, threshold in verdicts(values, bound):
                check = {"gate": gate, "column": column, "value": _plain(row[column]), "threshold": threshold}
                checks.append(check | {"passes": bool(passes[0].as_py())})
    return checks


def _plain(value: Any) -> Any:
    """JSON-able, and short: bytes and long lists by their length."""
    if isinstance(value, bytes):
        return f"{len(value)} bytes"
    if isinstance(value, list):
        return f"{len(value)} values" if len(value) > LONG else [_plain(part) for part in value]
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    return value


def _verdict(own: list[dict[str, Any]], run: Run) -> str:
    if not own:
        return "never reached a step"
    last = own[-1]
    if last["status"] == KEPT:
        return f"kept up to {last['step']}"
    word = "rejected" if last["status"] == "rejected" else "failed"
    return f"{word} in {last['step']}: {last['reason']}" + (f" ({last['message']})" if last["message"] else "")


def _children(steps: Steps, video: str) -> dict[str, Any]:
    """Frames of a video: how many there were, how many are left, and what took the others."""
    total, lost = 0, Counter[str]()
    left = 0
    for _, table in steps:
        if "parent" not in table.schema.names:
            continue
        rows = pq.read_table(table.files, columns=["status", "reason"], filters=pc.field("parent") == video)
        status = rows["status"].to_pylist()
        total = total or len(status)
        left = status.count(KEPT) if status else left
        lost.update(reason for state, reason in zip(status, rows["reason"].to_pylist(), strict=True) if state != KEPT)
    return {"frames": total, "kept": left, "reasons": dict(lost.most_common())}


def _pairs(steps: Steps, image: str) -> dict[str, Any]:
    """Pairs and pair candidates that the image is in: counts by outcome and the first of them."""
    listed: dict[str, dict[str, Any]] = {}
    for _, table in steps:
        if "a_id" not in table.schema.names:
            continue
        names = ("id", "identity", "branch", "similarity", "status", "reason", "value", "threshold", "split", "file")
        columns = [name for name in (*names, "a_id", "b_id", "a_name", "b_name") if name in table.schema.names]
        mine = (pc.field("a_id") == image) | (pc.field("b_id") == image)
        for row in pq.read_table(table.files, columns=columns, filters=mine).to_pylist():
            other = "b" if row["a_id"] == image else "a"
            told = {key: _plain(value) for key, value in row.items() if not key.startswith(("a_", "b_"))}
            listed[row["id"]] = told | {"with": row[f"{other}_id"], "with_name": row.get(f"{other}_name")}
    count = Counter(row["status"] for row in listed.values())
    rows = sorted(listed.values(), key=lambda row: (row["status"] != KEPT, row["id"]))
    return {"counts": dict(count), "listed": rows[:MAX_LISTED]}


def _duplicates(steps: Steps, found: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Rows that were rejected as copies of this one."""
    copies = []
    for entry, table in steps:
        columns = [c for c in ("id", "name", "uri", "reason", "value", "message", "status") if c in table.schema.names]
        if not {"name", "uri"} <= set(columns):
            continue
        for row in pq.read_table(table.files, columns=columns, filters=pc.field("status") != KEPT).to_pylist():
            if not (row["reason"] or "").startswith("duplicate") or row["uri"] == found.get("uri"):
                continue
            if row["id"] == found["id"] or found["id"] in (row["message"] or ""):
                copies.append({"step": entry["name"], **{key: row[key] for key in columns if key != "status"}})
    return copies[:MAX_LISTED]


def _side(steps: Steps, pair: str, side: str) -> dict[str, Any]:
    """One image of a pair, from the last table that has the pair."""
    for _, table in reversed(steps):
        if "a_id" in table.schema.names and (row := _row(table, pair)) is not None:
            names = [name for name in row if name.startswith(f"{side}_") and row[name] is not None]
            return {name.removeprefix(f"{side}_"): _plain(row[name]) for name in names}
    return {}
