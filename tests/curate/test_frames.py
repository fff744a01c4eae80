from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pydantic import ValidationError

from idtool.curate.frames import WRITES, Frames, FramesSettings
from idtool.curate.ingest import Ingest, IngestSettings
from idtool.engine.apply import apply
from idtool.engine.operator import KEPT, OUTCOME, Context
from tests.curate import media
from tests.curate.tables import OFFLINE
from tests.curate.test_ingest import listing


def ingested(paths: Sequence[Path | str], run: Path, **settings: Any) -> pa.Table:
    operators = Ingest(IngestSettings(**settings), OFFLINE).operators()
    for operator in operators:
        operator.setup(Context(run_dir=str(run)))
    rows = apply(operators, listing(paths))
    assert set(rows["status"].to_pylist()) == {KEPT}
    return rows.drop_columns([*OUTCOME.names, "input_id"])


def cut(rows: pa.Table, run: Path, **settings: Any) -> list[dict[str, Any]]:
    operators = Frames(FramesSettings(**settings), OFFLINE).operators()
    for operator in operators:
        operator.setup(Context(run_dir=str(run)))
    out = apply(operators, rows)
    assert [field for field in out.schema if field.name in WRITES.names] == list(WRITES)
    return list(out.to_pylist())


def stored(run: Path, row: dict[str, Any]) -> Path:
    return run / "media" / str(row["media"]).removeprefix("store:")


def test_a_film_becomes_its_frames_and_a_photo_stays_what_it_is(tmp_path: Path) -> None:
    photo = media.photo(tmp_path / "a.jpg")
    images = media.moving(20, 96, 64)
    rows = ingested([photo, media.video(tmp_path / "b.mp4", images, fps=10)], tmp_path / "run")
    before = {row["kind"]: row for row in rows.to_pylist()}
    out = cut(rows, tmp_path / "run", fps=5)
    kept = [row for row in out if row["parent"] is None]
    assert [{name: row[name] for name in before["image"]} for row in kept] == [before["image"]]
    assert (kept[0]["time_ms"], kept[0]["shot"], kept[0]["status"]) == (None, None, "kept")

    frames = [row for row in out if row["parent"]]
    film = before["video"]
    assert [row["time_ms"] for row in frames] == list(range(0, 2000, 200))
    assert [row["id"] for row in frames] == [f"{film['id']}-{ms:09d}" for ms in range(0, 2000, 200)]
    assert {(row["parent"], row["kind"], row["origin"], row["shot"]) for row in frames} == {
        (film["id"], "image", "frame", 0)
    }
    assert {(row["width"], row["height"], row["short_side"], row["fps"]) for row in frames} == {(96, 64, 64, None)}
    assert {row["name"] for row in frames} == {"b.mp4"}
    for k, row in enumerate(frames):
        data = stored(tmp_path / "run", row).read_bytes()
        assert len(data) == row["bytes"]
        from idtool.media.images import decode

        assert np.abs(decode(data).astype(int) - images[2 * k]).mean() < 6
    assert len({row["media"] for row in frames}) == len(frames)


def test_frames_keep_full_colour_resolution(tmp_path: Path) -> None:
    from PIL import Image

    rows = ingested([media.video(tmp_path / "a.mp4", media.moving(3))], tmp_path)
    row = cut(rows, tmp_path)[0]
    with Image.open(stored(tmp_path, row)) as image:
        assert image.format == "JPEG"
        assert {layer[1:3] for layer in image.layer} == {(1, 1)}  # type: ignore[attr-defined]


def test_shots_are_numbered(tmp_path: Path) -> None:
    images = media.moving(15, seed=1) + media.moving(15, seed=2) + media.moving(15, seed=3)
    rows = ingested([media.video(tmp_path / "a.mp4", images)], tmp_path)
    shots = [row["shot"] for row in sorted(cut(rows, tmp_path, every=1), key=lambda row: str(row["id"]))]
    assert shots == [0] * 15 + [1] * 15 + [2] * 15


def test_every_nth_and_at_most(tmp_path: Path) -> None:
    rows = ingested([media.video(tmp_path / "a.mp4", media.moving(20), fps=10)], tmp_path)
    assert [row["time_ms"] for row in cut(rows, tmp_path, every=7)] == [0, 700, 1400]
    few = cut(rows, tmp_path, every=1, max_frames=3)
    assert [row["time_ms"] for row in few] == [0, 100, 200]
    assert {row["status"] for row in few} == {"kept"}
    short = cut(rows, tmp_path, every=1, max_seconds=0.5)
    assert 4 <= len(short) <= 6
    assert all("limit" in row["message"] for row in short)


