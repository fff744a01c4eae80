"""Scored benchmark folders with planted values, as `idtool bench` and `evaluate` leave them; nothing runs."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from idtool.evaluate.score_methods import SAMPLES
from idtool.evaluate.scoring import SCHEMA

ID, CLIP, DINO, AES = "facesim/arcface-mbf", "clip_t/vit-l-14@raw", "dino/vits16", "aesthetic/laion-v2"
UNITS = {ID: "cosine", CLIP: "cosine", DINO: "cosine", AES: "1"}
Scores = Mapping[str, float | None]


@dataclass(frozen=True)
class Shot:
    """One image of a benchmark with its scores."""

    scores: Scores
    people: tuple[str | None, ...] = ("anna",)
    prompt: str = "a person reading"
    seed: int = 0
    method: str = "mine"
    media: str | None = "auto"
    """None: no image was made."""
    references: tuple[str, ...] = ()
    """Empty: one drawn picture per person."""
    parent: str | None = None
    colour: tuple[int, int, int] = (90, 90, 90)


def sample_id(shot: Shot) -> str:
    told = (shot.people, shot.prompt, shot.seed, shot.method if shot.parent or shot.media is None else "", shot.colour)
    return hashlib.sha256(repr(told).encode()).hexdigest()[:32]


def build(
    folder: Path,
    shots: Sequence[Shot],
    *,
    metrics: Iterable[str] = (ID, CLIP),
    baselines: Iterable[str] = (),
    units: Mapping[str, str] = UNITS,
    draw: bool = True,
) -> Path:
    """Write the folder; with pictures of plain colours unless `draw` is off."""
    folder.mkdir(parents=True, exist_ok=True)
    names = list(metrics)
    rows: list[dict[str, Any]] = []
    scores: list[dict[str, Any]] = []
    for shot in shots:
        ident = sample_id(shot)
        labels = [label or f"nobody-{k}" for k, label in enumerate(shot.people)]
        references = list(shot.references) or [str(folder / "people" / f"{label}.png") for label in labels]
        media = f"methods/{shot.method}/{ident}.png" if shot.media == "auto" else shot.media
        if draw:
            for k, path in enumerate(references):
                _draw(
                    Path(path), (40 + 60 * k, len(labels) * 20, int(hashlib.sha256(path.encode()).hexdigest()[:2], 16))
                )
            if media and not media.startswith("/"):
                _draw(folder / media, shot.colour, int(ident[:6], 16))
        known = [label for label in shot.people if label] or None
        told = {
            "identity": " + ".join(sorted(label or uri for label, uri in zip(shot.people, references, strict=True))),
            "prompt": shot.prompt,
            "seed": shot.seed,
            "slices": json.dumps({"parent": shot.parent} if shot.parent else {}),
        }
        rows.append(
            {
                **told,
                "suite": "fake",
                "method": shot.method,
                "id": ident,
                "media": media,
                "references": references,
                "people": list(shot.people) if known else [None] * len(references),
                "outcome": "made" if media else "rejected",
                "why": None if media else "nsfw",
            }
        )
        for name in names:
            value = shot.scores.get(name)
            missing = "no face in the image" if value is None else None
            scores.append(
                {
                    **told,
                    "suite": "fake",
                    "profile": "offline",
                    "method": shot.method,
                    "metric": name,
                    "sample": ident,
                    "value": value if media else None,
                    "missing": missing if media else "no image: nsfw",
                }
            )
    pq.write_table(pa.Table.from_pylist(rows, SAMPLES), folder / "samples.parquet")
    pq.write_table(pa.Table.from_pylist(scores, SCHEMA), folder / "scores.parquet")
    write_manifest(folder, {shot.method for shot in shots}, names, baselines, units)
    return folder


def write_manifest(
    folder: Path, methods: Iterable[str], metrics: Iterable[str], baselines: Iterable[str], units: Mapping[str, str]
) -> None:
    entries = {
        name: {
            "family": name.partition("/")[0],
            "per": "sample",
            "better": "higher",
            "unit": units.get(name, "1"),
            "fingerprint": hashlib.sha256(name.encode()).hexdigest()[:24],
        }
        for name in metrics
    }
    made = {name: {"baseline": name in set(baselines), "state": "scored"} for name in sorted(methods)}
    skipped = {"clip_t": "profile offline binds no model to role clip", "aesthetic": "no role aesthetic"}
    manifest = {"idtool": "0.1.0", "format": 1, "profile": "offline", "updated": "2026-01-02T03:04:05+00:00"}
    manifest |= {"suite": {"name": "fake"}, "methods": made, "metrics": entries}
    manifest["skipped"] = {
        family: why for family, why in skipped.items() if family not in {e["family"] for e in entries.values()}
    }
    (folder / "bench.json").write_text(json.dumps(manifest), "utf-8")


def _draw(path: Path, colour: tuple[int, int, int], seed: int = 0) -> None:
    """A plain colour with a few pixels of its own, so that no two files are the same."""
    if path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.full((48, 40, 3), colour, np.uint8)
    pixels[:2] = np.random.default_rng(seed).integers(0, 255, (2, 40, 3), np.uint8)
    Image.fromarray(pixels).save(path)


def rows_of(path: Path) -> list[dict[str, Any]]:
    return list(pq.read_table(path).to_pylist())
