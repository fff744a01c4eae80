"""A small benchmark folder, made by hand as `idtool bench` would: drawn faces, invented scores with known effects.

`build(folder)` writes bench.json, suite.yaml, scores.parquet, samples.parquet, the images of each method and the
references; nothing ran. Means are what `Made.means` says, plus what each identity and each sample adds by chance,
kept within the bounds of the metric (next to a bound the mean moves).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image, ImageDraw

from idtool.evaluate import samples, scoring

SUITE, PROFILE = "fake", "offline"
ARCFACE = {
    "role": "identity",
    "model": "arcface-mbf",
    "revision": "1.0",
    "licence": "research only",
    "sha256": "a" * 64,
}
EDGEFACE = {"role": "identity", "model": "edgeface-s", "revision": "2.0", "licence": "not stated", "sha256": "e" * 64}
SCRFD = {"role": "faces", "model": "scrfd", "revision": "1.0", "licence": "research only", "sha256": "d" * 64}
CLIP = {"role": "clip", "model": "hf:openai/clip-vit-large-patch14", "revision": "c0", "licence": "MIT", "sha256": None}


def _metric(family: str, axis: str, models: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
    told = {
        "family": family,
        "summary": f"invented {family}",
        "paper": None,
        "unit": "1",
        "bounds": [0.0, 1.0],
        "better": "higher",
        "axis": axis,
        "per": "sample",
        "settings": {},
        "measures": {},
        "models": models,
        "fingerprint": hashlib.sha256(family.encode()).hexdigest()[:16],
    }
    return {**told, **more}


METRICS: dict[str, dict[str, Any]] = {
    "facesim/arcface-mbf": _metric("facesim", "identity", [SCRFD, ARCFACE], unit="cosine", bounds=[-1.0, 1.0]),
    "facesim/edgeface-s": _metric("facesim", "identity", [SCRFD, EDGEFACE], unit="cosine", bounds=[-1.0, 1.0]),
    "face_found": _metric("face_found", "quality", [SCRFD]),
    "clip_t/vit-l-14@raw": _metric("clip_t", "prompt", [CLIP], unit="cosine", bounds=[-1.0, 1.0]),
    "quality": _metric("quality", "quality", []),
    "copy_paste/arcface-mbf": _metric("copy_paste", "copying", [SCRFD, ARCFACE], better="lower"),
    "diversity/arcface-mbf": _metric("diversity", "identity", [ARCFACE], per="identity"),
    "seconds": _metric("seconds", "cost", [], unit="s", bounds=[0.0, None], better="lower"),
    "kid": _metric("kid", "quality", [CLIP], per="set", bounds=[None, None], better="lower"),
}
MEANS: dict[str, dict[str, float]] = {
    #            facesim, facesim 2, clip_t, quality, copy_paste, diversity, seconds, kid
    "strong": dict(zip(METRICS, (0.62, 0.55, 1.0, 0.30, 0.70, 0.20, 0.40, 4.0, 0.010), strict=True)),
    "weak": dict(zip(METRICS, (0.50, 0.45, 1.0, 0.33, 0.70, 0.15, 0.45, 2.0, 0.020), strict=True)),
    "twin": dict(zip(METRICS, (0.50, 0.45, 1.0, 0.33, 0.65, 0.15, 0.45, 2.0, 0.021), strict=True)),
    "copy": dict(zip(METRICS, (0.98, 0.97, 1.0, 0.20, 0.75, 0.95, 0.02, 0.01, 0.005), strict=True)),
    "text-only": dict(zip(METRICS, (0.05, 0.05, 1.0, 0.34, 0.75, 0.01, 0.60, 1.5, 0.030), strict=True)),
}
CATEGORIES = ("Style", "Action", "Scene & <light>")
EXPRESSIONS = ("happy", "sad")
AGES = ("young", "middle", "old")
NO_FACE = "no face in the image"


@dataclass(frozen=True)
class Made:
    """What the benchmark is made with; defaults make 8 identities x 6 prompts of 5 methods."""

    identities: int = 8
    prompts: int = 6
    means: Mapping[str, Mapping[str, float]] = field(default_factory=lambda: MEANS)
    """Method -> metric -> mean that the scores scatter round."""
    of_identity: float = 0.08
    """Standard deviation between identities, shared by all methods."""
    of_sample: float = 0.05
    """Standard deviation of single samples, of each method alone."""
    no_face: Mapping[str, float] = field(default_factory=lambda: {"weak": 0.1})
    """Method -> share of its images that show no face: face scores are missing there, and `face_found` is 0."""
    rejected: Mapping[str, int] = field(default_factory=lambda: {"weak": 2})
    """Method -> number of requests that gave no image."""
    seed: int = 0
    images: bool = True
    updated: str = "2026-01-02T03:04:05+00:00"


def build(folder: Path, made: Made | None = None) -> Path:
    """Write the benchmark and return its folder."""
    made = made or Made()
    folder.mkdir(parents=True, exist_ok=True)
    requests = _requests(folder, made)
    rows, scores = [], []
    shared = np.random.default_rng(made.seed)
    people = {one["identity"]: shared.normal(0, made.of_identity) for one in requests}
    for method in made.means:
        own = np.random.default_rng([made.seed, int(hashlib.sha256(method.encode()).hexdigest()[:8], 16)])
        mine = [_sample(folder, request, method, k, made, own) for k, request in enumerate(requests)]
        rows += mine
        scores += _scores(mine, method, made, people, own)
    schema = pa.schema([*samples.SCHEMA, pa.field("suite", pa.string()), pa.field("method", pa.string())])
    pq.write_table(pa.Table.from_pylist(rows, schema), folder / "samples.parquet")
    pq.write_table(pa.Table.from_pylist(scores, scoring.SCHEMA), folder / "scores.parquet")
    (folder / "bench.json").write_text(json.dumps(manifest(made, rows), indent=1), "utf-8")
    (folder / "suite.yaml").write_text(f"name: {SUITE}\nsummary: invented scores\n", "utf-8")
    return folder


def _requests(folder: Path, made: Made) -> list[dict[str, Any]]:
    found = []
    for person, prompt in product(range(made.identities), range(made.prompts)):
        identity = f"person {person:02d}"
        expression = EXPRESSIONS[prompt % len(EXPRESSIONS)]
        slices = {
            "category": CATEGORIES[prompt % len(CATEGORIES)],
            "expression": expression,
            "age": AGES[person % len(AGES)],
        }
        reference = folder / "people" / f"{identity}.png"
        if made.images and not reference.exists():
            _draw(reference, person, 0.0, "ref")
        found.append(
            {
                "id": hashlib.sha256(f"{identity} {prompt}".encode()).hexdigest()[:32],
                "references": [str(reference)],
                "people": [identity],
                "identity": identity,
                "prompt": f"a {expression} person, scene {prompt}",
                "seed": prompt,
                "slices": json.dumps(slices, sort_keys=True),
                "targets": json.dumps({"expression": [expression]}),
            }
        )
    return sorted(found, key=lambda row: row["id"])


def _sample(
    folder: Path, request: Mapping[str, Any], method: str, k: int, made: Made, rng: np.random.Generator
) -> dict[str, Any]:
    lost = k < made.rejected.get(method, 0)
    media = f"methods/{method}/media/{request['id'][:2]}/{request['id'][2:]}.png"
    if made.images and not lost:
        person = int(request["identity"].split()[-1])
        _draw(folder / media, person, rng.uniform(-4, 4), method)
    return {
        **request,
        "media": None if lost else media,
        "outcome": "rejected" if lost else samples.MADE,
        "why": "nsfw: the image was judged unfit" if lost else None,
        "seconds": None if lost else made.means[method]["seconds"],
        "peak_memory": None,
        "nsfw": 0.9 if lost else 0.01,
        "suite": SUITE,
        "method": method,
    }


def _scores(
    rows: list[dict[str, Any]],
    method: str,
    made: Made,
    people: Mapping[str, float],
    rng: np.random.Generator,
) -> list[dict[str, Any]]:
    found = []
    fixed = {"suite": SUITE, "profile": PROFILE, "method": method}
    for row in rows:
        faceless = bool(rng.random() < made.no_face.get(method, 0))
        told = {**fixed, "sample": row["id"], **{key: row[key] for key in ("identity", "prompt", "seed", "slices")}}
        for name, metric in METRICS.items():
            noise = people[row["identity"]] + rng.normal(0, made.of_sample)
            if metric["per"] != "sample":
                continue
            missing = None
            if row["outcome"] != samples.MADE:
                missing = f"no image: {row['why']}"
            elif faceless and SCRFD in metric["models"] and name != "face_found":
                missing = NO_FACE
            value = _bounded(made.means[method][name] + noise, metric)
            value = float(not faceless) if name == "face_found" else value
            found.append({**told, "metric": name, "value": None if missing else value, "missing": missing})
    for name, identity in product((one for one in METRICS if METRICS[one]["per"] == "identity"), people):
        value = _bounded(made.means[method][name] + people[identity] + rng.normal(0, made.of_sample), METRICS[name])
        found.append({**fixed, "metric": name, "identity": identity, "value": value, "slices": "{}"})
    return found


def _bounded(value: float, metric: Mapping[str, Any]) -> float:
    low, high = metric["bounds"]
    return float(np.clip(value, low, high))


def manifest(made: Made, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """bench.json."""

    def method(name: str) -> dict[str, Any]:
        mine = [row for row in rows if row["method"] == name]
        lost = sum(row["outcome"] != samples.MADE for row in mine)
        return {
            "summary": f"invented {name}",
            "kind": name,
            "baseline": name in ("copy", "text-only"),
            "licence": "research only" if name == "strong" else "Apache-2.0",
            "conditions_on": {"strong": "ArcFace-MBF (insightface)", "copy": None}.get(name),
            "models": [{"slot": "base", "model": "hf:nobody/base", "revision": None, "licence": "Apache-2.0"}],
            "state": "scored",
            "why": None,
            "requested": len(mine),
            "made": len(mine) - lost,
            "rejected": lost,
            "errors": 0,
            "reasons": {"nsfw": lost} if lost else {},
            "settings": {"steps": 4},
        }

    absent = {"state": "cannot", "why": "hf:nobody/large is not on this machine", "requested": 0, "made": 0}
    failed = {"state": "failed", "why": "out of memory on every image", "made": 0, "errors": 48, "rejected": 0}
    return {
        "idtool": "0.1.0",
        "format": 1,
        "suite": {
            "name": SUITE,
            "summary": "invented scores",
            "paper": None,
            "hash": "f" * 16,
            "people": 1,
            "primary": {"identity": "facesim", "prompt": "clip_t"},
        },
        "profile": PROFILE,
        "device": "cpu",
        "seed": made.seed,
        "created": "2026-01-02T00:00:00+00:00",
        "updated": made.updated,
        "methods": {
            **{name: method(name) for name in made.means},
            "absent": {**method("absent"), **absent},
            "broken": {**method("broken"), **failed, "requested": 48},
        },
        "metrics": METRICS,
        "skipped": {"expression": "the profile binds no role expression"},
        "set_scores": {
            name: {"kid": {"value": means["kid"], "std": 0.002, "n": 48, "n_real": 100, "note": ""}}
            for name, means in made.means.items()
        },
    }


def _draw(path: Path, person: int, shift: float, label: str) -> None:
    """A face of simple shapes: the skin tells who, the background which method."""
    path.parent.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256(label.encode()).digest()
    image = Image.new("RGB", (64, 64), (digest[0], digest[1], digest[2]))
    pen = ImageDraw.Draw(image)
    skin = (120 + person * 37 % 120, 90 + person * 53 % 120, 70 + person * 71 % 120)
    pen.ellipse((14 + shift, 8, 50 + shift, 58), fill=skin)
    for x in (24, 40):
        pen.ellipse((x - 3 + shift, 26, x + 3 + shift, 32), fill="black")
    pen.line((26 + shift, 46, 38 + shift, 46), fill="black", width=2)
    image.save(path)
