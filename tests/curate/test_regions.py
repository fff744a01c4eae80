"""Pictures of the parts of a face: exact on drawn labels, consistent with a tiny parser, right on a real photo."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
from PIL import Image

from idtool.curate import region_images
from idtool.curate.regions import WRITES, Regions, RegionsSettings
from idtool.engine.operator import Context
from idtool.engine.step import Binding, Env
from idtool.media.store import MediaStore
from idtool.models.crops import around
from idtool.models.parts import PARTS, REGIONS, Parsed
from tests.zoo import Zoo
from tests.zoo.face_pack import drawn_person

BISENET = Binding("parser", "hf:tiny/bisenet", options={"format": "bisenet", "file": "face_parsing.pth"})
TINY = Env("tiny", {"parser": (BISENET,)})
OFFLINE = Env("offline", {"parser": (Binding("parser", "bisenet-celebamask"),)})
Pixels = npt.NDArray[np.uint8]


def label(*parts: str, side: int = 64) -> Pixels:
    """A quarter of the square for each part, from the top left row by row."""
    labels = np.zeros((side, side), np.uint8)
    for number, part in enumerate(parts):
        row, column = divmod(number, 2)
        half = side // 2
        labels[row * half : (row + 1) * half, column * half : (column + 1) * half] = PARTS.index(part)
    return labels


# -- pictures --------------------------------------------------------------------------------------------------------


def test_beyond_the_image_there_is_black_and_background() -> None:
    image = np.full((40, 60, 3), 200, np.uint8)
    parsed = Parsed(np.full((64, 64), PARTS.index("hair"), np.uint8), around([40, 0, 80, 40], 1.6, 64))
    frame, labels = region_images.framed(image, parsed)
    assert frame.shape == (64, 64, 3) and labels.shape == (64, 64)
    inside = labels == PARTS.index("hair")
    # The square spans x 28 to 92 and y -12 to 52 at one pixel to a pixel.
    assert inside[12:52, :32].all() and not inside[:11].any() and not inside[:, 33:].any()
    assert not frame[~inside].any() and (frame[13:51, 1:31] == 200).all()


def test_labels_on_the_whole_image_lie_where_the_face_is() -> None:
    image = np.zeros((100, 120, 3), np.uint8)
    parsed = Parsed(np.full((64, 64), 17, np.uint8), around([20, 10, 84, 74], 1.0, 64))
    same, labels = region_images.whole(image, parsed)
    assert same is image and labels.shape == (100, 120)
    ys, xs = np.nonzero(labels)
    assert (ys.min(), ys.max(), xs.min(), xs.max()) == (10, 73, 20, 83)


def test_paired_parts_both_count_unless_the_first_of_each_is_asked_for() -> None:
    labels = label("left_eye", "right_eye", "upper_lip", "lower_lip")
    both, first = region_images.parts_of("both"), region_images.parts_of("first")
    assert list(both) == list(first) == ["face", "eyes", "ears", "nose", "mouth"]
    shares = {pairs["eyes"]: region_images.mask(labels, pairs["eyes"], fill=False).mean() for pairs in (both, first)}
    assert list(shares.values()) == [0.5, 0.25]
    assert region_images.mask(labels, both["mouth"], fill=False)[32:].all()
    assert not region_images.mask(labels, first["mouth"], fill=False)[32:, 32:].any()
    assert not region_images.mask(labels, both["ears"], fill=False).any()


def test_holes_are_filled_when_asked_for() -> None:
    labels = np.full((20, 20), PARTS.index("skin"), np.uint8)
    labels[8:12, 8:12] = PARTS.index("glasses")
    assert not region_images.mask(labels, REGIONS["face"], fill=False)[9, 9]
    assert region_images.mask(labels, REGIONS["face"], fill=True).all()


def test_crops_keep_the_pixels_inside_the_mask_only() -> None:
    image = np.random.default_rng(0).integers(1, 255, (50, 40, 3), dtype=np.uint8)
    mask = np.zeros((50, 40), np.bool_)
    mask[10:20, 30:36] = True
    whole = region_images.on_black(image, mask)
    assert (whole[mask] == image[mask]).all() and not whole[~mask].any() and whole.shape == image.shape
    assert (region_images.on_black(image, mask, 0.0) == image[10:20, 30:36]).all()
    wider = region_images.on_black(image, mask, 0.5)
    assert wider.shape == (20, 15, 3)  # 5 px more on each side, but the image ends on the right
    assert (wider[5:15, 5:11] == image[10:20, 30:36]).all() and wider.sum() == whole.sum()


# -- the step --------------------------------------------------------------------------------------------------------


def cut(env: Env, folder: Path, images: dict[str, Pixels | Path], boxes: list[Any], **settings: Any) -> Any:
    """The rows of the step's operator, and a way to read the pictures that they name."""
    paths = {}
    for name, image in images.items():
        paths[name] = image if isinstance(image, Path) else folder / f"{name}.png"
        if not isinstance(image, Path):
            Image.fromarray(image).save(paths[name])
    step = Regions(RegionsSettings.model_validate(settings), env)
    assert step.skip_reason() is None and step.writes({}) == WRITES
    [operator] = step.operators()
    operator.setup(Context(run_dir=str(folder)))
    # The parser looks at the box only.
    kps = [None if box is None else [float(number) for number in range(10)] for box in boxes]
    size = pa.nulls(len(boxes), pa.int32())
    columns = {"id": list(paths), "media": [str(path) for path in paths.values()], "width": size, "height": size}
    columns |= {"face_box": boxes, "face_kps": kps, "face_score": [None if box is None else 0.9 for box in boxes]}
    out = operator(pa.table(columns))
    assert [out.schema.field(name) for name in WRITES.names] == list(WRITES)
    store = MediaStore(folder / "media")
    return out.to_pylist(), lambda ref: np.asarray(Image.open(store.path(ref)))


