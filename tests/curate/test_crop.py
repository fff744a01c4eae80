"""Crops: geometry on drawn squares, FFHQ's own framing on real photos, rows and refusals through the command line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from idtool.curate import ffhq
from idtool.curate.crop import Crop, CropSettings, bounds, boxed, framed
from idtool.engine.apply import apply
from idtool.engine.operator import OUTCOME, Context, Rejected
from idtool.engine.step import Binding, Env
from idtool.evaluate.measure import MeasureSettings, MeasureStep
from idtool.media.store import MediaStore
from tests.curate import short_recipes
from tests.zoo import Zoo
from tests.zoo.face_pack import POINTS, drawn_person

KPS = np.array([[-20, -15], [20, -15], [0, 8], [-15, 25], [15, 25]], np.float64)
"""Eyes 40 apart, mouth 40 below them."""


def turned(degrees: float, centre: tuple[float, float] = (200.0, 150.0)) -> np.ndarray:
    angle = np.radians(degrees)
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    return KPS @ turn + centre


# -- geometry --------------------------------------------------------------------------------------------------------


def test_the_square_is_that_of_the_paper() -> None:
    corners = ffhq.square(turned(0))
    # Half a side is twice the distance of the eyes, 80; the centre a tenth of 40 below them.
    assert ffhq.side(corners) == pytest.approx(160)
    np.testing.assert_allclose(corners.mean(axis=0), [200, 150 - 15 + 4])
    np.testing.assert_allclose(corners, [[120, 59], [280, 59], [280, 219], [120, 219]])
    longer = turned(0) + np.array([[0, 0]] * 3 + [[0, 40]] * 2)
    assert ffhq.side(ffhq.square(longer)) == pytest.approx(2 * 1.8 * 80)
    with pytest.raises(ValueError, match="coincide"):
        ffhq.square(np.zeros((5, 2)))


@pytest.mark.parametrize("degrees", [0, 30, -75, 180])
def test_faces_come_out_upright_and_in_place(degrees: float) -> None:
    kps = turned(degrees)
    image = np.full((300, 400, 3), 90, np.uint8)
    for k, (x, y) in enumerate(kps):
        cv2.circle(image, (round(x), round(y)), 4, (255, 40 * k, 0), -1)
    crop = ffhq.aligned(image, ffhq.square(kps), 320)
    assert crop.shape == (320, 320, 3)
    for k, (x, y) in enumerate((KPS - KPS[:2].mean(axis=0) + [80, 76]) * 2):  # the eyes' middle is 76 below the top
        ys, xs = np.nonzero((crop[..., 0] > 245) & (np.abs(crop[..., 1].astype(int) - 40 * k) < 8))
        assert (xs.mean(), ys.mean()) == pytest.approx((x, y), abs=2.5), (degrees, k)


def smooth(seed: int) -> np.ndarray:
    noise = np.random.default_rng(seed).integers(0, 256, (300, 400, 3)).astype(np.uint8)
    return np.asarray(cv2.GaussianBlur(noise, (0, 0), 3))


def test_pixels_of_a_straight_crop_stay_what_they_are() -> None:
    image = smooth(0)
    # FFHQ's corners lie in the middle of pixels; half a pixel further out, whole pixels are cut.
    crop = ffhq.aligned(image, ffhq.square(turned(0)) - 0.5, 160)
    assert np.abs(crop.astype(int) - image[59:219, 120:280]).max() <= 2
    half = ffhq.aligned(image, ffhq.square(turned(0)) - 0.5, 80)
    expected = cv2.resize(image[59:219, 120:280], (80, 80), interpolation=cv2.INTER_AREA)
    assert np.abs(half.astype(int) - expected).max() <= 2


def test_beyond_the_picture_there_is_its_mirror_image_that_fades() -> None:
    image = smooth(1)
    corners = ffhq.square(turned(0, (40, 150)))  # the square begins at x = -40
    assert ffhq.outside(corners, 400, 300) == pytest.approx(40 / 160, abs=0.01)
    crop = ffhq.aligned(image, corners - 0.5, 160)
    # Made up: hardly anything but the median at the border. Given: what it was, but for what is near the edge.
    assert crop[:, :4].std() < 0.5 * image.std()
    assert np.abs(crop[:, 70:].astype(int) - image[59:219, 30:120]).max() <= 2
    assert ffhq.outside(ffhq.square(turned(0)), 400, 300) == 0
    assert ffhq.outside(ffhq.square(turned(0, (-900, 150))), 400, 300) == 1


@pytest.mark.parametrize(
    ("box", "margin", "square", "expected"),
    [
        ((100, 100, 140, 160), 0.0, False, (100, 100, 140, 160)),
        ((100, 100, 140, 160), 0.0, True, (90, 100, 150, 160)),
        ((100, 100, 140, 160), 0.5, True, (60, 70, 180, 190)),
        ((100, 100, 140, 160), 0.5, False, (70, 70, 170, 190)),
        ((0, 0, 60, 60), 0.5, True, (0, 0, 120, 120)),  # moved inside
        ((-30, 10, 60, 60), 0.5, True, (0, 0, 180, 180)),
        ((360, 250, 420, 320), 0.0, True, (330, 230, 400, 300)),
        ((100, 50, 300, 250), 1.0, True, (50, 0, 350, 300)),  # no larger than the picture
    ],
)
def test_plain_crops_lie_inside(box: Any, margin: float, square: bool, expected: Any) -> None:
    found = bounds(box, 400, 300, margin, square)
    assert found == expected
    assert not square or found[2] - found[0] == found[3] - found[1]


def test_refusals_name_value_and_bound() -> None:
    image = np.zeros((300, 400, 3), np.uint8)

    def refusal(cut: Any, where: Any, **settings: Any) -> Rejected:
        with pytest.raises(Rejected) as error:
            cut(image, where, CropSettings(**settings))
        return error.value

    large = refusal(framed, turned(0), size=512)
    assert (large.reason, large.threshold) == ("crop.max_scale", "<= 1.1") and large.value == pytest.approx(3.2)
    small = refusal(framed, turned(0), size=128, min_side=200)
    assert (small.reason, small.value, small.threshold) == ("crop.min_side", pytest.approx(160), ">= 200")
    beside = refusal(framed, turned(0, (20, 150)), size=128, max_outside=0.3)
    assert (beside.reason, beside.threshold) == ("crop.max_outside", "<= 0.3") and beside.value == pytest.approx(
        0.375, abs=0.01
    )
    assert refusal(framed, np.zeros((5, 2)), size=128).reason == "crop.points"
    assert refusal(boxed, (500, 10, 600, 50), frame="box").reason == "crop.no_face"
    assert refusal(boxed, (10, 10, 40, 50), frame="box", margin=0, size=None).reason == "crop.min_side"
    with pytest.raises(ValueError, match="frame ffhq needs a size"):
        CropSettings(size=None)
    crop, told = boxed(image, (100, 100, 200, 200), CropSettings(frame="box", margin=0.1, size=None))
    assert crop.shape == (120, 120, 3) and told == {"crop_scale": 1.0, "crop_outside": 0.0}
    crop, told = boxed(image, (100, 100, 200, 250), CropSettings(frame="box", margin=0, size=75))
    assert crop.shape == (75, 50, 3) and told["crop_scale"] == 0.5


@pytest.mark.offline_weights
@pytest.mark.fixtures
def test_photos_that_are_framed_as_ffhq_stay_as_they_are(fixtures: Path) -> None:
    """Portraits of CelebBasis are FFHQ crops of 512 px: cut again they hardly move."""
    from idtool.models.faces import Scrfd

    detector = Scrfd()
    found = []
    for name in ("cb_id0/04", "cb_id3/01", "cb_id6/07", "cb_id9/04"):
        image = np.asarray(Image.open(fixtures / "identities" / f"{name}_celebbasis.jpg").convert("RGB"))
        corners = ffhq.square(detector.detect([image])[0][0].kps)
        found.append(corners)
        assert ffhq.aligned(image, corners, 512).shape == (512, 512, 3)
    off = np.abs(np.stack(found) - np.array([[0, 0], [512, 0], [512, 512], [0, 512]])).max(axis=(1, 2))
    assert (off < 0.08 * 512).all(), off


@pytest.mark.offline_weights
@pytest.mark.fixtures
def test_a_real_face_is_found_where_ffhq_has_it(fixtures: Path, tmp_path: Path) -> None:
    """Through the step's operators, with a real detector and a real recognition network."""
    roles = {"faces": "scrfd-500m", "identity": "arcface-mbf"}
    env = Env("offline", {role: (Binding(role, model),) for role, model in roles.items()})
    names = ("identities/obama/00_face_recognition.jpg", "singles/cc_sunak.jpg", "hard/yaw_45.jpg")
    sizes = [Image.open(fixtures / name).size for name in names]
    rows = [
        {"id": f"{k}" * 32, "kind": "image", "media": str(fixtures / name), "width": size[0], "height": size[1]}
        for k, (name, size) in enumerate(zip(names, sizes, strict=True))
    ]
    measure = MeasureStep(MeasureSettings(measures=("faces", "identity")), env)
    table = pa.Table.from_pylist(rows)
    [operator] = measure.operators()
    operator.setup(Context(run_dir=str(tmp_path)))
    table = operator(table).drop_columns(OUTCOME.names)
    step = Crop(CropSettings(size=384, keep="both"), env)
    step.reads({field.name: field for field in table.schema})
    assert [binding.model for binding in step.models()] == ["scrfd-500m", "arcface-mbf"]
    operators = step.operators()
    for operator in operators:
        operator.setup(Context(run_dir=str(tmp_path)))
    out = apply(operators, table).to_pylist()
    photos = {row["id"]: row for row in out if not row["made_here"]}
    crops = [row for row in out if row["made_here"]]
    assert len(photos) == len(crops) == 3 and all(row["status"] == "kept" for row in out)
    for crop in crops:
        points = np.array(crop["face_kps"]).reshape(5, 2)
        eyes, mouth = points[:2].mean(axis=0), points[3:].mean(axis=0)
        assert abs(points[0][1] - points[1][1]) < 0.06 * 384
        assert (eyes[0] + mouth[0]) / 2 == pytest.approx(192, abs=0.05 * 384)
        assert eyes[1] < 0.5 * 384 < mouth[1] < 0.8 * 384
        assert np.dot(crop["embedding"], photos[crop["parent"]]["embedding"]) > 0.9


