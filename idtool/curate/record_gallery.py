"""Records in a report: the picture of the face, its regions, and what was said of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from idtool.curate.gallery import rows_at, spread
from idtool.engine.operator import KEPT
from idtool.media.thumbnails import Thumbnails
from idtool.models.parts import REGIONS
from idtool.run import Run

Row = dict[str, Any]
SHOWN = 18
SIDE, SMALL = 240, 96
"""Pixels of the picture and of its regions."""


def kept_records(run: Run, thumbnails: Thumbnails, count: int = SHOWN) -> list[Row]:
    """Records of the run's data set, spread over it; none where it has none."""
    entry = next((one for one in run.steps if one["kind"] == "records" and one["state"] == "done"), None)
    if entry is None:
        return []
    table = run.step_table(entry["index"])
    kept = [np.zeros(0, np.int64)]
    offset = 0
    for batch in table.batches(["status"], rows=65_536):
        kept.append(np.flatnonzero(pc.equal(batch["status"], pa.scalar(KEPT)).to_numpy()) + offset)
        offset += batch.num_rows
    places = np.concatenate(kept)
    return [_record(row, thumbnails) for row in rows_at(table, places[spread(len(places), count)].tolist())]


def _record(row: Mapping[str, Any], thumbnails: Thumbnails) -> Row:
    """`src` None: it cannot be shown. Regions that are not visible, or of which no crop was made, are left out."""
    media = row.get("region_frame") or row["media"]
    crops = {region: row.get(f"{region}_crop") for region in REGIONS}
    return {
        "id": row["id"],
        "name": row.get("name") or row["id"],
        "identity": row.get("identity") or row.get("identity_label"),
        "split": row.get("split"),
        "picture": {"src": thumbnails.get(media, SIDE), "empty": "cannot be shown", "box": None},
        "regions": [
            {"name": region, "src": thumbnails.get(crop, SMALL)} for region, crop in crops.items() if crop is not None
        ],
        "hidden": [region for region in REGIONS if row.get(f"{region}_visible") is False],
        "captions": [words for words in (row.get("caption"), row.get("face_caption")) if words],
    }