def consistent(row: dict[str, Any], read: Any, frame: Pixels, least: float = 0.0003) -> None:
    """Masks are those of the stored labels, crops those of the masks."""
    labels = read(row["region_labels"])
    assert labels.shape == frame.shape[:2] and labels.dtype == np.uint8 and labels.max() < len(PARTS)
    for region, parts in REGIONS.items():
        seen = np.isin(labels, [PARTS.index(part) for part in parts])
        assert row[f"{region}_visible"] == (row[f"{region}_pixels"] >= least)
        if not row[f"{region}_visible"]:
            assert row[f"{region}_mask"] is None and row[f"{region}_crop"] is None
            continue
        mask, crop = read(row[f"{region}_mask"]), read(row[f"{region}_crop"])
        assert set(np.unique(mask)) <= {0, 255} and ((mask == 255) == seen).all()
        assert (crop == frame * seen[..., None]).all()


def test_a_tiny_parser_cuts_drawn_faces(tiny: Zoo, tmp_path: Path) -> None:
    tiny("bisenet")
    images: dict[str, Pixels | Path] = {"face": drawn_person(0, centre=(200, 200), radius=80), "empty": drawn_person(1)}
    rows, read = cut(TINY, tmp_path, images, [[120.0, 120.0, 280.0, 280.0], None])
    face, empty = rows
    assert (face["status"], empty["status"], empty["reason"]) == ("kept", "rejected", "regions.no_face")
    frame = read(face["region_frame"])
    assert frame.shape == (512, 512, 3)
    consistent(face, read, frame)
    matrix = np.array(face["region_matrix"]).reshape(2, 3)
    assert matrix @ [200, 200, 1] == pytest.approx([256, 256])
    seen = [region for region in REGIONS if face[f"{region}_visible"]]
    assert seen, "the random parser sees something"
    for region in seen:
        parts = [PARTS.index(part) for part in REGIONS[region]]
        assert face[f"{region}_pixels"] == pytest.approx(np.isin(read(face["region_labels"]), parts).mean(), abs=1e-6)

    rows, read = cut(TINY, tmp_path, {"face": images["face"]}, [[120.0, 120.0, 280.0, 280.0]], frame="image")
    assert rows[0]["region_frame"] is None
    consistent(rows[0], read, np.asarray(images["face"]))
    assert rows[0]["face_pixels"] == pytest.approx(face["face_pixels"], abs=0.01)
    rows, _ = cut(TINY, tmp_path, {"face": images["face"]}, [[120.0, 120.0, 280.0, 280.0]], crop="none", min_share=1.0)
    assert not any(rows[0][f"{region}_visible"] or rows[0][f"{region}_crop"] for region in REGIONS)


@pytest.mark.offline_weights
@pytest.mark.fixtures
def test_a_real_face_has_two_eyes_above_the_nose_above_the_mouth(fixtures: Path, tmp_path: Path) -> None:
    photo = fixtures / "identities" / "obama" / "00_face_recognition.jpg"
    [row], read = cut(OFFLINE, tmp_path, {"obama": photo}, [[326.0, 219.0, 568.0, 559.0]])
    consistent(row, read, read(row["region_frame"]))
    assert all(row[f"{region}_visible"] for region in REGIONS)
    middle = {region: np.argwhere(read(row[f"{region}_mask"])).mean(axis=0) for region in REGIONS}
    assert middle["eyes"][0] < middle["nose"][0] < middle["mouth"][0]
    columns = np.flatnonzero(read(row["eyes_mask"]).any(axis=0))
    assert columns.min() < middle["nose"][1] < columns.max()
    assert 0.1 < row["face_pixels"] < 0.3 and row["eyes_pixels"] < 0.01
    [first], read = cut(OFFLINE, tmp_path, {"obama": photo}, [[326.0, 219.0, 568.0, 559.0]], pairs="first", crop="bbox")
    assert 0.3 < first["eyes_pixels"] / row["eyes_pixels"] < 0.7
    assert max(read(first["eyes_crop"]).shape[:2]) < 100


def test_without_a_parser_the_step_is_skipped_and_says_what_lacks() -> None:
    step = Regions(RegionsSettings(), Env("bare", {}))
    assert step.skip_reason() == "needs role parser; profile bare binds none"
    assert set(step.provides_none()) == set(WRITES.names)
    settings = RegionsSettings(batch=1, gpus=0.5)
    assert Regions(settings, OFFLINE).config() == Regions(RegionsSettings(), OFFLINE).config()
    assert Regions(RegionsSettings(fill=True), OFFLINE).config() != Regions(RegionsSettings(), OFFLINE).config()