def test_a_varying_frame_rate_is_sampled_by_time(tmp_path: Path) -> None:
    times = [0, 10, 20, 500, 510, 1000, 1001, 1500]
    film = media.video(tmp_path / "a.mkv", media.moving(len(times)), times_ms=times)
    frames = cut(ingested([film], tmp_path), tmp_path, fps=2)
    assert [row["time_ms"] for row in frames] == [0, 500, 1000, 1500]


def test_a_film_that_breaks_off_gives_what_it_has_and_says_so(tmp_path: Path) -> None:
    film = media.video(tmp_path / "a.mp4", media.moving(60, 160, 120), fps=10, fragmented=True)
    whole = film.read_bytes()
    film.write_bytes(whole[: int(len(whole) * 0.7)])
    frames = cut(ingested([film], tmp_path), tmp_path, fps=10)
    assert 5 < len(frames) < 60
    assert {row["status"] for row in frames} == {"kept"}
    assert all("cut off" in row["message"] for row in frames)


def test_a_film_that_is_gone_is_rejected_and_the_others_go_on(tmp_path: Path) -> None:
    films = [media.video(tmp_path / f"{k}.mp4", media.moving(5, seed=k)) for k in range(2)]
    rows = ingested(films, tmp_path)
    films[0].unlink()
    out = cut(rows, tmp_path, every=1)
    assert [(row["status"], row["reason"], row["name"]) for row in out if row["status"] != "kept"] == [
        ("rejected", "missing_file", "0.mp4")
    ]
    assert len([row for row in out if row["status"] == "kept"]) == 5


def test_a_remote_film_left_in_place_is_read_and_nothing_of_it_stays(tmp_path: Path) -> None:
    import fsspec

    film = media.video(tmp_path / "a.mp4", media.moving(5))
    fsspec.filesystem("memory").pipe("/frames/a.mp4", film.read_bytes())
    run = tmp_path / "run"
    rows = ingested(["memory://frames/a.mp4"], run, copy="never")
    frames = cut(rows, run, every=1)
    assert len(frames) == 5
    assert {path.suffix for path in run.rglob("*") if path.is_file()} == {".jpg"}


def test_the_same_film_gives_the_same_rows_and_files(tmp_path: Path) -> None:
    film = media.video(tmp_path / "a.mp4", media.moving(10))
    one = cut(ingested([film], tmp_path / "one"), tmp_path / "one")
    two = cut(ingested([film], tmp_path / "two"), tmp_path / "two")
    assert one == two
    assert [stored(tmp_path / "one", row).read_bytes() for row in one] == [
        stored(tmp_path / "two", row).read_bytes() for row in two
    ]


def test_only_photos_or_no_rows_at_all(tmp_path: Path) -> None:
    rows = ingested([media.photo(tmp_path / f"{k}.jpg", seed=k) for k in range(3)], tmp_path)
    assert [row["id"] for row in cut(rows, tmp_path)] == rows["id"].to_pylist()
    assert cut(rows.slice(0, 0), tmp_path) == []


def test_settings_of_the_recipe_and_contradictions() -> None:
    FramesSettings.model_validate({"fps": 20, "shot_threshold": 0.35, "quality": 95})
    with pytest.raises(ValidationError, match="fps or every, not both"):
        FramesSettings.model_validate({"fps": 20, "every": 3})


def test_real_videos_give_frames_of_their_shots(fixtures: Path, tmp_path: Path) -> None:
    names = [
        "multi_shot_640x360.mp4",
        "single_face_640x360.mp4",
        "selfie_720x1280_d13.mp4",
        "face_then_none_960x540.mov",
    ]
    rows = ingested([fixtures / "videos" / name for name in names], tmp_path)
    out = cut(rows, tmp_path, fps=1)
    assert {row["status"] for row in out} == {"kept"}
    shots = {name: {row["shot"] for row in out if row["name"] == name} for name in names}
    assert len(shots["multi_shot_640x360.mp4"]) > 1
    assert shots["single_face_640x360.mp4"] == {0}
    assert {(row["width"], row["height"]) for row in out if row["name"].startswith("selfie")} == {(720, 1280)}
