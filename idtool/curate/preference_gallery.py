"""Preference pairs in a report: the better and the worse image, whom they were to show, and by how much."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from idtool.curate.gallery import kept_at
from idtool.media.thumbnails import Thumbnails
from idtool.run import Run

Row = dict[str, Any]
SHOWN = 12
SIDE, SMALL = 320, 96
"""Pixels of the images and of the references."""


def kept_preferences(run: Run, thumbnails: Thumbnails, count: int = SHOWN) -> list[Row]:
    """Pairs of the run's step `prefer`, spread over them; none where it has none."""
    entry = next((one for one in run.steps if one["kind"] == "prefer" and one["state"] == "done"), None)
    if entry is None:
        return []
    return [_pair(row, thumbnails) for row in kept_at(run.step_table(entry["index"]), count)]


def _pair(row: Mapping[str, Any], thumbnails: Thumbnails) -> Row:
    """`src` None: it cannot be shown."""
    sides = ("chosen", "rejected")
    return {
        "id": row["id"],
        "identity": row["identity"],
        "source": row["source"],
        "margin": row["margin"],
        "prompt": row["prompt"],
        "flags": row["flags"],
        "metrics": [one for one in row["metrics"] if one["delta"] is not None],
        "images": [
            {
                "src": thumbnails.get(row[side], SIDE),
                "empty": "cannot be shown",
                "box": None,
                "method": row[f"{side}_method"],
            }
            for side in sides
        ],
        "references": [src for uri in row["references"] if (src := thumbnails.get(uri, SMALL))],
    }
