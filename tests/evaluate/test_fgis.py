"""FGIS: what is cut out of real faces by a real parser, which regions are compared, and what moves the number.

The features network is a tiny one of random weights: it tells pictures apart, not people.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from idtool.engine.operator import Context
from idtool.engine.step import Env
from idtool.evaluate.measures.base import Item
from idtool.evaluate.measures.face_regions import (
    MIN_SHARE,
    SIDE,
    FaceRegions,
    FaceRegionsFullframe,
    aligned,
    parsed,
)
from idtool.evaluate.measures.people import People, faces_of
from idtool.evaluate.metrics.base import Unscored
from idtool.evaluate.metrics.fgis import Fgis, FgisCoverage, FgisRegion
from idtool.models.parts import REGIONS
from tests.evaluate.offline import env, sample
from tests.evaluate.tiny_networks import Pixels, bound, photo, row, saved, scored
from tests.zoo import Zoo

X, Y, HALF = [1.0, 0.0], [0.0, 1.0], [0.6, 0.8]


def regions(*vectors: list[float] | None) -> dict[str, Any]:
    return {"region_embeddings": [*vectors, *[None] * (5 - len(vectors))]}


def test_the_mean_over_regions_that_both_show() -> None:
    pair = sample(regions(X, HALF, None, X), regions(X, X, X, None))
    assert Fgis()(pair) == pytest.approx((1 + 0.6) / 2)
    assert FgisCoverage()(pair) == 0.4
    named = {region: FgisRegion(region) for region in REGIONS}
    assert named["face"](pair) == 1 and named["eyes"](pair) == pytest.approx(0.6)
    with pytest.raises(Unscored, match="the region ears is not seen in both"):
        named["ears"](pair)
    with pytest.raises(Unscored, match="no region is seen in both"):
        Fgis()(sample(regions(X), regions(None, X)))
    assert FgisCoverage()(sample(regions(X), regions(None, X))) == 0


def test_faces_that_are_not_there_and_people_who_are_several() -> None:
    nobody: dict[str, Any] = {"region_embeddings": None}
    for metric in (Fgis(), FgisCoverage(), FgisRegion()):
        with pytest.raises(Unscored, match="no face in the image"):
            metric(sample(nobody, regions(X)))
        with pytest.raises(Unscored, match="no face in reference 2"):
            metric(sample(regions(X), regions(X), nobody, people=["a", "a"]))
        with pytest.raises(Unscored, match="no reference"):
            metric(sample(regions(X)))
        for people in (["a", "b"], [None, None], None):
            with pytest.raises(Unscored, match="several people"):
                metric(sample(regions(X), regions(X), regions(Y), people=people))
    assert Fgis()(sample(regions(X), regions(X), regions(Y), people=["a", "a"])) == 0.5, "two pictures of one person"


def test_names() -> None:
    labels = {"face_regions": "dino-vits16", "face_regions_fullframe": "dino-vits16"}
    full = Fgis(FaceRegionsFullframe, "@fullframe")
    names = [one.name(labels) for one in (Fgis(), full, FgisRegion("eyes"), FgisCoverage())]
    assert names == [
        "fgis/dino-vits16",
        "fgis/dino-vits16@fullframe",
        "fgis_region/dino-vits16@eyes",
        "fgis_coverage/dino-vits16",
    ]
    assert (full.image, full.column) == (("people", "face_regions_fullframe"), "region_embeddings_fullframe")
    for cls in (Fgis, FgisCoverage, FgisRegion):
        with pytest.raises(Unscored, match="needs role features; profile offline binds none"):
            cls.instances(env())


@pytest.fixture(scope="module")
def surroundings(zoo: Zoo) -> Env:
    """The offline detector and parser with a tiny DINO."""
    return bound(zoo, "features", most=1, beside=env("faces", "parser"))


class Looking:
    """The measures, loaded once."""

    def __init__(self, surroundings: Env) -> None:
        self.measures = [cls.made(surroundings) for cls in (People, FaceRegions, FaceRegionsFullframe)]
        for measure in self.measures:
            measure.load(Context(run_dir=""))

    @property
    def parser(self) -> Any:
        return self.measures[1].models["parser"]

    def item(self, pixels: Pixels) -> Item:
        item = Item({}, pixels)
        for measure in self.measures:
            [value] = measure([item])
            assert isinstance(value, Mapping), value
            item.values.update(value)
        return item

    def __call__(self, pixels: Pixels) -> Mapping[str, Any]:
        return self.item(pixels).values


@pytest.fixture(scope="module")
def looking(zoo: Zoo, surroundings: Env) -> Looking:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("IDTOOL_MODELS", str(zoo.mirror))
        return Looking(surroundings)


@pytest.fixture(scope="module")
def portrait(fixtures: Path) -> Pixels:
    return photo(fixtures / "singles" / "cc_sunak.jpg")


@pytest.mark.offline_weights
def test_an_image_is_1_to_itself_and_sees_all_of_a_frontal_face(looking: Looking, portrait: Pixels) -> None:
    seen = looking(portrait)
    same = sample(seen, seen)
    assert Fgis()(same) == pytest.approx(1, abs=1e-6)
    assert Fgis(FaceRegionsFullframe)(same) == pytest.approx(1, abs=1e-6)
    assert FgisCoverage()(same) == 1
    assert [FgisRegion(region)(same) for region in REGIONS] == pytest.approx([1] * 5, abs=1e-6)
    areas = dict(zip(REGIONS, seen["region_areas"], strict=True))
    assert 0.2 < areas["face"] < 0.45 and all(MIN_SHARE < areas[name] < 0.05 for name in REGIONS if name != "face")
    assert np.linalg.norm(np.array(seen["region_embeddings"]), axis=1) == pytest.approx(1, abs=1e-5)


@pytest.mark.offline_weights
def test_the_face_is_aligned_before_it_is_parsed(looking: Looking, portrait: Pixels) -> None:
    """A turned and smaller photo of the face gives the same square, and the parser adds no crop of its own."""
    height, width = portrait.shape[:2]
    straight, other = looking.item(portrait), looking.item(turned(portrait, (width / 2, height / 2), 0.6))
    (first, masks), (_, others) = parsed([straight, other], looking.parser)
    for region in REGIONS:
        places = [np.argwhere(found[region]).mean(axis=0) for found in (masks, others)]
        assert np.linalg.norm(places[0] - places[1]) < 30, "of 512 pixels; the detector is not exact"
        assert masks[region].mean() == pytest.approx(others[region].mean(), rel=0.35)
    assert np.abs(np.argwhere(masks["face"]).mean(axis=0) - 256).max() < 60
    assert max(np.ptp(np.argwhere(found["eyes"])[:, 0]) for found in (masks, others)) < 45, "level"
    score = Fgis()(sample(other.values, straight.values))
    assert score > 0.995
    # The same cuts of a face that stays turned are less alike than that.
    measure: Any = looking.measures[1]
    tilted = {name: turned(mask.astype(np.uint8), (256, 256)) > 0 for name, mask in masks.items()}
    squares = [measure.square(first, masks[name]) for name in REGIONS]
    squares += [measure.square(turned(first, (256, 256)), tilted[name]) for name in REGIONS]
    rows = measure.model.images(squares).reshape(2, 5, -1)
    cosines = np.sum(rows[0] * rows[1], axis=1) / np.prod(np.linalg.norm(rows, axis=2), axis=0)
    assert cosines.mean() < score


def turned(pixels: Pixels, centre: tuple[float, float], scale: float = 1.0) -> Pixels:
    height, width = pixels.shape[:2]
    matrix = cv2.getRotationMatrix2D(centre, 25, scale)
    return np.asarray(cv2.warpAffine(pixels, matrix, (width, height)), np.uint8)


@pytest.mark.offline_weights
def test_what_the_network_is_shown(looking: Looking, portrait: Pixels) -> None:
    """Nothing but the region; whole in the middle 224 of 256 pixels, as long as it may be; or in its place."""
    [(picture, masks)] = parsed([looking.item(portrait)], looking.parser)
    cut, framed = looking.measures[1:]
    assert isinstance(cut, FaceRegions) and isinstance(framed, FaceRegionsFullframe)
    for name, mask in masks.items():
        shown = cut.square(picture, mask)
        assert shown.shape == (SIDE, SIDE, 3)
        rows, columns = (np.flatnonzero(shown.any(axis=(axis, 2))) for axis in (1, 0))
        longer = max(np.ptp(rows), np.ptp(columns)) + 1
        assert longer == pytest.approx(224 / 1.3, abs=6), name
        assert min(rows[0], columns[0]) > 16 and max(rows[-1], columns[-1]) < 240
        placed = np.argwhere(framed.square(picture, mask).any(axis=2)).mean(axis=0)
        there = np.argwhere(mask & picture.any(axis=2)).mean(axis=0)
        assert placed == pytest.approx(16 + there * 224 / 512, abs=2), name
    tiny = np.zeros((512, 512), bool)
    tiny[252:260, 252:260] = True
    rows = np.flatnonzero(cut.square(picture, tiny).any(axis=(1, 2)))
    assert len(rows) == pytest.approx(8 * 224 / (16 * 1.3), abs=12), "a box has at least 16 pixels"


@pytest.mark.offline_weights
def test_what_lies_beyond_the_edge_of_the_image_is_no_region(looking: Looking, portrait: Pixels) -> None:
    """A face that the frame cuts: the repeated edge looks like skin to the parser."""
    item = looking.item(portrait)
    left, _, right, _ = (int(value) for value in item.values["people_boxes"][0])
    half = looking.item(np.ascontiguousarray(portrait[:, : (left + right) // 2 + (right - left) // 5]))
    _, inside = aligned(half.image, faces_of(half)[0])
    assert 0.3 < inside.mean() < 0.95
    [(_, masks)] = parsed([half], looking.parser)
    assert all(not (mask & ~inside).any() for mask in masks.values())
    assert masks["face"].mean() < item.values["region_areas"][0]


@pytest.mark.offline_weights
def test_what_moves_it(looking: Looking, portrait: Pixels, fixtures: Path) -> None:
    reference = looking(portrait)

    def score(pixels: Pixels) -> float:
        return Fgis()(sample(looking(pixels), reference))

    left, top, right, bottom = (int(value) for value in reference["people_boxes"][0])
    blurred = [score(np.asarray(cv2.GaussianBlur(portrait, (0, 0), sigma), np.uint8)) for sigma in (1, 3, 6)]
    assert 1 > blurred[0] > blurred[1] > blurred[2]
    assert score((portrait * 0.5).astype(np.uint8)) < 0.99, "light is seen"
    other = score(photo(fixtures / "singles" / "lifeifei.jpg"))
    assert other < 0.99
    # Background and clothes are not: only what lies in the five regions is looked at.
    changed = portrait.copy()
    wide, high = (right - left) // 2, (bottom - top) // 2
    outside = np.ones(portrait.shape[:2], bool)
    outside[max(0, top - high) : bottom + high, max(0, left - wide) : right + wide] = False
    changed[outside] = (30, 160, 90)
    assert outside.mean() > 0.2 and score(changed) > 0.999
    # Nor is what one region shows for another: a painted mouth leaves the eyes alone.
    painted = portrait.copy()
    kps = np.array(reference["people_kps"][0]).reshape(5, 2)
    x, y = kps[3:].mean(axis=0).astype(int)
    cv2.ellipse(
        painted,
        (int(x), int(y)),
        (int((right - left) * 0.24), int((bottom - top) * 0.09)),
        0,
        0,
        360,
        (60, 30, 140),
        -1,
    )
    seen = looking(painted)
    by = {}
    for region in ("eyes", "mouth"):
        try:
            by[region] = FgisRegion(region)(sample(seen, reference))
        except Unscored:
            by[region] = -1.0
    assert by["eyes"] > 0.99 > by["mouth"]


@pytest.mark.offline_weights
def test_hidden_regions_count_for_nothing_and_faceless_pictures_are_not_scored(
    looking: Looking, portrait: Pixels, fixtures: Path
) -> None:
    reference = looking(portrait)
    profile = looking(photo(fixtures / "hard" / "laugh_profile.png"))
    hidden = [k for k, vector in enumerate(profile["region_embeddings"]) if vector is None]
    assert all(profile["region_areas"][k] == 0 for k in hidden)
    pair = sample(profile, reference)
    assert FgisCoverage()(pair) == pytest.approx(1 - len(hidden) / 5)
    assert -1 <= Fgis()(pair) < 1
    nobody = looking(photo(fixtures / "hard" / "no_face_vector.jpg"))
    assert nobody.get("region_embeddings") is None and nobody.get("region_areas") is None


@pytest.mark.offline_weights
def test_from_end_to_end(tiny: Zoo, surroundings: Env, tmp_path: Path, portrait: Pixels, fixtures: Path) -> None:
    reference = saved(tmp_path / "reference.png", portrait)
    nobody = fixtures / "hard" / "no_face_vector.jpg"
    rows = [
        row("copy", reference, [reference]),
        row("nobody", nobody, [reference]),
        row("other", fixtures / "singles" / "freeman.jpg", [reference]),
    ]
    found = scored(tmp_path / "run", surroundings, ["fgis", "fgis_coverage", "fgis_region"], rows)
    assert found.names == [
        "fgis/dino",
        "fgis/dino@fullframe",
        "fgis_coverage/dino",
        *(f"fgis_region/dino@{region}" for region in REGIONS),
    ]
    for name in found.names:
        copy, none, other = found.of(name)
        assert copy == pytest.approx(1, abs=1e-6) and none is None
        assert found.missing[name, "nobody"] == "no face in the image"
        assert other <= 1
    told = found.scorer.describe()["fgis/dino"]
    assert {model["role"] for model in told["models"]} == {"faces", "features", "parser"}
    assert told["measures"]["face_regions"]["parser"]["model"] == "bisenet-celebamask"
