"""`idtool curate --recipe fgid` on real photos with the offline networks: what a person would expect to see."""

from __future__ import annotations

import json
import shutil
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from idtool.models.parts import REGIONS
from tests.acceptance.runs import idtool

pytestmark = [pytest.mark.offline_weights, pytest.mark.fixtures]

GLASSES, LONG_HAIR, MANY = "xverse_17_man.jpg", "rihanna.webp", "kit_rose.jpg"
WHY = "needs role captioner; profile offline binds none"


@pytest.fixture(scope="module")
def run(fixtures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fgid")
    shutil.copytree(fixtures / "identities" / "obama", folder / "in" / "obama")
    for source in (fixtures / "singles" / GLASSES, fixtures / "singles" / LONG_HAIR, fixtures / "groups" / MANY):
        shutil.copy(source, folder / "in")
    command = ["curate", "--recipe", "fgid", "--profile", "offline", "--engine", "local", "--json"]
    result = idtool(*command, "--input", folder / "in", "--output", folder / "run")
    assert result.exit_code == 0, result.output
    steps = {step["name"]: step for step in json.loads(result.stdout)["steps"]}
    assert steps["gate.3"]["reasons"] == {"one_face.faces": 1}
    assert steps["describe"]["skipped_because"] == WHY
    return folder / "run"


@pytest.fixture(scope="module")
def rows(run: Path) -> dict[str, dict[str, Any]]:
    found = {}
    for path in sorted((run / "dataset" / "data").glob("*.parquet")):
        for row in pq.read_table(path).to_pylist():
            found[row["name"]] = {**row, "split": path.name.split("-")[0]}
    return found


def test_one_record_of_every_face_and_people_in_one_split_each(rows: dict[str, dict[str, Any]]) -> None:
    assert len(rows) == 7 and MANY not in rows
    splits = defaultdict(set)
    for row in rows.values():
        splits[row["identity"]].add(row["split"])
        assert np.linalg.norm(row["embedding"]) == pytest.approx(1, abs=1e-5) and len(row["embedding"]) == 512
    assert len(splits) == 3 and all(len(found) == 1 for found in splits.values())
    assert len({row["identity"] for name, row in rows.items() if name not in (GLASSES, LONG_HAIR)}) == 1


def test_what_is_hidden_is_not_visible(rows: dict[str, dict[str, Any]]) -> None:
    hidden = {name: [region for region in REGIONS if not row[f"{region}_visible"]] for name, row in rows.items()}
    assert hidden == {**{name: [] for name in rows}, GLASSES: ["eyes"], LONG_HAIR: ["ears"]}
    for row in rows.values():
        for region in REGIONS:
            assert (row[f"{region}_mask"] is None) == (row[f"{region}_crop"] is None) == (region in hidden[row["name"]])


def test_captions_that_nobody_wrote_say_why(rows: dict[str, dict[str, Any]], run: Path) -> None:
    for row in rows.values():
        assert (row["caption"], row["caption_reason"], row["face_caption_reason"]) == (None, WHY, WHY)
    assert WHY in (run / "report.html").read_text("utf-8")
    assert f"describe: {WHY}" in (run / "dataset" / "README.md").read_text("utf-8")


def test_datasets_opens_it(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")
    datasets = pytest.importorskip("datasets")
    loaded = datasets.load_dataset(str(run / "dataset"), cache_dir=str(tmp_path))
    row = next(row for split in loaded.values() for row in split if row["name"] == GLASSES)
    assert row["region_frame"].size == row["region_labels"].size == row["face_crop"].size == (512, 512)
    assert row["image"].size == (544, 544) and row["eyes_crop"] is None
    face, mask = np.asarray(row["face_crop"]), np.asarray(row["face_mask"]) > 0
    assert (face == np.asarray(row["region_frame"]) * mask[..., None]).all()
