"""What tests of steps that make pictures share: small inputs, and rows through a step's operators."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image

from idtool.engine.apply import apply
from idtool.engine.operator import Context, Operator
from idtool.media.store import MediaStore
from idtool.run import Run
from tests.zoo.face_pack import drawn_person

FILL = {"model": "hf:tiny/flux-fill", "options": {"area": 128 * 128}}
COLUMNS = {
    "id": pa.string(),
    "kind": pa.string(),
    "media": pa.string(),
    "width": pa.int32(),
    "height": pa.int32(),
    "source": pa.string(),
    "licence": pa.string(),
    "identity_label": pa.string(),
}


def people(folder: Path) -> Path:
    """Two faces, a face that the left edge cuts, a picture of nobody and a broken file."""
    folder.mkdir()
    size = (320, 240)
    Image.fromarray(drawn_person(1, centre=(160, 120), radius=60, size=size)).save(folder / "one.png")
    Image.fromarray(drawn_person(2, centre=(150, 130), radius=55, size=size)).save(folder / "two.png")
    Image.fromarray(drawn_person(1, centre=(35, 120), radius=60, size=size)).save(folder / "cut.png")
    Image.fromarray(np.full((240, 320, 3), (60, 110, 90), np.uint8)).save(folder / "nobody.png")
    whole = (folder / "one.png").read_bytes()
    (folder / "broken.png").write_bytes(whole[: len(whole) // 2])
    return folder


def table(paths: Sequence[Path]) -> pa.Table:
    """Rows of ingest for some pictures; ids are the files' names."""
    rows = []
    for path in paths:
        width, height = Image.open(path).size
        rows.append({"id": path.stem, "kind": "image", "media": str(path), "width": width, "height": height})
    return pa.Table.from_pylist(rows, schema=pa.schema(list(COLUMNS.items())))


def through(operators: Sequence[Operator], batch: pa.Table, run_dir: Path, seed: int = 0) -> dict[str, dict[str, Any]]:
    """Rows of the operators by id."""
    for operator in operators:
        operator.setup(Context(run_dir=str(run_dir), seed=seed))
    rows = apply(operators, batch).to_pylist()
    assert len({row["id"] for row in rows}) == len(rows)
    return {row["id"]: row for row in rows}


def opened(run: Run | Path, media: str) -> np.ndarray:
    """The pixels behind a reference of a run."""
    root = run.store_root if isinstance(run, Run) else run / "media"
    return np.asarray(Image.open(MediaStore(root).path(media)).convert("RGB"))
