"""Explaining one sample: images kept and rejected, frames, videos, pairs, copies, and names that fit nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from idtool.curate.explain import explain
from idtool.errors import UsageError
from idtool.run import Run
from tests.curate import fake_run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fake_run.make_run(tmp_path_factory.mktemp("explain"))


def rows(run: Path, step: str) -> list[dict]:
    return Run(run).step_table(step).read().to_pylist()


def test_a_kept_photo_with_its_measures_checks_identity_and_pairs(run):
    image = next(row for row in rows(run, "identify") if row["name"] == "turned.jpg")
    story = explain(run, "turned.jpg")
    assert story["id"] == image["id"]
    assert story["what"] == "image"
    assert story["verdict"] == "kept up to identify"
    assert [part["step"] for part in story["steps"]] == [
        "ingest", "frames", "gate", "measure", "gate.2", "measure.2", "gate.3", "identify"
    ]  # fmt: skip
    measured = {key: value for part in story["steps"] for key, value in part["measured"].items()}
    assert measured["sharpness"] == pytest.approx(image["sharpness"], rel=1e-5)
    assert story["steps"][5]["units"]["yaw"] == "deg"
    checks = {(check["gate"], check["column"]): check for part in story["steps"] for check in part.get("checks", [])}
    assert len(checks) == 7
    assert checks["pose", "yaw"]["threshold"] == "|x| <= 60"
    assert all(check["passes"] for check in checks.values())
    assert story["identity"]["identity"] == "ada"
    mine = {row["id"]: row for row in rows(run, "pair") if image["id"] in (row["a_id"], row["b_id"])}
    assert {pair["id"] for pair in story["pairs"]["listed"]} == set(mine)
    for pair in story["pairs"]["listed"]:
        assert image["id"] != pair["with"]
        assert pair["with"] in pair["id"]
        assert pair["status"] == mine[pair["id"]]["status"]
    json.dumps(story, allow_nan=False)


def test_a_rejected_row_shows_every_check_not_only_the_first_that_failed(run, tmp_path):
    rejected = next(row for row in rows(run, "gate.3") if row["reason"] == "pose.yaw")
    table = Run(run).step_table("gate.3")
    original = table.files[0].read_bytes()
    content = table.read()
    nsfw = [
        0.9 if row == rejected["id"] else value
        for row, value in zip(content["id"].to_pylist(), content["nsfw"].to_pylist(), strict=True)
    ]
    pq.write_table(
        content.set_column(
            content.column_names.index("nsfw"), content.schema.field("nsfw"), pa.array(nsfw, pa.float32())
        ),
        table.files[0],
    )
    try:
        story = explain(run, rejected["id"])
    finally:
        table.files[0].write_bytes(original)
    last = story["steps"][-1]
    assert last["reason"] == "pose.yaw"
    assert story["verdict"].startswith("rejected in gate.3: pose.yaw")
    assert {(check["column"], check["passes"]) for check in last["checks"]} == {
        ("faces", True), ("face_score", True), ("yaw", False), ("nsfw", False)
    }  # fmt: skip
    assert story["pairs"] == {"counts": {}, "listed": []}


def test_a_frame_has_its_video_behind_it(run):
    frame = next(row for row in rows(run, "frames") if row["origin"] == "frame")
    story = explain(run, frame["id"])
    assert story["what"] == "frame"
    assert story["steps"][0]["step"] == "ingest"
    assert story["steps"][0]["id"] == frame["parent"]
    assert story["steps"][1]["id"] == frame["id"]
    assert story["steps"][1]["measured"]["time_ms"] == frame["time_ms"]


@pytest.mark.parametrize("by", ["id", "prefix", "name", "uri"])
def test_a_video_counts_what_became_of_its_frames(run, by):
    video = next(row for row in rows(run, "ingest") if row["kind"] == "video")
    story = explain(run, video["id"][:8] if by == "prefix" else video[by])
    assert story["what"] == "video"
    lost = [
        row
        for step in ("gate", "gate.2", "gate.3")
        for row in rows(run, step)
        if row["parent"] == video["id"] and row["reason"]
    ]
    assert story["children"]["frames"] == 4
    assert story["children"]["kept"] == 4 - len(lost)
    assert sum(story["children"]["reasons"].values()) == len(lost)


def test_a_pair_shows_both_images(run):
    pair = rows(run, "caption")[0]
    story = explain(run, pair["id"])
    assert story["what"] == "pair"
    assert [part["step"] for part in story["steps"]] == ["pair", "caption"]
    assert story["steps"][0]["measured"]["similarity"] == pytest.approx(pair["similarity"], rel=1e-5)
    assert set(story["steps"][1]["measured"]) == {
        "a_caption",
        "b_caption",
        "a_background",
        "b_background",
        "caption_by",
    }
    assert story["images"]["a"]["id"] == pair["a_id"]
    assert story["images"]["b"]["name"] == pair["b_name"]


def test_an_unreadable_file_is_found_by_its_path(run):
    path = next(row["uri"] for row in rows(run, "ingest") if row["name"] == "broken.jpg")
    story = explain(run, path)
    assert story["verdict"] == "rejected in ingest: unreadable (no known image or video format)"
    assert story["what"] == "file"
    assert explain(run, "input/broken.jpg")["id"] == story["id"]


def test_copies_are_told_from_the_one_that_stays(run, tmp_path):
    import shutil

    shutil.copytree(run, tmp_path / "run")
    table = Run(tmp_path / "run").step_table("ingest")
    content = table.read()
    kept = next(row for row in content.to_pylist() if row["name"] == "small.jpg")
    copy = kept | {
        "uri": "/elsewhere/copy.jpg",
        "name": "copy.jpg",
        "status": "rejected",
        "reason": "duplicate.exact",
        "message": "same bytes",
    }
    near = kept | {
        "id": "f" * 32,
        "uri": "/elsewhere/near.jpg",
        "name": "near.jpg",
        "status": "rejected",
        "reason": "duplicate.perceptual",
        "message": f"near-copy of small.jpg (id {kept['id']})",
    }
    pq.write_table(
        pa.concat_tables([content, pa.Table.from_pylist([copy, near], schema=content.schema)]), table.files[0]
    )
    story = explain(tmp_path / "run", "small.jpg")
    assert {row["name"] for row in story["duplicates"]} == {"copy.jpg", "near.jpg"}
    assert story["steps"][0]["status"] == "kept"
    assert explain(tmp_path / "run", kept["id"])["steps"][0]["status"] == "kept"
    other = explain(tmp_path / "run", "copy.jpg")
    assert other["steps"][0]["reason"] == "duplicate.exact"


def test_one_name_in_several_folders_lists_them(run):
    with pytest.raises(UsageError, match=r"could be .*0 é\.jpg") as error:
        explain(run, "0 é.jpg")
    assert "ada/0 é.jpg" in error.value.message
    assert explain(run, "ada/0 é.jpg")["source"]["group"] == "ada"


def test_what_nothing_is_called_names_the_nearest(run):
    with pytest.raises(UsageError) as error:
        explain(run, "turnd.jpg")
    assert "turned.jpg" in error.value.hint
    with pytest.raises(UsageError, match="Nothing in this run"):
        explain(run, "ab12")
