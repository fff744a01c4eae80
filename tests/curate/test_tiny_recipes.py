"""The recipes from their inputs to their data sets on the tiny profile, through the command line."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from idtool.curate.export import export_run
from idtool.curate.record_files import read
from idtool.models.parts import REGIONS
from idtool.run import Run
from tests.acceptance.runs import idtool
from tests.zoo import Zoo
from tests.zoo.face_pack import drawn_person
from tests.zoo.profile import tiny_pipelines

FGID = ("faces", "identity", "pose", "attributes", "parser", "captioner")
DMID = ("faces", "identity", "captioner", "aesthetic")
SHORT = ("min_words=1", "max_tokens=6", "batch=2")


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two drawn people, three pictures each, a picture of nobody and a broken file."""
    folder = tmp_path_factory.mktemp("people")
    for person in range(2):
        for shot in range(3):
            path = folder / f"p{person}" / f"{shot}.png"
            path.parent.mkdir(exist_ok=True)
            Image.fromarray(drawn_person(person, shot)).save(path)
    Image.fromarray(np.full((480, 640, 3), (60, 110, 90), np.uint8)).save(folder / "nobody.png")
    (folder / "broken.jpg").write_bytes(b"\xff\xd8\xff no picture")
    return folder


def curate(recipe: str, config: Path, output: Path, inputs: Path, sets: Iterable[str]) -> dict[str, Any]:
    options = [part for value in sets for part in ("--set", value)]
    command = ["curate", "--recipe", recipe, "--profile", "tiny", "--config", config, "--output", output]
    result = idtool(*command, "--input", inputs, "--engine", "local", *options, "--json")
    assert result.exit_code == 0, result.output
    answer: dict[str, Any] = json.loads(result.stdout)
    return answer


def rows_of(folder: Path) -> list[dict[str, Any]]:
    return [row for path in sorted((folder / "data").glob("*.parquet")) for row in pq.read_table(path).to_pylist()]


def test_fgid_makes_one_record_of_every_face(tiny: Zoo, people: Path, tmp_path: Path) -> None:
    config = tiny_pipelines(tmp_path, tiny, *FGID)
    sets = ["gate.3.face.face_score.min=0.3", "gate.2.clarity.sharpness.min=null", "records.files=true"]
    answer = curate("fgid", config, tmp_path / "run", people, [*sets, *(f"describe.{one}" for one in SHORT)])
    steps = {step["name"]: step for step in answer["steps"]}
    assert steps["ingest"]["reasons"] == {"unreadable": 1}
    assert steps["gate.3"]["reasons"] == {"one_face.faces": 1}
    assert steps["records"]["kept"] == 6 and steps["describe"]["state"] == "done"
    rows = rows_of(tmp_path / "run" / "dataset")
    assert {(row["identity"], row["uri"].split("/")[0]) for row in rows} == {("p0", "p0"), ("p1", "p1")}
    for row in rows:
        assert len(row["embedding"]) > 1 and row["age"] is not None and row["caption_by"] == "hf:tiny/qwen2-vl"
        assert (row["caption"] is None) == (row["caption_reason"] is not None)
        for region in REGIONS:
            assert (
                row[f"{region}_visible"] == (row[f"{region}_mask"] is not None) == (row[f"{region}_crop"] is not None)
            )
    files = [read(path) for path in (tmp_path / "run" / "dataset" / "json").glob("*/*.json")]
    assert {row["id"] for row in files} == {row["id"] for row in rows}
    models = {model["role"]: model for step in Run(tmp_path / "run").steps for model in step["models"]}
    assert set(models) == {"faces", "identity", "attributes", "parser", "captioner"}
    assert all(len(model["sha256"]) == 64 for model in models.values())
    report = (tmp_path / "run" / "report.html").read_text("utf-8")
    assert "6 records of 2 people from 8 inputs" in report and "hf:tiny/qwen2-vl" in report
    result = export_run(tmp_path / "run", tmp_path / "less", remove_identity=("p0",))
    assert (result["records"], result["removed"]) == (3, 3)


def test_dmid_gates_by_aesthetics_and_captions_by_the_model(tiny: Zoo, people: Path, tmp_path: Path) -> None:
    config = tiny_pipelines(tmp_path, tiny, *DMID)
    sets = [
        "gate.resolution.short_side.min=200",
        "gate.2.clarity.sharpness.min=null",
        "gate.3.face.face_score.min=0.3",
        "gate.3.face.face_share.min=0.01",
        "gate.3.aesthetic.aesthetic.min=-100",
        "pair.branches.photos.similarity.max=null",
        "pair.branches.photos.similarity.min=-1",
        "pair.copy.face_correlation.max=null",
        "pair.difference={yaw: null, pitch: null, expression: null, time_ms: null}",
        "pair.per_identity=2",
        *(f"caption.{one}" for one in SHORT),
    ]
    answer = curate("dmid", config, tmp_path / "run", people, sets)
    entries = {step["name"]: step for step in Run(tmp_path / "run").steps}
    models = {model["role"]: model for model in entries["measure.2"]["models"]}
    assert set(models) == {"faces", "identity", "aesthetic"}
    assert models["aesthetic"]["backbone"]["model"] == "hf:tiny/siglip" and models["aesthetic"]["backbone"]["sha256"]
    scores = Run(tmp_path / "run").step_table("gate.3").read(["aesthetic", "status", "reason"]).to_pylist()
    assert all(row["aesthetic"] is not None for row in scores)
    assert [model["model"] for model in entries["caption"]["models"]] == ["hf:tiny/qwen2-vl"]
    pairs = rows_of(tmp_path / "run" / "dataset")
    assert answer["dataset"] and pairs and {row["caption_by"] for row in pairs} == {"hf:tiny/qwen2-vl"}
    for row in pairs:
        for name in ("a_caption", "b_caption", "a_background", "b_background"):
            assert (row[name] is None) == (row[f"{name}_reason"] is not None)
    low = min(row["aesthetic"] for row in scores if row["status"] == "kept")
    strict = [*sets, f"gate.3.aesthetic.aesthetic.min={low + 1e-6}"]
    again = curate("dmid", config, tmp_path / "run", people, strict)
    gated = next(step for step in again["steps"] if step["name"] == "gate.3")
    assert gated["reasons"]["aesthetic.aesthetic"] >= 1
