"""Step animate: videos of pictures through the command line on tiny checkpoints, cut into frames like any other."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from idtool.curate.animate import MOTIONS, Animate, AnimateSettings
from idtool.engine.step import Binding, Env
from idtool.media.store import MediaStore
from idtool.media.video import iter_frames, probe_video
from idtool.run import Run
from tests.curate import short_recipes, synthesis
from tests.zoo import Zoo

WAN = {"model": "hf:tiny/wan21", "licence": "random weights"}
QUICK: dict[str, Any] = {"steps": 2, "seconds": 0.3, "area": 64 * 64, "crf": 0}


@pytest.fixture
def portraits(tmp_path: Path) -> Path:
    """A face, one in another format, a picture that is too small, and a broken file."""
    folder = synthesis.people(tmp_path / "people")
    for name in ("cut.png", "nobody.png"):
        (folder / name).unlink()
    Image.open(folder / "two.png").crop((40, 0, 220, 240)).save(folder / "two.png")
    Image.open(folder / "one.png").resize((40, 30)).save(folder / "small.png")
    return folder


def recipe(**settings: Any) -> list[dict[str, Any]]:
    return [{"step": "ingest"}, {"step": "animate", **QUICK, **settings}, {"step": "frames"}]


def test_photos_become_videos_and_videos_frames(tiny: Zoo, portraits: Path, tmp_path: Path) -> None:
    tiny("wan21")
    config = short_recipes.write(tmp_path, tiny, recipe(), i2v=WAN)
    run = Run(short_recipes.curate(config, tmp_path / "run", portraits).path)
    rows = short_recipes.rows_of(run, "animate")
    photos = {row["name"]: row for row in rows if row["origin"] == "photo"}
    clips = {row["name"]: row for row in rows if row["origin"] == "animate"}
    assert len(photos) == len(clips) == 4 and {row["status"] for row in photos.values()} == {"kept"}
    assert {name: row["reason"] for name, row in clips.items()} == {
        "one.png": None,
        "two.png": None,
        "small.png": "animate.max_scale",
        "broken.png": "truncated",
    }
    assert clips["small.png"]["threshold"] == "<= 1.5" and clips["small.png"]["value"] == pytest.approx(1.6)
    for name, size in (("one.png", (64, 48)), ("two.png", (48, 64))):
        clip, photo = clips[name], photos[name]
        assert (clip["kind"], clip["format"], clip["fps"], clip["duration"]) == ("video", "mp4", 16.0, 5 / 16)
        assert (clip["width"], clip["height"], clip["short_side"]) == (*size, 48)
        assert clip["parent"] == photo["id"] != clip["id"] and clip["uri"] == photo["uri"]
        assert clip["prompt"] in MOTIONS and clip["generator"] == "hf:tiny/wan21"
        assert clip["licence"] == "not stated; i2v: random weights" and clip["source"] == "not stated (animated)"
        path = MediaStore(run.store_root).path(clip["media"])
        told = probe_video(path)
        assert (told.width, told.height, told.fps, told.frames) == (*size, 16.0, 5) and told.format == "mp4"
        assert path.stat().st_size == clip["bytes"]
    frames = [row for row in short_recipes.rows_of(run, "frames") if row["origin"] == "frame"]
    assert {row["parent"] for row in frames} == {clips["one.png"]["id"], clips["two.png"]["id"]}
    times = sorted(row["time_ms"] for row in frames if row["parent"] == clips["one.png"]["id"])
    # DMID samples at 20 a second: at Wan's 16 that is every frame.
    assert times == [0, 62, 125, 188, 250]
    assert all(row["kind"] == "image" and row["prompt"] in MOTIONS for row in frames)
    [model] = run.entry("animate")["models"]
    assert model["role"] == "i2v" and len(model["sha256"]) == 64
    other = short_recipes.curate(config, tmp_path / "other", portraits)
    assert [(row["id"], row["media"]) for row in short_recipes.rows_of(other, "animate")] == [
        (row["id"], row["media"]) for row in rows
    ]
    again = short_recipes.curate(config, tmp_path / "run", portraits)
    assert again.entry("animate")["started"] == run.entry("animate")["started"]


def test_another_photo_leaves_finished_videos_alone(tiny: Zoo, portraits: Path, tmp_path: Path) -> None:
    tiny("wan21")
    config = short_recipes.write(tmp_path, tiny, recipe()[:2], i2v=WAN)
    some = tmp_path / "some"
    some.mkdir()
    shutil.copy(portraits / "one.png", some)
    run = short_recipes.curate(config, tmp_path / "run", some)
    [first] = short_recipes.rows_of(run, "animate", "animate")
    made = MediaStore(run.store_root).path(first["media"]).stat().st_mtime_ns
    shutil.copy(portraits / "two.png", some)
    run = short_recipes.curate(config, tmp_path / "run", some)
    clips = {row["name"]: row for row in short_recipes.rows_of(run, "animate", "animate")}
    assert set(clips) == {"one.png", "two.png"} and clips["one.png"]["media"] == first["media"]
    assert MediaStore(run.store_root).path(first["media"]).stat().st_mtime_ns == made


def operators(model: Binding, **settings: Any) -> Any:
    step = Animate(AnimateSettings(**{**QUICK, **settings}), Env("tiny", {"i2v": (model,)}))
    step.reads({})
    return step.operators()


def test_neighbours_and_order_change_nothing(tiny: Zoo, portraits: Path, tmp_path: Path) -> None:
    tiny("wan22")
    model = Binding("i2v", "hf:tiny/wan22")
    batch = synthesis.table([portraits / "one.png", portraits / "two.png"])
    chain = operators(model, clips=2)
    together = synthesis.through(chain, batch, tmp_path)
    alone: dict[str, Any] = {}
    for start in (1, 0):
        alone |= synthesis.through(operators(model, clips=2), batch.slice(start, 1), tmp_path)
    assert together == alone
    clips = [row for row in together.values() if row["origin"] == "animate"]
    assert len(clips) == 4 == len({row["media"] for row in clips})
    for parent in ("one", "two"):
        assert len({row["prompt"] for row in clips if row["parent"] == parent}) == 2
    for other in (operators(model, prompts=("x",)), operators(model, guidance=2.0)):
        assert not set(synthesis.through(other, batch.slice(0, 1), tmp_path)) & {row["id"] for row in clips}
    elsewhere = synthesis.through(operators(model, where={"identity_label": "nobody"}), batch, tmp_path)
    assert set(elsewhere) == {"one", "two"}


def test_ltx_has_its_own_frame_rate(tiny: Zoo, portraits: Path, tmp_path: Path) -> None:
    tiny("ltx")
    batch = synthesis.table([portraits / "one.png"])
    model = Binding("i2v", "hf:tiny/ltx")
    [clip] = [
        row for row in synthesis.through(operators(model), batch, tmp_path).values() if row["origin"] == "animate"
    ]
    assert clip["fps"] == 25.0 and (clip["width"], clip["height"]) == (64, 32)
    path = MediaStore(tmp_path / "media").path(clip["media"])
    frames = [frame.image for frame in iter_frames(path)]
    assert len(frames) == 9 and clip["duration"] == pytest.approx(9 / 25)
    assert np.std(frames[0].astype(float)) > 1


def test_without_a_model_it_is_skipped_and_says_why(tiny: Zoo, portraits: Path, tmp_path: Path) -> None:
    step = Animate(AnimateSettings(), Env("offline", {}))
    assert step.skip_reason() == "needs role i2v; profile offline binds none"
    api = Animate(AnimateSettings(), Env("x", {"i2v": (Binding("i2v", "api:some"),)}))
    assert str(api.skip_reason()).startswith("role i2v is bound to api:some, and models of the kind `api:`")
    config = short_recipes.write(tmp_path, tiny, recipe(), "faces")
    run = short_recipes.curate(config, tmp_path / "run", portraits)
    entry = run.entry("animate")
    assert entry["state"] == "skipped" and "needs role i2v" in entry["skipped_because"]
    assert {row["origin"] for row in short_recipes.rows_of(run, "frames")} == {"photo"}


def test_settings_are_checked() -> None:
    for wrong in ({"prompts": ()}, {"clips": 0}, {"seconds": 0}, {"crf": 60}, {"fps": 20}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            AnimateSettings.model_validate(wrong)
