"""Tables of invented people for tests of identify and pair: embeddings around a centre per person."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from idtool.curate.cluster import normalise
from idtool.engine.step import Binding, Env

DIM = 64
ENV = Env(
    "offline",
    {
        "identity": (
            Binding("identity", "one", thresholds={"same_person": 0.4}),
            Binding("identity", "two", thresholds={"same_person": 0.45}),
        )
    },
)
EMBEDDING = pa.list_(pa.float32(), DIM)


def image_id(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()[:32]


def person(number: int, images: int, *, spread: float = 0.6, seed: int = 0) -> np.ndarray:
    """(images, DIM) unit embeddings; cosine of two images of a person is about 1 / (1 + spread ** 2)."""
    centre = np.random.default_rng([7, number]).normal(size=DIM)
    noise = np.random.default_rng([seed, number, 1]).normal(size=(images, DIM))
    return normalise(centre + spread * noise)[0]


def photo(number: int, k: int, embedding: Any, **columns: Any) -> dict[str, Any]:
    name = f"p{number:02d}_{k:03d}.jpg"
    row = {"id": image_id(name), "uri": f"/in/{name}", "name": name, "origin": "photo", "person": number}
    return {**row, "embedding": embedding, **columns}


def frame(video: str, time: int, number: int, embedding: Any, **columns: Any) -> dict[str, Any]:
    row = {"id": f"{image_id(video)}-{time:09d}", "uri": f"/in/{video}", "name": video, "origin": "frame"}
    more = {"parent": image_id(video), "time_ms": time, "shot": columns.pop("shot", 0), "person": number}
    return {**row, **more, "embedding": embedding, **columns}


TYPES = {
    "id": pa.string(), "uri": pa.string(), "name": pa.string(), "group": pa.string(), "identity_label": pa.string(),
    "identity": pa.string(), "origin": pa.string(), "parent": pa.string(), "time_ms": pa.int64(), "shot": pa.int32(),
    "person": pa.int32(), "embedding": EMBEDDING, "embedding2": EMBEDDING, "copy_embedding": EMBEDDING,
    "face_thumb": pa.binary(), "yaw": pa.float32(), "pitch": pa.float32(), "roll": pa.float32(),
    "expressions": pa.list_(pa.float32()), "blendshapes": pa.list_(pa.float32()),
}  # fmt: skip


def table(rows: Sequence[dict[str, Any]], seed: int | None = 0) -> pa.Table:
    """The rows in random order (None: in id order) with the columns that any of them has."""
    ordered = sorted(rows, key=lambda row: str(row["id"]))
    if seed is not None:
        ordered = [ordered[k] for k in np.random.default_rng(seed).permutation(len(ordered))]
    needed = {"id", "group", "identity_label", "origin", "parent", "time_ms", "shot", "embedding"}
    names = [name for name in TYPES if name in needed or any(name in row for row in rows)]
    values = {name: [row.get(name) for row in ordered] for name in names}
    for name in ("embedding", "embedding2", "copy_embedding"):
        if name in values:
            values[name] = [None if v is None else np.asarray(v, np.float32).tolist() for v in values[name]]
    return pa.table({name: pa.array(column, TYPES[name]) for name, column in values.items()})
