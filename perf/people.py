"""Synthetic people for `pairing.py`: embeddings with the similarities of real photos, and what goes with them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import pyarrow as pa

Floats = npt.NDArray[np.float32]
DIM, FRAMES, PHOTOS = 512, 15, 20


def unit(rows: Floats) -> Floats:
    return np.asarray(rows / np.linalg.norm(rows, axis=-1, keepdims=True), np.float32)


def noise(random: np.random.Generator, count: int) -> Floats:
    return unit(random.standard_normal((count, DIM), dtype=np.float32))


def person(seed: int) -> dict[str, Any]:
    """Images of one person. Photos lie round the person, frames round one photo: cos = 1 / (1 + spread^2)."""
    random = np.random.default_rng(seed)
    photos, frames = (int(random.integers(n * 3 // 4, n * 5 // 4 + 1)) for n in (PHOTOS, FRAMES))
    centre = noise(random, 1)
    spread = np.clip(random.normal(0.75, 0.22, (photos, 1)), 0.3, 1.5).astype(np.float32)
    embedding = unit(centre + spread * noise(random, photos))
    video = unit(embedding[:1] + random.uniform(0.05, 0.6, (frames, 1)).astype(np.float32) * noise(random, frames))
    count = photos + frames
    return {
        "embedding": np.concatenate([embedding, video]),
        "family": np.concatenate([np.arange(photos), np.full(frames, photos)]),
        "thumb": random.integers(0, 256, (count, 32, 32), dtype=np.uint8),
        "yaw": random.normal(0, 20, count).astype(np.float32),
        "pitch": random.normal(0, 10, count).astype(np.float32),
        "expressions": random.dirichlet(np.full(7, 0.5), count).astype(np.float32),
        "time_ms": np.concatenate([np.full(photos, np.nan), np.arange(frames) * 50.0]),
    }


def people(embeddings: int) -> Iterator[dict[str, Any]]:
    done = seed = 0
    while done < embeddings:
        found = person(seed)
        yield found
        done, seed = done + len(found["embedding"]), seed + 1


TEXT = ("id", "uri", "name", "media", "format", "kind", "parent", "origin", "identity", "identity_how", "licence")
WHOLE = {"width": 1024, "height": 1024, "short_side": 1024, "shot": 0, "faces": 1}
REAL = {"sharpness": 50.0, "roll": 0.0, "face_quality": 0.8, "identity_sim": 0.8}


def measured(embeddings: int) -> tuple[pa.Schema, Iterator[pa.Table]]:
    """A table of images of these people as the steps before `pair` leave it: its schema and its batches."""
    import pyarrow as pa

    from idtool.engine.operator import OUTCOME

    schema = pa.schema(
        [
            *[pa.field(name, pa.string()) for name in TEXT],
            *[pa.field(name, pa.int32()) for name in WHOLE],
            *[pa.field(name, pa.float32()) for name in (*REAL, "yaw", "pitch")],
            pa.field("time_ms", pa.int64()),
            pa.field("embedding", pa.list_(pa.float32(), DIM)),
            pa.field("face_thumb", pa.binary()),
            pa.field("expressions", pa.list_(pa.float32())),
            *OUTCOME,
        ]
    )

    def batch(number: int, found: dict[str, Any]) -> pa.Table:
        photo = np.isnan(found["time_ms"])
        count = len(photo)
        ids = [f"{number:08d}{k:024d}" for k in range(count)]
        paths = [f"/photos/{name}.jpg" for name in ids]
        constant = {"format": "jpeg", "kind": "image", "identity": f"person-{number:06d}", "identity_how": "folder"}
        columns: dict[str, Any] = {
            **{name: [value] * count for name, value in {**constant, **WHOLE, **REAL, "licence": "CC0"}.items()},
            "id": ids,
            "uri": paths,
            "media": paths,
            "name": ids,
            "yaw": found["yaw"],
            "pitch": found["pitch"],
            "parent": [None if alone else f"video-{number}" for alone in photo],
            "origin": ["photo" if alone else "frame" for alone in photo],
            "time_ms": pa.array(np.nan_to_num(found["time_ms"]).astype(np.int64), mask=photo),
            "embedding": pa.FixedSizeListArray.from_arrays(pa.array(found["embedding"].reshape(-1)), DIM),
            "face_thumb": [thumb.tobytes() for thumb in found["thumb"]],
            "expressions": list(found["expressions"]),
            "status": ["kept"] * count,
        }
        arrays = [
            pa.array(columns[field.name], field.type) if field.name in columns else pa.nulls(count, field.type)
            for field in schema
        ]
        return pa.table(arrays, schema=schema)

    return schema, (batch(number, found) for number, found in enumerate(people(embeddings)))
