"""The pictures of a report: which rows are shown, and their thumbnails as `data:` URIs."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow.compute as pc

from idtool.curate.pairing import DIFFERENCE
from idtool.curate.report_data import pair_steps
from idtool.engine.operator import KEPT, REJECTED
from idtool.engine.table import Table
from idtool.media.thumbnails import Thumbnails
from idtool.run import Run

Row = dict[str, Any]
SHOWN_PAIRS = 24
SHOWN_REJECTS = 6
MAX_REASONS = 40


def kept_pairs(run: Run, thumbnails: Thumbnails, count: int = SHOWN_PAIRS) -> list[Row]:
    """Pairs spread over the identities: one of each of evenly spaced ones, then their second ones, and so on."""
    steps = pair_steps(run)
    if not steps:
        return []
    table = run.step_table(steps[-1]["index"])
    positions: dict[str, list[int]] = defaultdict(list)
    offset = 0
    for batch in table.batches(["identity", "status"], rows=65_536):
        for index, (identity, status) in enumerate(
            zip(batch["identity"].to_pylist(), batch["status"].to_pylist(), strict=True)
        ):
            # No more than `count` per identity can ever be shown.
            if status == KEPT and len(positions[identity]) < count:
                positions[identity].append(offset + index)
        offset += batch.num_rows
    filled = sorted(identity for identity in positions if positions[identity])
    chosen = [filled[index] for index in spread(len(filled), count)]
    wanted: list[int] = []
    for turn in range(count):
        wanted += [positions[identity][turn] for identity in chosen if turn < len(positions[identity])]
    rows = rows_at(table, wanted[:count])
    return [_pair(row, thumbnails, 320) for row in sorted(rows, key=lambda row: (row["identity"], row["id"]))]


def rejects(run: Run, thumbnails: Thumbnails, reasons: Sequence[Mapping[str, Any]]) -> list[Row]:
    """For each of the reasons (see `report_data.lost_rows`) some of its rows, spread over the table: the entry with
    `items` added."""
    galleries = []
    for reason in reasons[:MAX_REASONS]:
        table = run.step_table(reason["step"])
        found = [np.zeros(0, np.int64)]
        offset = 0
        for batch in table.batches(["status", "reason"], rows=65_536):
            mine = pc.and_(pc.equal(batch["status"], REJECTED), pc.equal(batch["reason"], reason["reason"]))
            found.append(np.flatnonzero(pc.fill_null(mine, False).to_numpy()) + offset)
            offset += batch.num_rows
        places = np.concatenate(found)
        if not len(places):
            continue
        rows = rows_at(table, places[spread(len(places), SHOWN_REJECTS)].tolist())
        items = [_pair(row, thumbnails, 160) if "a_id" in row else _image(row, thumbnails, 200) for row in rows]
        galleries.append({**reason, "items": items, "blurred": reason["reason"].startswith("nsfw")})
    return galleries


def kept_at(table: Table, count: int) -> list[Row]:
    """At most `count` kept rows of a table, spread over it."""
    kept = [np.zeros(0, np.int64)]
    offset = 0
    for batch in table.batches(["status"], rows=65_536):
        kept.append(np.flatnonzero(pc.equal(batch["status"], KEPT).to_numpy()) + offset)
        offset += batch.num_rows
    places = np.concatenate(kept)
    return rows_at(table, places[spread(len(places), count)].tolist())


def spread(length: int, count: int) -> list[int]:
    """At most `count` places among `length`, evenly spaced."""
    if length <= count:
        return list(range(length))
    return [int(place) for place in np.linspace(0, length - 1, count).round()]


def rows_at(table: Table, positions: Iterable[int]) -> list[Row]:
    """The rows at some places of a table, in its order; only those rows become Python values."""
    wanted = sorted(set(positions))
    if not wanted:
        return []
    heavy = ("embedding", "thumb", "copy_embedding")
    columns = [name for name in table.schema.names if not any(word in name for word in heavy)]
    rows: list[Row] = []
    offset = 0
    for batch in table.batches(columns):
        here = [place - offset for place in wanted if offset <= place < offset + batch.num_rows]
        if here:
            rows += batch.take(here).to_pylist()
        offset += batch.num_rows
        if offset > wanted[-1]:
            break
    return rows


def _image(row: Row, thumbnails: Thumbnails, side: int) -> Row:
    return {
        "kind": "image",
        "value": row["value"],
        "threshold": row["threshold"],
        "message": row["message"],
        "note": _copy_of(row),
        "images": [_picture(row, "", thumbnails, side)],
    }


def _copy_of(row: Row) -> str | None:
    """For a copy, what it is a copy of: the message without the id, which no tile has room for."""
    if not (row["reason"] or "").startswith("duplicate") or row["value"] is None:
        return None
    return re.sub(r" \(id [0-9a-f]+\).*", "", row["message"] or "") or None


def _pair(row: Row, thumbnails: Thumbnails, side: int) -> Row:
    names = ("id", "identity", "branch", "similarity", "d_yaw", "d_pitch", "d_expression", "d_time_ms", "split")
    return {
        "kind": "pair",
        # The share of a difference that was asked for stands in none of the threshold's units: its message says it.
        "value": None if row["reason"] == DIFFERENCE else row["value"],
        "threshold": row["threshold"],
        "message": row["message"],
        "note": None,
        **{name: row.get(name) for name in names},
        "captions": [row.get("a_caption"), row.get("b_caption")],
        "images": [_picture(row, prefix, thumbnails, side) for prefix in ("a_", "b_")],
    }


def _picture(row: Row, prefix: str, thumbnails: Thumbnails, side: int) -> Row:
    """One image of a tile: `src` (None: it cannot be shown), what to say of it, and its face box in its own pixels."""

    def get(name: str) -> Any:
        return row.get(prefix + name)

    time = get("time_ms")
    moment = "" if time is None else f", {time / 1000:.1f} s"
    is_video = get("kind") == "video"
    return {
        "id": get("id"),
        "name": f"{get('name') or get('uri') or get('id')}{moment}",
        "src": None if is_video else thumbnails.get(get("media"), side),
        "empty": "video" if is_video else "cannot be shown",
        "width": get("width"),
        "height": get("height"),
        "box": get("face_box"),
    }
