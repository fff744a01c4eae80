"""Step animate without a video network: the portrait network moves what it made, and leaves photos alone."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from idtool.config import load_config
from idtool.curate.animate import NO_LATENT, Animate, AnimateSettings
from idtool.curate.registry import STEPS
from idtool.engine.step import Binding, Env
from idtool.media.store import MediaStore
from idtool.media.video import iter_frames
from idtool.models.catalog import catalogue
from idtool.models.portraits import Latent, MobileStyleGan
from tests.curate import short_recipes, synthesis

WALK = {"model": "mobilestylegan", "licence": "of the package", "options": {"fps": 10}}
ME = Latent((77, 1, 0, 18), 0.6)
STEPS_OF = [{"step": "ingest"}, {"step": "animate", "seconds": 0.2, "crf": 0}, {"step": "frames"}]
CONFIG = {
    "version": 1,
    "auto": ["tiny"],
    "profiles": {"tiny": {"summary": "a latent walk", "device": "cpu", "roles": {"i2v": WALK}}},
    "recipes": {"short": {"summary": "a few steps", "steps": STEPS_OF}},
}


@pytest.fixture(scope="module")
def portrait() -> Image.Image:
    network = MobileStyleGan(threads=2)
    return Image.fromarray(network.render([network.layered(network.drawn(ME))])[0])


def manifest(folder: Path, **latents: str) -> Path:
    """A manifest of PNG files that are in the folder, with their latents."""
    path = folder / "people.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "identity", "licence", "latent"])
        writer.writerows([f"{name}.png", "me", "mine", latent] for name, latent in latents.items())
    return path


@pytest.mark.offline_weights
def test_portraits_of_the_network_move_and_others_do_not(portrait: Image.Image, tmp_path: Path) -> None:
    portrait.save(tmp_path / "mine.png")
    portrait.crop((0, 0, 1000, 1000)).save(tmp_path / "cut.png")
    portrait.rotate(90).save(tmp_path / "turned.png")
    synthesis.people(tmp_path / "photos")
    (tmp_path / "photos" / "one.png").rename(tmp_path / "photo.png")
    table = manifest(tmp_path, mine=str(ME), cut=str(ME), turned="a riddle", photo="")
    config = tmp_path / "pipelines.yaml"
    config.write_text(yaml.safe_dump(CONFIG), "utf-8")
    run = short_recipes.curate(config, tmp_path / "run", table)
    rows = short_recipes.rows_of(run, "animate")
    photos = {row["name"]: row for row in rows if row["origin"] == "photo"}
    clips = {row["name"]: row for row in rows if row["origin"] == "animate"}
    assert {row["status"] for row in photos.values()} == {"kept"} and len(photos) == 4
    assert {name: row["message"] for name, row in photos.items() if row["message"]} == {"photo.png": NO_LATENT}
    assert {name: row["reason"] for name, row in clips.items()} == {
        "mine.png": None,
        "cut.png": "animate.other_picture",
        "turned.png": "animate.latent",
    }
    assert clips["cut.png"]["value"] > 3 and clips["cut.png"]["threshold"] == "<= 3"
    assert "got 'a riddle'" in clips["turned.png"]["message"]

    clip = clips["mine.png"]
    assert (clip["kind"], clip["fps"], clip["width"], clip["height"]) == ("video", 10.0, 960, 960)
    assert clip["duration"] == pytest.approx(0.2) and clip["parent"] == photos["mine.png"]["id"]
    assert clip["prompt"] is None and clip["generator"] == "mobilestylegan" and clip["generator_seed"] > 0
    assert clip["licence"] == "mine; i2v: of the package" and clip["identity_label"] == "me"
    frames = [frame.image for frame in iter_frames(MediaStore(run.store_root).path(clip["media"]))]
    first = np.asarray(portrait.resize((960, 960), Image.Resampling.LANCZOS)).astype(int)
    differences = [float(np.abs(frame - first).mean()) for frame in frames]
    # The first differs by what 4:2:0 loses of colours alone.
    assert len(frames) == 2 and differences[0] < 2.5 < 5 < min(differences[1:])
    cut = [row for row in short_recipes.rows_of(run, "frames") if row["origin"] == "frame"]
    assert [row["time_ms"] for row in cut] == [0, 100] and {row["parent"] for row in cut} == {clip["id"]}

    [entry] = [step for step in run.steps if step["name"] == "animate"]
    assert "told by the manifest's column `latent`" in entry["notes"][0]
    assert entry["models"][0]["role"] == "i2v" and len(entry["models"][0]["sha256"]) == 64
    # Once more, elsewhere: the same rows and bytes.
    again = short_recipes.curate(config, tmp_path / "again", manifest(tmp_path, mine=str(ME)))
    [same] = short_recipes.rows_of(again, "animate", "animate")
    assert (same["id"], same["media"]) == (clip["id"], clip["media"])


def test_no_network_is_loaded_for_photos_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: Any, **__: Any) -> None:
        raise AssertionError("loaded")

    monkeypatch.setattr("idtool.models.latent_walk.LatentWalk.__init__", never)
    folder = synthesis.people(tmp_path / "people")
    step = Animate(AnimateSettings(), Env("offline", {"i2v": (Binding("i2v", "mobilestylegan"),)}))
    assert "extra" in step.reads({})
    batch = synthesis.table([folder / "one.png", folder / "two.png"])
    batch = batch.append_column("extra", [[None, '{"age": 7}']])
    rows = synthesis.through(step.operators(), batch, tmp_path)
    assert {name: row["message"] for name, row in rows.items()} == {"one": NO_LATENT, "two": NO_LATENT}


def test_the_shipped_recipe_makes_short_clips_offline_alone() -> None:
    shipped = load_config(None, STEPS, catalogue())
    [binding] = shipped.profile("offline").bindings()["i2v"]
    assert binding.model == "mobilestylegan"
    seconds: dict[str, Any] = {}
    for profile in ("offline", "paper"):
        [step] = [step for step in shipped.resolve("dmid", (), profile).steps if step.kind == "animate"]
        assert isinstance(step.settings, AnimateSettings)
        seconds[profile] = step.settings.seconds
    assert seconds == {"offline": 0.3, "paper": 5.0}