# -- through the command line ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def portraits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A large face, a small one, one at the edge, and a picture of nobody."""
    folder = tmp_path_factory.mktemp("portraits")
    Image.fromarray(drawn_person(1, centre=(320, 240), radius=110)).save(folder / "large.png")
    Image.fromarray(drawn_person(1, centre=(320, 240), radius=40)).save(folder / "small.png")
    Image.fromarray(drawn_person(2, centre=(60, 240), radius=120)).save(folder / "edge.png")
    Image.fromarray(np.full((480, 640, 3), (60, 110, 90), np.uint8)).save(folder / "nobody.png")
    return folder


def steps(**settings: Any) -> list[dict[str, Any]]:
    return [{"step": "ingest"}, {"step": "measure", "measures": ["faces", "identity"]}, {"step": "crop", **settings}]


def test_crops_take_the_place_of_their_pictures(tiny: Zoo, portraits: Path, tmp_path: Path) -> None:
    config = short_recipes.write(tmp_path, tiny, steps(size=256, max_outside=0.1), "faces", "identity")
    run = short_recipes.curate(config, tmp_path / "run", portraits)
    rows = {row["name"]: row for row in short_recipes.rows_of(run, "crop")}
    assert {name: row["reason"] for name, row in rows.items()} == {
        "large.png": None,
        "small.png": "crop.max_scale",
        "edge.png": "crop.max_outside",
        "nobody.png": "crop.no_face",
    }
    sources = {row["name"]: row for row in short_recipes.rows_of(run, "measure")}
    crop, source = rows["large.png"], sources["large.png"]
    assert crop["parent"] == source["id"] and crop["id"] != source["id"] and len(crop["id"]) == 32
    assert (crop["kind"], crop["origin"], crop["width"], crop["height"], crop["short_side"]) == (
        "image",
        "crop",
        256,
        256,
        256,
    )
    assert crop["format"] == "jpeg" and crop["licence"] == source["licence"] and crop["uri"] == source["uri"]
    stored = MediaStore(run.store_root).path(crop["media"])
    assert stored.stat().st_size == crop["bytes"] and Image.open(stored).size == (256, 256)
    # Measured anew, of other pixels.
    assert crop["faces"] >= 1 and crop["embedding"] is not None and crop["embedding"] != source["embedding"]
    assert crop["face_kps"] != source["face_kps"]
    # What was rejected still names the picture.
    assert rows["small.png"]["id"] == sources["small.png"]["id"] and rows["small.png"]["threshold"] == "<= 1.1"
    again = short_recipes.curate(config, tmp_path / "again", portraits)
    assert {row["media"] for row in short_recipes.rows_of(again, "crop", "crop")} == {crop["media"]}


