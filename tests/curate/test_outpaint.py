"""Step outpaint: which sides are cut, how much is added, and rows through the command line on tiny checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from idtool.curate.borders import Border, CutSubjects, box_touches, margins, touched
from idtool.curate.outpaint import PROMPT, Outpaint, OutpaintSettings
from idtool.engine.step import Binding, Env
from idtool.models.faces import Face
from idtool.models.grounded import Region
from tests.curate import short_recipes, synthesis
from tests.zoo import Zoo

FILL = Binding("fill", "hf:tiny/flux-fill", options={"area": 128 * 128})
FACES = Binding("faces", "insightface:tiny")
PARSER = Binding("parser", "hf:tiny/bisenet", options={"format": "bisenet", "file": "face_parsing.pth"})
GROUNDER, SAM = Binding("grounder", "hf:tiny/grounding-dino"), Binding("segmenter", "hf:tiny/sam")
SAM3 = Binding("segmenter", "hf:tiny/sam3", options={"format": "sam3"})


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return synthesis.people(tmp_path_factory.mktemp("outpaint") / "people")


def env(*bindings: Binding) -> Env:
    return Env("tiny", {binding.role: (binding,) for binding in bindings})


# -- borders ---------------------------------------------------------------------------------------------------------


def test_a_mask_touches_where_enough_of_it_lies_at_the_border() -> None:
    mask = np.zeros((100, 200), np.bool_)
    mask[20:60, 50:90] = True
    assert touched(mask, 2, 0.03) == ()
    mask[90:100, 50:90] = True
    assert touched(mask, 2, 0.03) == ("bottom",)
    mask[30:32, 198:] = True  # two of a hundred pixels
    assert touched(mask, 2, 0.03) == ("bottom",) and touched(mask, 2, 0.02) == ("right", "bottom")
    mask[1, :10] = True
    assert touched(mask, 2, 0.02) == ("top", "right", "bottom") and touched(mask, 1, 0.02) == ("right", "bottom")
    assert touched(np.ones((5, 5), np.bool_), 1, 1) == ("left", "top", "right", "bottom")


def test_a_box_touches_where_it_reaches_the_border_or_over_it() -> None:
    assert box_touches((10, 10, 90, 90), 100, 100, 1) == ()
    assert box_touches((-5, 10, 90, 99.5), 100, 100, 1) == ("left", "bottom")
    assert box_touches((1.0, 2.0, 99, 120), 100, 100, 1) == ("left", "right", "bottom")


@pytest.mark.parametrize(
    ("length", "cut", "share", "axis", "expected"),
    [
        (320, ["left"], 0.25, 0, (80, 0)),
        (320, ["right"], 0.25, 0, (0, 80)),
        (320, ["left", "right"], 0.25, 0, (80, 80)),
        (250, ["bottom"], 0.25, 1, (0, 70)),  # 62.5 and as many as make 320
        (250, ["top", "bottom"], 0.1, 1, (27, 27)),
        (251, ["top", "bottom"], 0.1, 1, (26, 27)),
        (250, ["left"], 0.25, 1, (0, 0)),
        (17, ["top"], 0.01, 1, (15, 0)),
    ],
)
def test_canvases_grow_to_multiples_of_sixteen(
    length: int, cut: Any, share: float, axis: Any, expected: tuple[int, int]
) -> None:
    before, after = margins(length, cut, share, axis)
    assert (before, after) == expected
    if any(expected):
        assert (length + before + after) % 16 == 0
        assert all(side == 0 or side >= int(share * length) for side in (before, after))


def test_subjects_are_told_by_masks_heads_or_boxes() -> None:
    """Geometry alone: what the networks answer is given."""
    image = np.zeros((200, 100, 3), np.uint8)
    border = Border(("person",), 0.05, 0.005, 0.03)
    body = np.zeros((200, 100), np.bool_)
    body[100:, 20:80] = True

    class Segmenter:
        def regions(self, images: Any, phrases: Any) -> Any:
            assert list(phrases[0]) == ["person"]
            passer_by = np.zeros((200, 100), np.bool_)
            passer_by[:20, :20] = True
            return [[Region("person", 0.9, np.zeros(4), body), Region("person", 0.8, np.ones(4), passer_by)]]

    assert CutSubjects("subject", {"segmenter": Segmenter()}, border)({}, image) == ("bottom",)
    row = {"face_box": [-3, 20, 40, 60], "face_kps": [1.0] * 10, "face_score": 0.9}
    assert CutSubjects("box", {}, border)(row, image) == ("left",)
    assert CutSubjects("box", {}, border)({**row, "face_kps": None}, image) == ()

    class Detector:
        def detect(self, images: Any) -> Any:
            return [[Face(np.array([5, 5, 100, 60], np.float32), 1.0, np.zeros((5, 2), np.float32))]]

    assert CutSubjects("box", {"faces": Detector()}, border)({}, image) == ("right",)


# -- plans -----------------------------------------------------------------------------------------------------------


def test_the_surest_way_that_the_profile_has_is_taken() -> None:
    def step(*bindings: Binding, **settings: Any) -> Outpaint:
        return Outpaint(OutpaintSettings(**settings), env(*bindings))

    whole = step(FILL, FACES, PARSER, GROUNDER, SAM)
    assert whole.by == "subject" and whole.skip_reason() is None and whole.notes() == []
    assert [one.role for one in whole.models()] == ["fill", "segmenter", "grounder"]
    assert [one.role for one in step(FILL, SAM3).models()] == ["fill", "segmenter"]
    head = step(FILL, FACES, PARSER, SAM)
    assert head.by == "head" and [one.role for one in head.models()] == ["fill", "parser", "faces"]
    assert head.notes() == [
        "subjects are told by the mask of the largest head alone: needs role grounder; profile tiny binds none"
    ]
    box = step(FILL, FACES)
    assert box.by == "box" and "box of the largest face" in box.notes()[0]
    assert step(FILL, FACES, PARSER, GROUNDER, SAM, by="box").by == "box"
    assert step(FACES).skip_reason() == "needs role fill; profile tiny binds none"
    assert step(FILL).skip_reason() == "needs role faces; profile tiny binds none"
    assert step(FILL, FACES, by="head").skip_reason() == "needs role parser; profile tiny binds none"


# -- through the command line ----------------------------------------------------------------------------------------


def recipe(*more: dict[str, Any], **settings: Any) -> list[dict[str, Any]]:
    return [{"step": "ingest"}, *more, {"step": "outpaint", "steps": 1, "by": "box", "share": 0.2, **settings}]


def test_what_is_cut_is_completed_and_the_rest_passes(tiny: Zoo, people: Path, tmp_path: Path) -> None:
    tiny("flux-fill")
    config = short_recipes.write(tmp_path, tiny, recipe(), "faces", fill=synthesis.FILL)
    run = short_recipes.curate(config, tmp_path / "run", people)
    rows = {row["name"]: row for row in short_recipes.rows_of(run, "outpaint")}
    assert len(rows) == 5
    sources = {row["name"]: row for row in short_recipes.rows_of(run, "ingest")}
    assert (rows["broken.png"]["status"], rows["broken.png"]["reason"]) == ("rejected", "truncated")
    for name in ("one.png", "two.png", "nobody.png"):
        row = rows[name]
        assert (row["id"], row["media"], row["origin"]) == (sources[name]["id"], sources[name]["media"], "photo")
        assert row["outpaint_sides"] == [] and row["parent"] is None and row["status"] == "kept"
    row = rows["cut.png"]
    assert row["status"] == "kept" and row["origin"] == "outpaint" and row["parent"] == sources["cut.png"]["id"]
    assert row["outpaint_sides"] == ["left"] and row["outpaint_by"] == "box" and row["prompt"] == PROMPT
    assert row["outpaint_box"] == [64, 0, 384, 240] and (row["width"], row["height"]) == (384, 240)
    before, after = np.asarray(Image.open(people / "cut.png")), synthesis.opened(run, row["media"])
    assert after.shape == (240, 384, 3) and (after[:, 64:] == before).all()
    edge = np.broadcast_to(before[:, :1], (240, 64, 3))
    assert (after[:, :64] != edge).mean() > 0.5  # drawn, not padded
    assert row["licence"] == "not stated; fill: random weights" and row["format"] == "png"
    assert [model["role"] for model in run.entry("outpaint")["models"]] == ["fill", "faces"]
    other = short_recipes.curate(config, tmp_path / "other", people)
    [again] = short_recipes.rows_of(other, "outpaint", "outpaint")
    assert (again["id"], again["media"]) == (row["id"], row["media"])


def test_the_picture_can_stay_and_new_ones_are_measured(tiny: Zoo, people: Path, tmp_path: Path) -> None:
    tiny("flux-fill")
    steps = recipe(
        {"step": "gate", "whole": {"height": {"min": 1}}},
        {"step": "measure", "measures": ["pixels", "faces"]},
        keep="both",
        own_prompt=False,
    )
    folder = tmp_path / "some"
    folder.mkdir()
    for name in ("one.png", "cut.png"):
        Image.open(people / name).save(folder / name)
    config = short_recipes.write(tmp_path, tiny, steps, "faces", fill=synthesis.FILL)
    run = short_recipes.curate(config, tmp_path / "run", folder)
    rows = short_recipes.rows_of(run, "outpaint")
    assert sorted((row["name"], row["origin"]) for row in rows) == [
        ("cut.png", "outpaint"),
        ("cut.png", "photo"),
        ("one.png", "photo"),
    ]
    [made] = [row for row in rows if row["origin"] == "outpaint"]
    [cut] = [row for row in rows if row["origin"] == "photo" and row["name"] == "cut.png"]
    assert cut["outpaint_sides"] == ["left"] and made["parent"] == cut["id"]
    assert made["faces"] is not None and made["sharpness"] not in (None, cut["sharpness"])


def small(path: Path, width: int, height: int) -> pa.Table:
    Image.fromarray(np.full((height, width, 3), 90, np.uint8)).save(path)
    batch = synthesis.table([path])
    known = {"face_box": [0.0, 10.0, 30.0, 40.0], "face_kps": [5.0, 20, 20, 20, 12, 28, 6, 34, 18, 34]}
    for name, value in known.items():
        batch = batch.append_column(name, pa.array([value], pa.list_(pa.float32())))
    return batch.append_column("face_score", pa.array([0.9], pa.float32()))


def operators(batch: pa.Table, **settings: Any) -> Any:
    step = Outpaint(OutpaintSettings(**{"steps": 1, "by": "box", **settings}), env(FILL, FACES))
    step.reads({field.name: field for field in batch.schema})
    return step.operators()


def test_canvases_that_cannot_be_are_refused(tiny: Zoo, tmp_path: Path) -> None:
    tiny("flux-fill")
    batch = small(tmp_path / "small.png", 100, 60)
    [row] = synthesis.through(operators(batch), batch, tmp_path).values()
    assert (row["id"], row["reason"], row["value"]) == ("small", "outpaint.too_small", 60.0)
    rows = synthesis.through(operators(batch, keep="both"), batch, tmp_path)
    assert rows["small"]["status"] == "kept" and {row["reason"] for row in rows.values()} == {
        None,
        "outpaint.too_small",
    }
    batch = small(tmp_path / "large.png", 128, 96)
    [row] = synthesis.through(operators(batch, max_pixels=128 * 96 + 10), batch, tmp_path).values()
    assert row["reason"] == "outpaint.too_large" and row["value"] == 160 * 96
    # A side that may not be extended stays cut.
    [row] = synthesis.through(operators(batch, sides=("right",)), batch, tmp_path).values()
    assert row["id"] == "large" and row["outpaint_sides"] == [] and row["status"] == "kept"


def test_generated_pictures_are_completed_by_their_own_prompt(tiny: Zoo, tmp_path: Path) -> None:
    tiny("flux-fill")
    first, second = small(tmp_path / "a.png", 96, 80), small(tmp_path / "b.png", 96, 80)
    batch = pa.concat_tables([first, second]).append_column("prompt", pa.array(["a knight", None], pa.string()))
    together = synthesis.through(operators(batch), batch, tmp_path)
    prompts = {row["parent"]: row["prompt"] for row in together.values()}
    assert prompts == {"a": "a knight", "b": PROMPT}
    alone = synthesis.through(operators(batch), batch.slice(1, 1), tmp_path)
    assert alone.items() <= together.items()


@pytest.mark.parametrize("segmenter", [SAM3, SAM])
def test_masks_of_the_segmenter_are_read(segmenter: Binding, tiny: Zoo, people: Path, tmp_path: Path) -> None:
    """What random networks find is anybody's guess; that it is a mask of the picture is not."""
    tiny("flux-fill", "sam3", "sam", "grounding-dino")
    step = Outpaint(OutpaintSettings(steps=1, min_subject=0), env(FILL, GROUNDER, segmenter))
    batch = synthesis.table([people / "one.png"])
    step.reads({field.name: field for field in batch.schema})
    [row] = synthesis.through(step.operators(), batch, tmp_path).values()
    assert row["status"] == "kept" and row["outpaint_by"] == "subject"
    if row["outpaint_sides"]:
        left, top, right, bottom = row["outpaint_box"]
        before, after = np.asarray(Image.open(people / "one.png")), synthesis.opened(tmp_path, row["media"])
        assert (after[top:bottom, left:right] == before).all()


@pytest.mark.offline_weights
@pytest.mark.fixtures
def test_a_head_that_is_cut_is_found_in_a_real_photo(fixtures: Path) -> None:
    from idtool.models.faces import Scrfd
    from idtool.models.parser import BiSeNet

    whole = np.asarray(Image.open(fixtures / "identities" / "cb_id3" / "01_celebbasis.jpg").convert("RGB"))
    models = {"faces": Scrfd(), "parser": BiSeNet()}
    head = CutSubjects("head", models, Border(("person",), 0.05, 0.005, 0.03))
    face = models["faces"].detect([whole])[0][0]
    left, top, _, bottom = face.box.astype(int)
    grey = np.pad(whole, ((80, 80), (80, 80), (0, 0)), constant_values=128)
    assert "left" not in head({}, grey) and "top" not in head({}, grey)
    middle = (left + int(face.box[2])) // 2 - (int(face.box[2]) - left) // 4
    assert "left" in head({}, np.ascontiguousarray(whole[:, middle:]))
    assert "top" in head({}, np.ascontiguousarray(whole[(top + bottom) // 2 - (bottom - top) // 4 :]))
