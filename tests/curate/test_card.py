"""The data card: its front matter, and that its figures are those of the data."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from idtool.curate import card
from idtool.curate.export import export_run
from tests.curate import fake_run


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = fake_run.make_run(tmp_path_factory.mktemp("card"))
    export_run(run)
    return run / "dataset"


@pytest.fixture(scope="module")
def text(exported: Path) -> str:
    return (exported / "README.md").read_text(encoding="utf-8")


def test_front_matter_is_yaml_that_names_every_split_in_order(text, exported):
    start, matter, _ = text.split("---\n", 2)
    content = yaml.safe_load(matter)
    assert start == ""
    files = content["configs"][0]["data_files"]
    assert [entry["split"] for entry in files] == ["train", "val"]
    for entry in files:
        assert list(exported.glob(entry["path"]))
    assert content["license"] == "other"
    assert content["size_categories"] == ["n<1K"]


def test_counts_are_those_of_the_files(text, exported):
    images: set[str] = set()
    for split in ("train", "val"):
        rows = [row for path in exported.glob(f"data/{split}-*") for row in pq.read_table(path).to_pylist()]
        found = {row[f"{side}_id"] for row in rows for side in "ab"}
        images |= found
        line = next(line for line in text.splitlines() if line.startswith(f"| {split} |"))
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        size = sum(len(row[f"{side}_image"]["bytes"]) for row in rows for side in "ab")
        assert cells[2:] == [str(len(rows)), str(len({row["identity"] for row in rows})), str(len(found)), str(size)]
    assert f"from {len(images)} images" in text


def test_provenance_counts_each_image_once(text, exported):
    rows = [row for path in exported.glob("data/*") for row in pq.read_table(path).to_pylist()]
    licences = {row[f"{side}_id"]: row[f"{side}_licence"] for row in rows for side in "ab"}
    count = Counter(licences.values())
    assert f"| archive | CC-BY-4.0 | not stated | {count['CC-BY-4.0']} |" in text
    assert f"| archive | not stated | not stated | {count[None]} |" in text


def test_thresholds_models_gaps_and_removal_are_told(text):
    for words in (
        "| gate | resolution.short_side.min | 200 |",
        "| faces | drawn-faces | 1.0 | MIT | measure.2, pair |",
        "animate: needs role i2v",
        "(in part): measure `aesthetic` needs role aesthetic",
        'idtool export RUN --remove-identity "NAME" --output DIR',
        "## Intended use",
        "## Limitations",
        "| `a_yaw`, `b_yaw` | float32 | deg | head yaw |",
        "| `a_face_box`, `b_face_box` | 4 x float32 | px | face box xyxy |",
        "| `a_image`, `b_image` | image |",
    ):
        assert words in text
    assert "resolution.short_side.max" not in text, "a bound that is null is no threshold"


def test_a_skipped_gate_is_no_threshold_and_the_export_under_way_is_no_gap(exported):
    manifest = fake_run.manifest(exported.parent)
    gate = next(entry for entry in manifest["steps"] if entry["name"] == "gate")
    gate["notes"] = ["gate resolution.short_side is skipped: nobody measured it"]
    manifest["steps"].append({"index": 99, "name": "export", "kind": "export", "state": "pending", "notes": []})
    manifest["sample"] = True
    tally = card.Tally(["train"])
    tally.add(
        "train", {"identity": "p", "a_id": "1", "b_id": "2"}, {key: {"bytes": b""} for key in ["a_image", "b_image"]}
    )
    text = card.render(manifest, tally, pa.schema([]), {"train": 1.0})
    assert "resolution.short_side is skipped: nobody measured it" in text
    assert "resolution.short_side.min" not in text
    assert "not finished" not in text
    assert "- export" not in text
    assert "built-in sample" in text


def test_one_known_licence_is_named_in_the_front_matter():
    tally = card.Tally(["train"])
    row = {"identity": "p", "a_id": "1", "b_id": "2", **{f"{s}_licence": "CC-BY-4.0" for s in "ab"}}
    tally.add("train", row, {"a_image": {"bytes": b"12"}, "b_image": {"bytes": b"345"}})
    assert yaml.safe_load(card.front_matter(tally).strip("-\n"))["license"] == "cc-by-4.0"
    assert tally.statistics()["splits"]["train"] == {"pairs": 1, "identities": 1, "images": 2, "bytes": 5}


@pytest.mark.parametrize(
    ("rows", "name"),
    [(999, "n<1K"), (1000, "1K<n<10K"), (999_999, "100K<n<1M"), (1_000_000, "1M<n<10M"), (10**8, "n>10M")],
)
def test_size_categories_follow_the_hub(rows, name):
    assert card.size_category(rows) == name


def test_cells_cannot_break_the_table():
    assert card.cell("a|b\n<script>") == "a\\|b &lt;script>"
    assert card.cell(None) == "–"
    assert card.cell(0.1) == "0.1"


def test_inputs_are_named_without_local_folders_or_passwords():
    assert card.public_name("/home/someone/photos/") == "photos"
    assert card.public_name("s3://key:word@bucket/faces") == "s3://bucket/faces"


def test_columns_without_metadata_are_listed_too():
    assert card.describe_columns(pa.schema([pa.field("x", pa.list_(pa.float64()))])) == [
        {"name": "`x`", "type": "list of float64", "unit": "", "doc": ""}
    ]
