"""A small run directory, made by hand as the engine would: drawn faces, invented measures, real gates on them."""

from __future__ import annotations

import hashlib
import io
import json
import random
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image, ImageDraw

from idtool.engine.operator import OUTCOME
from idtool.engine.table import write_table
from idtool.manifest_folder import write_json
from idtool.media.store import MediaStore
from idtool.run import REJECT_COLUMNS, Run

Row = dict[str, Any]
PEOPLE = ("ada", "ben", "chloé", "dmitri", "eve | <b>", "fay")


def _field(name: str, kind: pa.DataType, doc: str, unit: str = "") -> pa.Field:
    return pa.field(name, kind, metadata={"doc": doc, "unit": unit})


S, I32, I64, F32, F64 = pa.string(), pa.int32(), pa.int64(), pa.float32(), pa.float64()
LISTING = [
    _field("id", S, "content id"),
    _field("uri", S, "where the file came from"),
    _field("name", S, "file name"),
    _field("group", S, "folder inside the input"),
    _field("identity_label", S, "identity as given"),
    _field("source", S, "who published it"),
    _field("licence", S, "licence of the image"),
    _field("consent", S, "consent of the person"),
]
INGEST = [
    _field("kind", S, "image or video"),
    _field("media", S, "reference to the bytes"),
    _field("format", S, "sniffed format"),
    _field("width", I32, "width", "px"),
    _field("height", I32, "height", "px"),
    _field("short_side", I32, "shorter side", "px"),
    _field("parent", S, "id of the video"),
    _field("origin", S, "photo, video or frame"),
]
FRAMES = [_field("time_ms", I64, "time in the video", "ms"), _field("shot", I32, "number of the shot")]
PIXELS = [_field("sharpness", F32, "Laplacian variance"), _field("brightness", F32, "mean luma", "[0,1]")]
FACES = [
    _field("faces", I32, "number of faces"),
    _field("face_score", F32, "detector score", "[0,1]"),
    _field("face_box", pa.list_(F32, 4), "face box xyxy", "px"),
    _field("yaw", F32, "head yaw", "deg"),
    _field("embedding", pa.list_(F32, 4), "identity embedding"),
    _field("nsfw", F32, "NSFW score", "[0,1]"),
]
IDENTIFY = [_field("identity", S, "identity"), _field("identity_how", S, "how"), _field("identity_sim", F32, "cosine")]
PAIR = [
    _field("similarity", F32, "cosine of the two embeddings"),
    _field("d_yaw", F32, "yaw difference", "deg"),
    _field("face_correlation", F32, "correlation of the two face thumbs"),
]
CAPTION = [_field(f"{s}_{c}", S, f"{c} of image {s}") for s in "ab" for c in ("caption", "background")] + [
    _field("caption_by", S, "template or model")
]
GATES: dict[str, dict[str, Any]] = {
    "gate": {"resolution": {"short_side": {"min": 200, "max": None}}},
    "gate.2": {"clarity": {"sharpness": {"min": 20.0}}, "exposure": {"brightness": {"min": 0.1, "max": 0.9}}},
    "gate.3": {
        "one_face": {"faces": {"equals": 1}},
        "face": {"face_score": {"min": 0.6}},
        "pose": {"yaw": {"abs_max": 60.0}},
        "nsfw": {"nsfw": {"max": 0.5}},
    },
}
PAIRING = {
    "branches": {
        "frames": {"similarity": {"min": 0.8, "max": 0.98}},
        "photos": {"similarity": {"min": 0.4, "max": 0.98}},
    },
    "copy": {"face_correlation": {"max": 0.95}},
    "difference": {"yaw": 6.0},
    "per_identity": 20,
}
MODELS = [{"role": "faces", "model": "drawn-faces", "revision": "1.0", "licence": "MIT", "sha256": "ab" * 32}]


