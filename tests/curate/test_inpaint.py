"""Step inpaint: where it draws, what it keeps, and rows through the command line on tiny checkpoints."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from idtool.curate import soft_masks
from idtool.curate.inpaint import Inpaint, InpaintSettings
from idtool.curate.inpaint_prompts import KINDS, PROMPTS
from idtool.curate.reference_canvas import beside
from idtool.engine.operator import Rejected
from idtool.engine.step import Binding, Env
from idtool.models.parts import PARTS, inpainting_mask
from idtool.run import Run
from tests.curate import short_recipes, synthesis
from tests.curate.media import picture
from tests.zoo import Zoo

QUICK: dict[str, Any] = {"steps": 1, "masks": ["face", "hair", "all-but-face"]}
LORA = {"lora": "hf:tiny/ace-plus", "lora_file": "portrait/comfyui_portrait_lora64.safetensors"}
PARSER = Binding("parser", "hf:tiny/bisenet", options={"format": "bisenet", "file": "face_parsing.pth"})


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return synthesis.people(tmp_path_factory.mktemp("inpaint") / "people")


def face_labels() -> np.ndarray:
    """A picture of 120 x 100 px with a face of 40 px under hair, on background."""
    labels = np.zeros((100, 120), np.uint8)
    labels[30:40, 40:80] = PARTS.index("hair")
    labels[40:80, 40:80] = PARTS.index("skin")
    labels[50:54, 50:56] = PARTS.index("left_eye")
    return labels


# -- masks -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_weights_are_one_inside_and_fall_to_nothing(kind: str) -> None:
    labels = face_labels()
    weights = soft_masks.weights_of(labels, kind, 3, 6)
    assert weights.shape == labels.shape and weights.dtype == np.float32
    assert weights.min() == 0 and weights.max() == 1
    soft = (weights > 0) & (weights < 1)
    assert soft.any()
    inside, kept = inpainting_mask(labels, kind), inpainting_mask(labels, "face")
    if kind == "all-but-face":
        # The face stays to its last pixel, and so does what lies within three of it.
        assert not weights[kept].any() and not weights[62, 80:83].any() and (weights[62, 84:88] > 0).all()
        assert (weights[62, 90:] == 1).all()
    else:
        assert (weights[inside] == 1).all()
        beyond = weights[34 if kind == "hair" else 62, 80:]
        assert (beyond[:3] == 1).all() and (np.diff(beyond) <= 0).all() and not beyond[9:].any()
        assert beyond[5] == pytest.approx(0.5 + 0.5 * np.cos(np.pi * (6 - 3) / 6), abs=1e-6)


def test_hard_and_empty_masks() -> None:
    mask = np.zeros((20, 20), np.bool_)
    assert not soft_masks.softened(mask, 5, 5).any()
    mask[10, 10] = True
    hard = soft_masks.softened(mask, 2, 0)
    assert set(np.unique(hard)) == {0, 1} and hard[10, 12] == 1 and hard[10, 13] == 0
    assert (soft_masks.softened(np.ones((4, 4), np.bool_), 0, 3) == 1).all()
    with pytest.raises(ValueError, match="no kind of mask 'beard'"):
        soft_masks.weights_of(face_labels(), "beard", 1, 1)


def test_the_window_holds_the_region_and_its_surroundings() -> None:
    weights = np.zeros((100, 120), np.float32)
    weights[40:60, 30:70] = 0.5
    assert soft_masks.window(weights, None, 16) == (slice(0, 100), slice(0, 120))
    assert soft_masks.window(weights, 0.25, 16) == (slice(30, 70), slice(20, 80))
    assert soft_masks.window(weights, 2.0, 16) == (slice(0, 100), slice(0, 120))
    corner = np.zeros((100, 120), np.float32)
    corner[98:, 118:] = 1
    assert soft_masks.window(corner, 0.0, 64) == (slice(36, 100), slice(56, 120))
    thin = np.zeros((30, 120), np.float32)
    thin[10, 60] = 1
    rows, columns = soft_masks.window(thin, 0.0, 64)
    assert (rows, columns.stop - columns.start) == (slice(0, 30), 64) and columns.start <= 60 < columns.stop
    with pytest.raises(ValueError, match="no weight"):
        soft_masks.window(np.zeros((9, 9), np.float32), 0.5, 4)


def test_composites_keep_what_has_no_weight() -> None:
    image, anew = picture(60, 40, 1), picture(60, 40, 2)
    weights = np.zeros((40, 60), np.float32)
    weights[10:20, 10:20], weights[20:30, 10:20] = 1, 0.5
    mixed = soft_masks.composite(image, anew, weights)
    assert (mixed[weights == 0] == image[weights == 0]).all() and (mixed[weights == 1] == anew[weights == 1]).all()
    half = np.rint((image[25, 15].astype(float) + anew[25, 15]) / 2)
    assert np.abs(mixed[25, 15] - half).max() <= 1
    with pytest.raises(ValueError, match="one size"):
        soft_masks.composite(image, anew[:-1], weights)


# -- the canvas with a reference -------------------------------------------------------------------------------------


def test_the_reference_stands_beside_the_region() -> None:
    part, reference = picture(64, 96, 1), picture(120, 60, 2)
    mask = np.zeros((96, 64), np.bool_)
    mask[20:40, 10:30] = True
    seen: list[Any] = []

    def draw(canvas: np.ndarray, marked: np.ndarray) -> np.ndarray:
        seen.extend((canvas, marked))
        return canvas

    out = beside(part, mask, reference, 1024**2, draw)
    canvas, marked = seen
    # As high as the region: the reference becomes 192 px wide.
    assert canvas.shape == (96, 256, 3) and marked.shape == (96, 256)
    assert not marked[:, :192].any() and (marked[:, 192:] == mask).all()
    assert (canvas[:, 192:] == part).all() and (out == part).all()
    small = beside(part, mask, reference, 64 * 64, draw)
    assert seen[2].shape[0] * seen[2].shape[1] <= 64 * 64 and small.shape == part.shape
    with pytest.raises(Rejected, match="beside its reference") as error:
        beside(picture(8, 300), np.ones((300, 8), np.bool_), reference, 64 * 64, draw)
    assert error.value.reason == "inpaint.layout"


# -- settings and plans ----------------------------------------------------------------------------------------------


def test_prompts_belong_to_masks() -> None:
    assert InpaintSettings().prompts_of("hair") == PROMPTS["hair"] and set(PROMPTS) == set(KINDS)
    assert InpaintSettings(prompts=("a", "b")).prompts_of("face") == ("a", "b")
    mapped = InpaintSettings(prompts={"face": ("a",)})
    assert mapped.prompts_of("face") == ("a",) and mapped.prompts_of("head") == PROMPTS["head"]
    with pytest.raises(ValueError, match="each mask once"):
        InpaintSettings(masks=("face", "face"))
    with pytest.raises(ValueError, match="masks"):
        InpaintSettings.model_validate({"masks": ["beard"]})


def test_it_says_why_it_is_skipped() -> None:
    bound = {"fill": (Binding("fill", "hf:tiny/flux-fill"),), "parser": (PARSER,)}
    assert Inpaint(InpaintSettings(), Env("bare", {})).skip_reason() == "needs role fill; profile bare binds none"
    some = Inpaint(InpaintSettings(), Env("bare", {"fill": bound["fill"]}))
    assert some.skip_reason() == "needs role parser; profile bare binds none"
    assert Inpaint(InpaintSettings(), Env("x", bound)).skip_reason() == "needs role faces; profile x binds none"
    other = {**bound, "fill": (Binding("fill", "insightface:buffalo_l"),)}
    why = Inpaint(InpaintSettings(), Env("x", other)).skip_reason()
    assert why is not None and why.startswith("role fill is bound to insightface:buffalo_l, and models of the kind")


# -- through the command line ----------------------------------------------------------------------------------------


def recipe(*more: dict[str, Any], **settings: Any) -> list[dict[str, Any]]:
    return [{"step": "ingest"}, *more, {"step": "inpaint", **QUICK, **settings}]


def test_regions_are_drawn_anew_and_the_rest_stays(tiny: Zoo, people: Path, tmp_path: Path) -> None:
    tiny("flux-fill")
    config = short_recipes.write(tmp_path, tiny, recipe(), "faces", "parser", fill=synthesis.FILL)
    run = short_recipes.curate(config, tmp_path / "run", people)
    rows = short_recipes.rows_of(run, "inpaint")
    photos = {row["name"]: row for row in rows if row["origin"] == "photo"}
    assert len(photos) == 5 and {row["status"] for row in photos.values()} == {"kept"}
    children = [row for row in rows if row["origin"] == "inpaint"]
    assert len(children) == 5 * 3
    reasons = {(row["name"], row["inpaint_kind"]): row["reason"] for row in children}
    assert {reasons["nobody.png", kind] for kind in QUICK["masks"]} == {"inpaint.no_face"}
    assert {reasons["broken.png", kind] for kind in QUICK["masks"]} == {"truncated"}
    # The parser of the zoo sees no hair anywhere.
    assert reasons["one.png", "hair"] == "inpaint.mask" and reasons["one.png", "face"] is None
    kept = [row for row in children if row["status"] == "kept"]
    assert {(row["name"], row["inpaint_kind"]) for row in kept} >= {("one.png", "face"), ("two.png", "all-but-face")}
    for row in kept:
        before = np.asarray(Image.open(people / row["name"]))
        after, mask = synthesis.opened(run, row["media"]), synthesis.opened(run, row["inpaint_mask"])[..., 0]
        assert row["parent"] == photos[row["name"]]["id"] != row["id"] and len(row["id"]) == 32
        assert (row["kind"], row["format"], row["width"], row["height"]) == ("image", "png", 320, 240)
        assert row["bytes"] > 0 and row["short_side"] == 240
        assert (after[mask == 0] == before[mask == 0]).all() and (after[mask == 255] != before[mask == 255]).any()
        assert row["inpaint_share"] + 1e-6 >= (mask > 0).mean() > 0
        assert row["prompt"] in PROMPTS[row["inpaint_kind"]] and row["generator"] == "hf:tiny/flux-fill"
        assert row["licence"] == "not stated; fill: random weights" and row["source"].endswith("drawn anew)")
        assert row["generator_seed"] == int(row["id"][:15], 16)
    models = {model["role"]: model for model in run.entry("inpaint")["models"]}
    assert set(models) == {"fill", "parser", "faces"} and all(len(one["sha256"]) == 64 for one in models.values())
    # The same command again computes nothing; another run makes the same pictures under the same names.
    again = short_recipes.curate(config, tmp_path / "run", people)
    assert again.entry("inpaint")["started"] == run.entry("inpaint")["started"]
    other = short_recipes.curate(config, tmp_path / "other", people)
    assert [(row["id"], row["media"]) for row in short_recipes.rows_of(other, "inpaint")] == [
        (row["id"], row["media"]) for row in rows
    ]


def test_faces_that_are_known_are_not_looked_for_and_pictures_are_measured(
    tiny: Zoo, people: Path, tmp_path: Path
) -> None:
    tiny("flux-fill", "ace-plus")
    options = {**synthesis.FILL["options"], **LORA}  # type: ignore[dict-item]
    measured = {"step": "measure", "measures": ["faces", "identity"]}
    steps = recipe({"step": "gate", "whole": {"bytes": {"min": 1500}}}, measured, masks=["face"])
    some = tmp_path / "some"
    some.mkdir()
    shutil.copy(people / "one.png", some)
    config = short_recipes.write(
        tmp_path, tiny, steps, "faces", "identity", "parser", fill={"model": "hf:tiny/flux-fill", "options": options}
    )
    run = short_recipes.curate(config, tmp_path / "run", some)
    assert [model["role"] for model in run.entry("inpaint")["models"]] == ["fill", "parser", "faces", "identity"]
    [row] = short_recipes.rows_of(run, "inpaint", "inpaint")
    assert row["status"] == "kept" and row["faces"] is not None
    assert row["generator"] == "hf:tiny/flux-fill + hf:tiny/ace-plus"
    [photo] = short_recipes.rows_of(run, "inpaint", "photo")
    assert photo["faces"] == 1 and photo["embedding"] is not None


def test_a_run_goes_on_where_it_stopped(tiny: Zoo, people: Path, tmp_path: Path) -> None:
    tiny("flux-fill")
    config = short_recipes.write(tmp_path, tiny, recipe(masks=["face"]), "faces", "parser", fill=synthesis.FILL)
    half, whole = tmp_path / "half", tmp_path / "whole"
    shutil.copytree(people, half)
    (half / "two.png").unlink()
    run = short_recipes.curate(config, whole, half)
    first = {row["id"]: row["media"] for row in short_recipes.rows_of(run, "inpaint", "inpaint")}
    shutil.copy(people / "two.png", half)
    run = short_recipes.curate(config, whole, half)
    second = {row["id"]: row["media"] for row in short_recipes.rows_of(run, "inpaint", "inpaint")}
    assert len(second) == len(first) + 1 and first.items() <= second.items()


def operators(people: Path, **settings: Any) -> Any:
    env = Env(
        "tiny",
        {
            "fill": (Binding("fill", "hf:tiny/flux-fill", options={"area": 128 * 128}),),
            "parser": (PARSER,),
            "faces": (Binding("faces", "insightface:tiny"),),
        },
    )
    step = Inpaint(InpaintSettings(**{**QUICK, "masks": ("face",), **settings}), env)
    batch = synthesis.table([people / "one.png", people / "two.png"])
    step.reads({field.name: field for field in batch.schema})
    return step.operators(), batch


def test_neighbours_and_order_change_nothing(tiny: Zoo, people: Path, tmp_path: Path) -> None:
    tiny("flux-fill", "bisenet", "face-pack")
    chain, batch = operators(people, per_mask=2)
    together = synthesis.through(chain, batch, tmp_path)
    alone: dict[str, Any] = {}
    for start in (1, 0):
        alone |= synthesis.through(operators(people, per_mask=2)[0], batch.slice(start, 1), tmp_path)
    assert together == alone and len(together) == 2 * 3
    drawn = [row for row in together.values() if row["origin"] == "inpaint"]
    assert len({row["media"] for row in drawn}) == 4
    for parent in ("one", "two"):
        prompts = [row["prompt"] for row in drawn if row["parent"] == parent]
        assert len(set(prompts)) == 2  # none comes twice before all have come
    seeded = synthesis.through(operators(people)[0], batch, tmp_path, seed=1)
    assert not set(seeded) & {row["id"] for row in drawn}


def test_too_small_pictures_are_refused(tiny: Zoo, tmp_path: Path) -> None:
    tiny("flux-fill", "bisenet", "face-pack")
    folder = synthesis.people(tmp_path / "people")
    Image.open(folder / "one.png").crop((128, 90, 190, 150)).save(tmp_path / "tiny.png")
    chain, _ = operators(folder)
    known = {"face_box": [10.0, 10.0, 50.0, 50.0], "face_kps": [20.0, 20, 40, 20, 30, 30, 22, 40, 38, 40]}
    chain[0].detector = None
    batch = synthesis.table([tmp_path / "tiny.png"])
    for name, value in {**known, "face_score": 0.9}.items():
        kind = pa.float32() if name == "face_score" else pa.list_(pa.float32())
        batch = batch.append_column(name, pa.array([value], kind))
    [child] = [row for row in synthesis.through(chain, batch, tmp_path).values() if row["origin"] == "inpaint"]
    assert (child["reason"], child["value"], child["threshold"]) == ("inpaint.too_small", 60.0, ">= 64")


# -- real networks ---------------------------------------------------------------------------------------------------


@pytest.mark.offline_weights
@pytest.mark.fixtures
def test_of_a_real_photo_the_face_or_all_but_it_stays(tiny: Zoo, fixtures: Path, tmp_path: Path) -> None:
    """Detector and parser are real, what is drawn is noise."""
    tiny("flux-fill")
    env = Env(
        "mixed",
        {
            "fill": (Binding("fill", "hf:tiny/flux-fill", options={"area": 128 * 128}),),
            "parser": (Binding("parser", "bisenet-celebamask"),),
            "faces": (Binding("faces", "scrfd-500m"),),
        },
    )
    step = Inpaint(InpaintSettings(steps=1), env)
    path = fixtures / "identities" / "cb_id3" / "01_celebbasis.jpg"
    batch = synthesis.table([path])
    step.reads({field.name: field for field in batch.schema})
    rows = synthesis.through(step.operators(), batch, tmp_path).values()
    made = {row["inpaint_kind"]: row for row in rows if row["origin"] == "inpaint"}
    assert {kind: row["reason"] for kind, row in made.items()} == dict.fromkeys(KINDS)
    shares = {kind: row["inpaint_share"] for kind, row in made.items()}
    assert shares["head"] > shares["face"] and shares["head"] > shares["hair"]
    masks = {kind: synthesis.opened(tmp_path, row["inpaint_mask"])[..., 0] for kind, row in made.items()}
    # Nose and mouth: inside the face, outside of what `all-but-face` and `hair` draw.
    from idtool.models.faces import Scrfd

    before = np.asarray(Image.open(path).convert("RGB"))
    for x, y in Scrfd().detect([before])[0][0].kps.round().astype(int):
        assert masks["face"][y, x] == masks["head"][y, x] == 255
        assert masks["all-but-face"][y, x] == 0 == masks["hair"][y, x]
    for kind, row in made.items():
        after = synthesis.opened(tmp_path, row["media"])
        untouched = masks[kind] == 0
        assert 0.05 < untouched.mean() < 0.95 and ((masks[kind] > 0) & (masks[kind] < 255)).any()
        assert (after[untouched] == before[untouched]).all()


def test_a_row_and_the_manifest_tell_how_it_was_made(tiny: Zoo, people: Path, tmp_path: Path) -> None:
    """Drawn again by the network's own wrapper from what is stored, it has the same pixels."""
    from idtool.models.fill import Fill
    from idtool.models.sources import Weights

    tiny("flux-fill")
    steps = recipe(masks=["face"], context=None, feather=0, where={"name": "one.png"})
    config = short_recipes.write(tmp_path, tiny, steps, "faces", "parser", fill=synthesis.FILL)
    run = Run(short_recipes.curate(config, tmp_path / "run", people).path)
    [row] = short_recipes.rows_of(run, "inpaint", "inpaint")
    stored = run.entry("inpaint")["own"]["settings"]
    before, after = np.asarray(Image.open(people / "one.png")), synthesis.opened(run, row["media"])
    mask = synthesis.opened(run, row["inpaint_mask"])[..., 0] == 255
    assert mask.mean() == pytest.approx(row["inpaint_share"])
    fill = Fill(Weights("hf:tiny/flux-fill", tiny("flux-fill")), area=128 * 128)
    again = fill(before, mask, row["prompt"], row["generator_seed"], steps=stored["steps"], guidance=stored["guidance"])
    assert (after[mask] == again[mask]).all() and (after[~mask] == before[~mask]).all()


@pytest.mark.parametrize("name", ["flux2-klein", "flux-fill"])
def test_networks_that_know_references_are_shown_the_picture(
    name: str, tiny: Zoo, people: Path, tmp_path: Path
) -> None:
    tiny(name, "ace-plus", "bisenet", "face-pack")
    media = {}
    for reference in ("auto", "never"):
        chain, batch = operators(people, reference=reference)
        options = {"area": 128 * 128, **(LORA if name == "flux-fill" else {})}
        chain[0].fill = Binding("fill", f"hf:tiny/{name}", options=options)
        rows = synthesis.through(chain, batch.slice(0, 1), tmp_path)
        [media[reference]] = [row["media"] for row in rows.values() if row["origin"] == "inpaint"]
    assert media["auto"] != media["never"]
