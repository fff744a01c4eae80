"""Photos with planted embeddings, prompts and faces, as the steps before `requests` leave them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from idtool.engine.table import Table
from tests.curate.tables import stored

SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("kind", pa.string()),
        ("media", pa.string()),
        ("identity", pa.string()),
        ("scene_prompt", pa.string()),
        ("faces", pa.int32()),
        ("face_quality", pa.float32()),
        ("embedding", pa.list_(pa.float32())),
        ("people_boxes", pa.list_(pa.list_(pa.float32()))),
        ("people_embeddings", pa.list_(pa.list_(pa.float32()))),
        ("image_size", pa.list_(pa.int32())),
        ("female", pa.float32()),
        ("source", pa.string()),
        ("licence", pa.string()),
        ("consent", pa.string()),
    ]
)
DIM = 32


def face(name: str, shot: int = 0, noise: float = 0.02) -> list[float]:
    """A unit vector near that of the person."""
    base = np.random.default_rng(list(name.encode())).standard_normal(DIM)
    base = base / np.linalg.norm(base) + noise * np.random.default_rng([shot, *name.encode()]).standard_normal(DIM)
    return [float(value) for value in base / np.linalg.norm(base)]


def portrait(name: str, shot: int = 0, **told: Any) -> dict[str, Any]:
    return {
        "id": f"{name}-{shot}",
        "kind": "image",
        "media": f"/photos/{name}/{shot}.jpg",
        "identity": name,
        "scene_prompt": f"what {name} does in shot {shot}",
        "faces": 1,
        "face_quality": 0.5 + 0.1 * shot,
        "embedding": face(name, shot),
        "people_boxes": [[40.0, 20.0, 80.0, 70.0]],
        "people_embeddings": [face(name, shot)],
        "image_size": [120, 160],
        "licence": f"terms of {name}",
        **told,
    }


def group(ident: str, names: Sequence[str], **told: Any) -> dict[str, Any]:
    """A photo of people from left to right; the detector lists them largest first, here the other way round."""
    count = len(names)
    boxes = [[200.0 * k + 50, 40.0 - k, 200.0 * k + 100, 100.0 + k] for k in range(count)]
    return {
        "id": ident,
        "kind": "image",
        "media": f"/photos/groups/{ident}.jpg",
        "identity": "somebody",
        "scene_prompt": f"A photo of {count} people.",
        "faces": count,
        "embedding": face(names[-1], 9),
        "people_boxes": boxes[::-1],
        "people_embeddings": [face(name, 9) for name in names][::-1],
        "image_size": [300, 200 * count],
        "licence": "terms of the photo",
        **told,
    }


def table(folder: Path, rows: Sequence[dict[str, Any]]) -> Table:
    return stored(folder, pa.Table.from_pylist(sorted(rows, key=lambda row: row["id"]), SCHEMA), batch=3)