def draw(seed: int, size: tuple[int, int] = (320, 400)) -> Image.Image:
    """A face-like drawing on a gradient with noise."""
    rng = np.random.default_rng(seed)
    width, height = size
    slope = np.linspace(0, 1, width)[None, :, None] * rng.integers(40, 120, 3) + rng.integers(30, 120, 3)
    pixels = np.broadcast_to(slope, (height, width, 3)) + rng.normal(0, 6, (height, width, 3))
    image = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
    pen = ImageDraw.Draw(image)
    w, h = width, height
    skin = tuple(int(v) for v in rng.integers(120, 230, 3))
    pen.ellipse((w * 0.3, h * 0.2, w * 0.7, h * 0.75), fill=skin)
    for x in (0.41, 0.59):
        pen.ellipse((w * (x - 0.04), h * 0.4, w * (x + 0.04), h * 0.44), fill=(20, 20, 30))
    pen.arc((w * 0.41, h * 0.5, w * 0.59, h * 0.65), 20, 160, fill=(150, 30, 40), width=max(1, w // 80))
    return image


def _encoded(image: Image.Image, kind: str = "JPEG", **options: Any) -> bytes:
    sink = io.BytesIO()
    image.save(sink, kind, **options)
    return sink.getvalue()


def content_id(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:32]


class Builder:
    """Adds step after step; every step's kept rows go into the next."""

    def __init__(self, root: Path, seed: int) -> None:
        self.run = Run.create(root)
        self.entries: list[Row] = []
        self.seed = seed
        self.run.save(
            idtool="0.1.0", recipe="dmid", profile="offline", profile_reason="no CUDA device here", seed=seed,
            device="cpu", engine="local", inputs=[str(root.parent / "input")], command="idtool curate --recipe dmid",
        )  # fmt: skip

    def step(self, name: str, fields: list[pa.Field], rows: list[Row], rows_in: int, **entry: Any) -> list[Row]:
        index = len(self.entries) + 1
        schema = pa.schema([*fields, *OUTCOME, pa.field("input_id", S)])
        rows = sorted(
            ({"status": "kept", **row, "input_id": row.get("parent") or row["id"]} for row in rows),
            key=lambda r: r["id"],
        )
        folder = self.run.step_dir(index, name)
        table = pa.Table.from_pylist(rows, schema=schema)
        write_table(folder / "table", [table] if rows else [], schema)
        lost = table.filter(pa.array([row["status"] != "kept" for row in rows], pa.bool_()))
        lost = lost.select([column for column in REJECT_COLUMNS if column in lost.column_names])
        path = self.run.path / "rejects" / f"{index:02d}-{name}.parquet"
        path.parent.mkdir(exist_ok=True)
        pq.write_table(lost.append_column("step", pa.array([name] * lost.num_rows, S)), path)
        status = Counter(row["status"] for row in rows)
        reasons = Counter(row["reason"] for row in rows if row["status"] != "kept")
        done = {
            "index": index, "name": name, "kind": name.split(".")[0], "summary": f"The {name} step.", "state": "done",
            "fingerprint": f"f{index}", "content": f"c{index}", "digest": f"d{index}", "rows_in": rows_in,
            "kept": status["kept"], "rejected": status["rejected"], "errors": status["error"],
            "reasons": dict(reasons.most_common()), "seconds": 0.5 * index, "started": "2026-01-01T00:00:00+00:00",
            "notes": [], "models": [], "statistics": {}, "own": {"kind": name.split(".")[0], "settings": {}}, **entry,
        }  # fmt: skip
        write_json(folder / "step.json", done)
        self._add(done)
        return [{k: v for k, v in row.items() if k not in OUTCOME.names} for row in rows if row["status"] == "kept"]

    def skip(self, name: str, why: str) -> None:
        self._add(
            {"index": len(self.entries) + 1, "name": name, "kind": name, "state": "skipped", "skipped_because": why}
        )

    def _add(self, entry: Row) -> None:
        self.entries.append(entry)
        self.run.save(steps=self.entries)


def gate(rows: list[Row], gates: dict[str, Any]) -> list[Row]:
    """Brute-force gates: the first failing bound is the reason."""
    return [{**row, **(failure(row, gates) or {})} for row in rows]


def failure(row: Row, gates: dict[str, Any]) -> Row | None:
    for name, columns in gates.items():
        for column, bounds in columns.items():
            value = row[column]
            for bound, limit in bounds.items():
                if limit is not None and not holds(value, bound, limit):
                    sign = {"min": ">=", "max": "<=", "abs_max": "|x| <=", "equals": "=="}[bound]
                    return {
                        "status": "rejected", "reason": f"{name}.{column}", "threshold": f"{sign} {limit:g}",
                        "value": None if value is None else float(value), "message": "",
                    }  # fmt: skip
    return None


def holds(value: float | None, bound: str, limit: float) -> bool:
    if value is None:
        return False
    return {"min": value >= limit, "max": value <= limit, "abs_max": abs(value) <= limit, "equals": value == limit}[
        bound
    ]


def make_run(root: Path, *, photos: int = 4, frames: int = 4, seed: int = 0) -> Path:
    """A finished run up to `caption`, of six people with `photos` photos each, one video of a seventh, and failures
    of every kind. Returns the run directory."""
    rng = random.Random(seed)
    source = root / "input"
    build = Builder(root / "run", seed)
    rows: list[Row] = []

    def photo(group: str, name: str, data: bytes, size: tuple[int, int], **more: Any) -> None:
        path = source / group / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        rows.append(
            {
                "id": content_id(data),
                "uri": str(path),
                "name": name,
                "group": group,
                "identity_label": group or None,
                "source": "archive",
                "licence": "CC-BY-4.0" if len(rows) % 3 else None,
                "consent": None,
                "kind": "image",
                "media": str(path),
                "format": "jpeg",
                "width": size[0],
                "height": size[1],
                "short_side": min(size),
                "origin": "photo",
                **more,
            }
        )

    for person, group in enumerate(PEOPLE):
        for number in range(photos):
            image = draw(100 * person + number + seed)
            kind, ending = (("JPEG", "jpg"), ("PNG", "png"), ("WEBP", "webp"))[number % 3]
            photo(
                group.replace("|", "-"), f"{number} é.{ending}", _encoded(image, kind), image.size, identity_label=group
            )
    turned = draw(7)
    exif = Image.Exif()
    exif[0x0112] = 6
    photo("ada", "turned.jpg", _encoded(turned.rotate(90, expand=True), exif=exif), turned.size)
    small = draw(8, (90, 120))
    photo("", "small.jpg", _encoded(small), small.size)
    broken = source / "broken.jpg"
    broken.write_bytes(b"not an image at all")
    video_id = content_id(b"video")
    video = {
        "id": video_id, "uri": "https://user:secret@example.org/clips/walk.mp4", "name": "walk.mp4", "group": "clips",
        "kind": "video", "media": str(source / "clips" / "walk.mp4"), "format": "mp4", "width": 320, "height": 400,
        "short_side": 320, "origin": "video",
    }  # fmt: skip
    unreadable = {
        "id": content_id(broken.read_bytes()), "uri": str(broken), "name": broken.name, "group": "",
        "media": str(broken), "status": "rejected", "reason": "unreadable", "message": "no known image or video format",
    }  # fmt: skip
    fields = [*LISTING, *INGEST]
    kept = build.step("ingest", fields, [*rows, video, unreadable], len(rows) + 2)
    build.skip("animate", "needs role i2v; profile 'offline' binds none")

    stills = [row for row in kept if row["kind"] == "image"]
    store = MediaStore(build.run.store_root)
    for number in range(frames):
        time = number * 400
        data = _encoded(draw(9000 + number))
        stills.append(
            {
                **video,
                "id": f"{video_id}-{time:09d}",
                "parent": video_id,
                "kind": "image",
                "origin": "frame",
                "media": store.put(data, ".jpg"),
                "time_ms": time,
                "shot": 0,
            }
        )
    fields += FRAMES
    kept = build.step("frames", fields, stills, len(kept))

    def gated(name: str, rows_in: list[Row]) -> list[Row]:
        own = {"kind": "gate", "settings": GATES[name]}
        return build.step(name, fields, gate(rows_in, GATES[name]), len(rows_in), own=own)

    kept = gated("gate", kept)
    fields += PIXELS
    for row in kept:
        row |= {
            "sharpness": np.float32(rng.uniform(15, 90)).item(),
            "brightness": np.float32(rng.uniform(0.2, 0.85)).item(),
        }
    kept = gated("gate.2", build.step("measure", fields, kept, len(kept)))
    fields += FACES
    for row in kept:
        some = rng.random() > 0.04
        row |= {
            "faces": 1 if some else 0, "face_score": rng.uniform(0.55, 0.99) if some else None,
            "face_box": [96.0, 80.0, 224.0, 300.0] if some else None, "yaw": rng.uniform(-70, 70) if some else None,
            "embedding": [1.0, 0.0, 0.0, 0.0], "nsfw": rng.uniform(0, 0.55),
        }  # fmt: skip
        for column in ("face_score", "yaw", "nsfw"):
            row[column] = None if row[column] is None else np.float32(row[column]).item()
    notes = ["measure `aesthetic` needs role aesthetic; profile 'offline' binds none"]
    kept = gated("gate.3", build.step("measure.2", fields, kept, len(kept), models=MODELS, notes=notes))
    fields += IDENTIFY
    for row in kept:
        row |= {"identity": row.get("identity_label") or "walk/0", "identity_how": "folder", "identity_sim": 0.9}
    kept = build.step("identify", fields, kept, len(kept))

    carried = [field for field in fields if field.name not in ("embedding", "identity")]
    fields = [LISTING[0], IDENTIFY[0], _field("branch", S, "frames or photos"), *PAIR]
    fields += [field.with_name(f"{side}_{field.name}") for side in "ab" for field in carried]
    pairs = _pairs(kept, [field.name for field in carried], rng)
    kept_pairs = build.step("pair", fields, pairs, len(kept), own={"kind": "pair", "settings": PAIRING}, models=MODELS)
    fields += CAPTION
    for row in kept_pairs:
        row |= {f"{s}_caption": f"a portrait of a person, number {s}" for s in "ab"} | {"caption_by": "template"}
        row |= {f"{s}_background": "a plain background" for s in "ab"}
    build.step("caption", fields, kept_pairs, len(kept_pairs))
    build.run.save(updated="2026-01-01T00:01:00+00:00")
    return build.run.path


def _pairs(images: list[Row], carried: list[str], rng: random.Random) -> list[Row]:
    rows = []
    images = sorted(images, key=lambda row: row["id"])
    for i, a in enumerate(images):
        for b in images[i + 1 :]:
            if a["identity"] != b["identity"]:
                continue
            frames = a["origin"] == "frame"
            similarity = np.float32(rng.uniform(0.75, 0.995) if frames else rng.uniform(0.35, 0.995)).item()
            low = 0.8 if frames else 0.4
            row = {
                "id": f"{a['id']}~{b['id']}", "identity": a["identity"], "branch": "frames" if frames else "photos",
                "similarity": similarity, "d_yaw": abs(a["yaw"] - b["yaw"]), "face_correlation": rng.uniform(0, 0.9),
                **{f"{s}_{c}": image.get(c) for s, image in (("a", a), ("b", b)) for c in carried},
            }  # fmt: skip
            if similarity < low:
                row |= {
                    "status": "rejected",
                    "reason": "pair.similarity.low",
                    "value": similarity,
                    "threshold": f">= {low}",
                }
            elif similarity > 0.98:
                row |= {
                    "status": "rejected",
                    "reason": "pair.similarity.high",
                    "value": similarity,
                    "threshold": "<= 0.98",
                }
            elif row["d_yaw"] < 6:
                row |= {"status": "rejected", "reason": "pair.difference", "value": row["d_yaw"], "threshold": ">= 6"}
            rows.append(row)
    return rows


def manifest(run: Path) -> Row:
    content: Row = json.loads((run / "run.json").read_text(encoding="utf-8"))
    return content
