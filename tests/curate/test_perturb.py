"""Perturbations: what each does to pixels, the same pixels for the same row, rows through the command line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from idtool.curate import perturbations
from idtool.curate.perturb import KINDS, Perturb, PerturbSettings, drawn, perturbed
from idtool.engine.operator import Rejected
from idtool.engine.step import Env
from idtool.media.store import MediaStore
from tests.curate import short_recipes
from tests.curate.media import picture
from tests.zoo import Zoo
from tests.zoo.face_pack import drawn_person


def grey(level: int = 128) -> np.ndarray:
    return np.full((200, 300, 3), level, np.uint8)


def test_noise_has_the_deviation_asked_for_and_hangs_on_its_seed() -> None:
    image = perturbations.noise(grey(), 0.05, 7)
    assert (image.astype(float) - 128).std() == pytest.approx(0.05 * 255, rel=0.02)
    assert abs(image.mean() - 128) < 0.2
    assert (perturbations.noise(grey(), 0.05, 7) == image).all()
    assert not (perturbations.noise(grey(), 0.05, 8) == image).all()
    assert perturbations.noise(grey(255), 0.05, 7).max() == 255


def test_saturation_scales_the_distance_from_grey() -> None:
    image = picture(80, 60, 3)
    pale = perturbations.saturate(image, 0.5).astype(float)
    luma = image @ np.array(perturbations.LUMA)
    np.testing.assert_allclose(pale, (image + luma[..., None]) / 2, atol=0.51)
    assert (perturbations.saturate(image, 1.0) == image).all()
    assert (perturbations.saturate(image, 0.0).std(axis=2) == 0).all()
    # Grey, and so the light, stays.
    assert np.abs(pale @ np.array(perturbations.LUMA) - luma).max() < 1
    reference = np.asarray(Image.fromarray(image))
    from PIL import ImageEnhance

    theirs = np.asarray(ImageEnhance.Color(Image.fromarray(reference)).enhance(1.6)).astype(int)
    assert np.abs(perturbations.saturate(image, 1.6).astype(int) - theirs).max() <= 2


def test_jpeg_is_worse_the_lower_the_quality() -> None:
    image = picture(160, 120, 5)
    errors = [np.abs(perturbations.jpeg(image, quality).astype(int) - image).mean() for quality in (90, 40, 20)]
    assert errors == sorted(errors) and errors[0] > 0


def test_the_blur_stays_on_the_face() -> None:
    image = np.random.default_rng(0).integers(0, 256, (200, 300, 3)).astype(np.uint8)
    box = (100.0, 40.0, 180.0, 140.0)
    done = perturbations.blur_face(image, box, 6.0)
    y, x = np.mgrid[:200, :300]
    inside = ((x + 0.5 - 140) / 40) ** 2 + ((y + 0.5 - 90) / 50) ** 2 < 1
    assert (done[~inside] == image[~inside]).all()
    middle = ((x - 140) / 40) ** 2 + ((y - 90) / 50) ** 2 < 0.4
    assert done[middle].std() < 0.3 * image[middle].std()
    assert abs(done[middle].mean() - image[middle].mean()) < 5
    # A box that leaves the picture is blurred where it is inside.
    edge = perturbations.blur_face(image, (-40.0, -40.0, 60.0, 60.0), 6.0)
    assert not (edge[:20, :20] == image[:20, :20]).all() and (edge[70:] == image[70:]).all()
    with pytest.raises(ValueError, match="no pixel"):
        perturbations.blur_face(image, (400, 0, 500, 50), 6.0)


def test_draws_stay_in_their_ranges_and_spare_what_is_hardly_seen() -> None:
    settings = PerturbSettings(at_once=4)
    told = [drawn(settings, KINDS, seed, [[10, 10, 50, 60], [100, 10, 150, 60]]) for seed in range(400)]
    saturation = np.array([row["perturb_saturation"] for row in told])
    assert 0.4 <= saturation.min() < 0.45 and 1.7 < saturation.max() <= 1.8
    assert not ((saturation > 0.8) & (saturation < 1.25)).any()
    assert 0.4 < np.mean(saturation < 1) < 0.8
    assert all(0.02 <= row["perturb_noise"] <= 0.08 for row in told)
    assert {row["perturb_jpeg"] for row in told} == set(range(20, 41))
    assert all(0.03 * 50 <= row["perturb_blur"] <= 0.08 * 50 for row in told)
    assert {tuple(row["perturb_box"]) for row in told} == {(10, 10, 50, 60), (100, 10, 150, 60)}  # one face of several
    single = [drawn(PerturbSettings(), KINDS, seed, [[10, 10, 50, 60]]) for seed in range(200)]
    kinds = {frozenset(row) for row in single}
    assert len(kinds) == 4 and frozenset({"perturb_blur", "perturb_box"}) in kinds
    assert not any("perturb_blur" in drawn(PerturbSettings(), KINDS, seed, []) for seed in range(50))
    with pytest.raises(Rejected) as error:
        drawn(PerturbSettings(kinds=("blur",)), ("blur",), 1, [])
    assert error.value.reason == "perturb.no_face"
    fixed = PerturbSettings(saturation=(0.5, 0.5), kinds=("saturation",))
    assert drawn(fixed, fixed.kinds, 3, [])["perturb_saturation"] == 0.5


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kinds": ()}, "each once"),
        ({"kinds": ("noise", "noise")}, "each once"),
        ({"kinds": ("noise",), "at_once": 2}, "at_once is 2"),
        ({"noise": (0.5, 0.1)}, "the lower first"),
        ({"jpeg": (20, 120)}, "100 at most"),
        ({"saturation": (0.9, 1.1)}, "is in `spared`"),
    ],
)
def test_settings_that_make_no_sense(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PerturbSettings(**settings)


def test_without_face_boxes_blur_is_left_out() -> None:
    step = Perturb(PerturbSettings(), Env("bare", {}))
    step.missing = {"face_box": "needs role faces; profile bare binds none"}
    assert step.kinds == ("saturation", "noise", "jpeg") and step.skip_reason() is None
    assert step.notes() == ["blur is left out: needs role faces; profile bare binds none"]
    only = Perturb(PerturbSettings(kinds=("blur",)), Env("bare", {}))
    only.missing = step.missing
    assert only.skip_reason() == "blur is left out: needs role faces; profile bare binds none"


# -- through the command line ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("people")
    for person in range(3):
        Image.fromarray(drawn_person(person, centre=(320, 240), radius=100)).save(folder / f"{person}.png")
    return folder


def test_copies_can_be_made_again_from_their_rows(tiny: Zoo, people: Path, tmp_path: Path) -> None:
    wanted = [
        {"step": "ingest"},
        {"step": "measure", "measures": ["faces"]},
        {"step": "perturb", "copies": 4, "at_once": 2, "where": {"origin": "photo"}},
        {"step": "perturb", "copies": 1, "where": {"origin": "photo"}, "kinds": ["blur"], "remeasure": False},
    ]
    config = short_recipes.write(tmp_path, tiny, wanted, "faces")
    run = short_recipes.curate(config, tmp_path / "run", people)
    photos = short_recipes.rows_of(run, "measure")
    rows = short_recipes.rows_of(run, "perturb")
    copies = [row for row in rows if row["origin"] == "perturb"]
    assert len(rows) == 3 + 12 and {row["id"] for row in photos} <= {row["id"] for row in rows}
    kept = {row["id"]: row for row in rows if row["origin"] == "photo"}
    for photo in photos:
        assert {name: kept[photo["id"]][name] for name in photo} == photo
    store = MediaStore(run.store_root)
    for row in copies:
        source = np.asarray(Image.open(people / row["name"]))
        pixels = np.asarray(Image.open(store.path(row["media"])))
        assert row["parent"] in kept and row["format"] == "png" and (row["width"], row["height"]) == (640, 480)
        done = [row["perturb_saturation"], row["perturb_blur"], row["perturb_noise"], row["perturb_jpeg"]]
        assert sum(value is not None for value in done) == 2
        assert (perturbed(source, row, row["generator_seed"]) == pixels).all() and not (pixels == source).all()
        assert row["faces"] is not None  # measured as its original was
    assert len({row["id"] for row in copies}) == 12 == len({row["media"] for row in copies})
    again = short_recipes.curate(config, tmp_path / "again", people)
    assert short_recipes.rows_of(again, "perturb", "perturb") == copies
    other = short_recipes.curate(config, tmp_path / "more", people, "perturb.copies=5")
    more = {row["id"] for row in short_recipes.rows_of(other, "perturb", "perturb")}
    assert len(more) == 15 and {row["id"] for row in copies} < more
    second = short_recipes.rows_of(run, "perturb.2", "perturb")
    assert len(second) == 15 and sum(row["faces"] is None for row in second) == 3
    assert sum(row["perturb_box"] is not None and row["faces"] is None for row in second) == 3
