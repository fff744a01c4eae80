"""Records in a report: the picture of the face, its regions, and what was said of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from idtool.curate.gallery import kept_at
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
    return [_record(row, thumbnails) for row in kept_at(run.step_table(entry["index"]), count)]


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