def test_crops_stand_beside_their_pictures(tiny: Zoo, portraits: Path, tmp_path: Path) -> None:
    wanted = steps(frame="square", size=None, keep="both", remeasure=False, format="png", margin=0.2)
    config = short_recipes.write(tmp_path, tiny, wanted, "faces", "identity")
    run = short_recipes.curate(config, tmp_path / "run", portraits)
    rows = short_recipes.rows_of(run, "crop")
    photos = {row["name"]: row for row in rows if row["origin"] == "photo"}
    crops = {row["name"]: row for row in rows if row["origin"] == "crop"}
    assert len(photos) == len(crops) == 4 and all(row["status"] == "kept" for row in photos.values())
    assert {name: row["reason"] for name, row in crops.items() if row["reason"]} == {"nobody.png": "crop.no_face"}
    for name, crop in crops.items():
        assert crop["parent"] == photos[name]["id"] and crop["embedding"] is None and crop["faces"] is None
        if crop["status"] == "kept":
            source = np.asarray(Image.open(portraits / name))
            cut = np.asarray(Image.open(MediaStore(run.store_root).path(crop["media"])))
            left, top, right, bottom = bounds(photos[name]["face_box"], 640, 480, 0.2, True)
            assert (cut == source[top:bottom, left:right]).all() and crop["crop_scale"] == 1


def test_without_faces_the_step_is_skipped() -> None:
    step = Crop(CropSettings(), Env("bare", {}))
    step.missing = {"face_kps": "needs role faces; profile bare binds none"}
    assert step.skip_reason() == "needs role faces; profile bare binds none"
    assert Crop(CropSettings(frame="box"), Env("bare", {})).told_by == "face_box"
    assert POINTS[0][0] < 0  # the first eye is the left one of the picture
