"""ColorScore-v1: known answers on painted areas, the matching of regions, real photos, and tiny real networks."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from idtool.engine.operator import Context
from idtool.engine.step import Binding, Env
from idtool.evaluate.charis import regions
from idtool.evaluate.charis.color_score import BINS, SPACES, Area, color_score, colours, eroded, mean_of, terms
from idtool.evaluate.charis.regions import Labels, Part, matched
from idtool.evaluate.measures.base import SampleItem
from idtool.evaluate.measures.color_score import ColorScore
from idtool.models import load
from idtool.models.caption_checks import Unavailable
from idtool.models.grounded import Region
from idtool.models.parts import REGIONS, mask_of
from tests.evaluate import judging
from tests.evaluate.judging import binding
from tests.evaluate.tiny_networks import photo
from tests.models.chat_server import ChatServer, fails, says
from tests.zoo import Zoo, profile

SIDE = 40
WHOLE = np.ones((SIDE, SIDE), bool)


def painted(*rgb: float) -> Area:
    """One colour all over."""
    return np.broadcast_to(np.array(rgb, np.uint8), (SIDE, SIDE, 3)).copy(), WHOLE


def of_hue(degrees: float, saturation: float = 1.0, value: float = 1.0) -> Area:
    hsv = np.full((SIDE, SIDE, 3), (degrees, saturation, value), np.float32)
    return np.round(cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB) * 255).astype(np.uint8), WHOLE


def noise(seed: int, low: int = 0, high: int = 256) -> Area:
    rng = np.random.default_rng(seed)
    image = rng.integers(low, high, (SIDE, SIDE, 3), dtype=np.uint8)
    return image, rng.random((SIDE, SIDE)) < 0.7


def compared(first: Area, second: Area, **options: Any) -> float:
    found = color_score([(first, second)], **options)
    assert found is not None
    return found


def by_space(first: Area, second: Area) -> dict[str, tuple[float, float]]:
    return terms(colours(first), colours(second))


# -- known answers ---------------------------------------------------------------------------------------------------


def test_of_itself_it_is_1_and_of_nothing_there_is_none() -> None:
    for area in (painted(0, 0, 0), painted(200, 40, 90), noise(1), noise(2, 250, 256)):
        assert compared(area, area) == pytest.approx(1, abs=1e-6)
    assert color_score([]) is None and mean_of([]) is None


def test_black_and_white_have_nothing_in_common_but_their_lack_of_hue() -> None:
    found = by_space(painted(0, 0, 0), painted(255, 255, 255))
    assert found["rgb"] == pytest.approx((0, 0), abs=1e-6)
    assert found["lab"] == pytest.approx((0, 0), abs=1e-4)
    assert found["hsv"] == pytest.approx((1 - 1 / 5**0.5, 0), abs=1e-6)  # of a distance of sqrt(5), value alone: 1


def test_the_mean_term_by_hand() -> None:
    found = by_space(painted(255, 0, 0), painted(0, 255, 0))
    assert found["rgb"][0] == pytest.approx(1 - (2 / 3) ** 0.5, abs=1e-6)
    assert found["hsv"][0] == pytest.approx(1 - 3**0.5 / 5**0.5, abs=1e-5)  # 120 degrees apart on the unit circle
    assert found["lab"][0] == 0  # further apart than black and white


def test_hue_is_a_circle() -> None:
    across = compared(of_hue(359), of_hue(1))
    elsewhere = [compared(of_hue(hue), of_hue(hue + 2)) for hue in (29, 89, 179, 269)]
    assert across > 0.95 and across == pytest.approx(np.mean(elsewhere), abs=0.02)
    assert by_space(of_hue(359), of_hue(1))["hsv"][1] > 0.95
    opposite = by_space(of_hue(0), of_hue(180))["hsv"]
    assert opposite[0] == pytest.approx(1 - 2 / 5**0.5, abs=1e-5) and opposite[1] == 0


def test_hue_means_nothing_in_greys() -> None:
    warm, cold = of_hue(30, 0.02, 0.5), of_hue(210, 0.02, 0.5)
    assert by_space(warm, cold)["hsv"][0] > 0.97 and by_space(warm, cold)["hsv"][1] > 0.9


def test_it_is_in_bounds_and_the_same_both_ways_round() -> None:
    rng = np.random.default_rng(0)
    areas = [painted(*rng.integers(0, 256, 3)) for _ in range(4)] + [noise(k, 40 * k, 40 * k + 60) for k in range(4)]
    for grey in (False, True):
        seen = [colours(area, grey_world=grey) for area in areas]
        for first, second in itertools.product(seen, seen):
            for middle in ("mean", "median"):
                value, back = mean_of([terms(first, second, middle)]), mean_of([terms(second, first, middle)])
                assert value is not None and 0 <= value <= 1 and value == back


def test_a_change_of_brightness_or_of_colour_lowers_it_step_by_step() -> None:
    image, mask = noise(3, 100, 160)
    darker = [compared((image, mask), ((image * factor).astype(np.uint8), mask)) for factor in (1, 0.9, 0.7, 0.4)]
    assert np.isclose(darker[0], 1, atol=1e-6) and (np.diff(darker) < -0.02).all()
    turned = [compared(of_hue(0, 0.8, 0.8), of_hue(hue, 0.8, 0.8)) for hue in (0, 5, 20, 60, 120)]
    assert (np.diff(turned) < -0.01).all()


def test_neighbouring_colours_are_no_strangers() -> None:
    """127 and 128 are on both sides of an edge of hard bins."""
    assert compared(painted(127, 127, 127), painted(128, 128, 128)) > 0.97
    one = colours(noise(1))["rgb"].histogram
    assert one.shape == (BINS, BINS, BINS) and one.sum() == pytest.approx(1, abs=1e-5)
    assert set(SPACES) == {"rgb", "hsv", "lab"}


def test_pairs_count_alike_whatever_their_size() -> None:
    black, white = painted(0, 0, 0), painted(255, 255, 255)
    small = (black[0], np.pad(np.ones((6, 6), bool), (0, SIDE - 6)))
    same, other = compared(black, small), compared(black, white)
    assert color_score([(black, small), (black, white)]) == pytest.approx((same + other) / 2, abs=1e-6)


# -- options ---------------------------------------------------------------------------------------------------------


def test_the_edge_of_a_mask_is_left_out() -> None:
    image, mask = painted(0, 0, 0)[0], np.zeros((SIDE, SIDE), bool)
    mask[10:30, 10:30] = True
    image[mask] = (200, 30, 30)
    image[10:12, 10:30] = image[28:30, 10:30] = (0, 255, 0)  # what a mask that is 2 px too large takes in
    image[10:30, 10:12] = image[10:30, 28:30] = (0, 255, 0)
    red = painted(200, 30, 30)
    assert compared((image, mask), red) == pytest.approx(1, abs=1e-6)
    assert compared((image, mask), red, erosion=0) < 0.9
    assert eroded(mask, 2).sum() == 16 * 16
    assert eroded(WHOLE, 2).all()  # the edge of the picture is no edge of the region
    thin = np.zeros((SIDE, SIDE), bool)
    thin[5] = True
    assert (eroded(thin, 2) == thin).all()


def test_the_median_does_not_see_a_few_spots() -> None:
    image, mask = painted(120, 80, 60)
    spots = image.copy()
    spots[:8] = 255
    plain = painted(120, 80, 60)
    assert terms(colours(plain), colours((spots, mask)), "median")["rgb"][0] == pytest.approx(1)
    assert terms(colours(plain), colours((spots, mask)), "mean")["rgb"][0] < 0.93
    assert compared(plain, (spots, mask), middle="median") > compared(plain, (spots, mask))


def test_grey_world_takes_off_coloured_light() -> None:
    image, mask = noise(5, 40, 200)
    warm = np.clip(image * np.array([1.2, 1.0, 0.7]), 0, 255).astype(np.uint8)
    lit, balanced = (compared((image, mask), (warm, mask), grey_world=grey) for grey in (False, True))
    assert balanced > 0.96 and balanced > lit + 0.1
    dark = painted(0, 0, 0)
    assert compared(dark, dark, grey_world=True) == pytest.approx(1, abs=1e-6)


def test_wrong_areas_are_refused() -> None:
    image = painted(1, 2, 3)[0]
    for area in ((image, ~WHOLE), (image, WHOLE[1:]), (image[..., 0], WHOLE), (image.astype(float), WHOLE)):
        with pytest.raises(ValueError, match="Expected"):
            color_score([(area, painted(1, 2, 3))])


# -- regions ---------------------------------------------------------------------------------------------------------


def test_regions_match_inside_their_label() -> None:
    cosines = np.array([[0.9, 0.99, 0.1], [0.8, 0.5, 0.2], [0.9, 0.9, 0.9]])
    labels, others = ["shoe", "shoe", "hat"], ["shoe", "shoe", "bag"]
    assert matched(labels, others, cosines) == [(0, 1), (1, 0)]  # not (0, 0), (1, 1): their sum is less
    assert matched(labels, others, cosines, accept=0.15) == [(0, 1)]
    assert matched(["hat"], ["hat"], [[0.4]]) == [(0, 0)] and matched(["hat"], ["hat"], [[0.39]]) == []
    assert matched([None, "hat"], ["hat", None], [[0.9, 0.5], [0.9, 0.9]]) == [(0, 1), (1, 0)]
    assert matched([], ["hat"], np.zeros((0, 1))) == [] and matched(["hat"], [], np.zeros((1, 0))) == []


def test_crops_show_enough() -> None:
    image = np.arange(50 * 60 * 3, dtype=np.uint32).astype(np.uint8).reshape(50, 60, 3)
    mask = np.zeros((50, 60), bool)
    mask[20:45, 0:4] = True
    assert Part("arm", (image, mask)).crop().shape == (25, 16, 3)
    assert (Part("arm", (image, mask)).crop() == image[20:45, 0:16]).all()
    dot = np.zeros((50, 60), bool)
    dot[49, 59] = True
    assert (Part("dot", (image, dot)).crop() == image[34:50, 44:60]).all()
    assert Part("tiny", (image[:9], dot[41:])).crop().shape == (9, 16, 3)


def test_what_is_looked_for() -> None:
    assert regions.fixed(None) == regions.fixed("{}") == regions.fixed('{"class": "Person"}')
    assert regions.fixed('{"class": "woman"}') == regions.fixed('{"class": "mixed"}') == regions.fixed(None)
    assert regions.fixed(None).subject == "person" and "hair" in regions.fixed(None).parts
    assert regions.fixed('{"class": "animal"}').source == "fixed list: animal"
    phone = regions.fixed('{"class": "retro telephone"}')
    assert (phone.subject, phone.source) == ("retro telephone", "fixed list: object")
    said = {"subject": "A Dog.", "parts": ["Left ear", "left-ear tuft", "tail!", "TAIL", "a dog", "", "one two x y z"]}
    assert regions.named(said) == Labels("a dog", ("left ear", "left-ear tuft", "tail"), "judge")
    assert regions.named({"subject": "", "parts": ["ear"]}) is None
    assert regions.named({"subject": "dog", "parts": ["dog"]}) is None
    assert len(regions.named({"subject": "dog", "parts": [f"part {k}" for k in range(40)]}).parts) == 12  # type: ignore[union-attr]


class Boxes:
    """A `Grounded` that finds what it is told."""

    def __init__(self, *found: tuple[str, float, slice]) -> None:
        self.found = found

    def regions(self, images: Any, phrases: Any, subjects: Any = None) -> list[list[Region]]:
        out = []
        for k, (image, wanted) in enumerate(zip(images, phrases, strict=True)):
            some = []
            for label, score, rows in self.found:
                mask = np.zeros(image.shape[:2], bool)
                mask[rows] = True
                if subjects is not None:
                    mask &= subjects[k]
                if label in wanted and mask.any():
                    some.append(Region(label, score, np.zeros(4, np.float32), mask))
            out.append(some)
        return out


def test_a_subject_limits_its_parts() -> None:
    grounded = Boxes(
        ("dog", 0.9, slice(0, 20)), ("dog", 0.5, slice(30, 40)), ("dog", 0.2, slice(0, 40)),
        ("ear", 0.8, slice(10, 35)), ("tail", 0.29, slice(0, 5)),
    )  # fmt: skip
    image = painted(1, 2, 3)[0]
    one, two, none = regions.outlines(
        grounded, [image] * 3, [{"dog": 1}, {"dog": 3}, {"cat": 1}], [["ear", "tail"]] * 3
    )
    assert none is None and one is not None and two is not None
    assert one.subject.sum() == 20 * SIDE and two.subject.sum() == 30 * SIDE  # the third is not sure enough
    assert [(part.label, int(part.area[1].sum())) for part in one.parts] == [("ear", 10 * SIDE)]
    assert [(part.label, int(part.area[1].sum())) for part in two.parts] == [("ear", 15 * SIDE)]


# -- real photos -----------------------------------------------------------------------------------------------------


def face_areas(path: Path) -> dict[str, Area]:
    """Hair, face and clothes of the largest face, by the offline parser."""
    image = photo(path)
    scale = 512 / max(image.shape[:2])
    image = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    face = load(Binding("faces", "scrfd-500m")).detect([image])[0][0]
    labels = load(Binding("parser", "bisenet-celebamask"))([image], [face])[0].on(*image.shape[:2])
    masks = {
        "hair": mask_of(labels, ("hair",)),
        "face": mask_of(labels, REGIONS["face"]),
        "top": mask_of(labels, ("cloth",)),
    }
    return {name: (image, mask) for name, mask in masks.items() if mask.sum() > 200}


def both(first: dict[str, Area], second: dict[str, Area]) -> float:
    found = color_score([(first[name], second[name]) for name in first if name in second])
    assert found is not None
    return found


@pytest.mark.offline_weights
@pytest.mark.fixtures
def test_on_photos_it_falls_with_the_person_and_with_a_recoloured_shirt(fixtures: Path) -> None:
    people = fixtures / "identities"
    suit, again, other = (
        face_areas(people / name)
        for name in (
            "biden/00_face_recognition.jpg",
            "biden/01_face_recognition.jpg",
            "yangmi/" + sorted(path.name for path in (people / "yangmi").iterdir())[0],
        )
    )
    assert {"hair", "face", "top"} <= set(suit)
    assert both(suit, suit) == pytest.approx(1, abs=1e-6)
    assert both(suit, again) > both(suit, other) + 0.03
    image, cloth = suit["top"]
    hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)
    hsv[..., 0][cloth], hsv[..., 1][cloth] = 60, np.maximum(hsv[..., 1], 160)[cloth]
    green = np.where(cloth[..., None], cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB), image)
    shirt = {name: (green, mask) for name, (_, mask) in suit.items()}
    assert both(suit, shirt) < 0.97
    assert compared(suit["top"], shirt["top"]) < 0.9
    assert compared(suit["face"], shirt["face"]) == pytest.approx(1, abs=1e-6)


# -- tiny networks ---------------------------------------------------------------------------------------------------


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[ChatServer]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("IDTOOL_CACHE", str(tmp_path / "cache"))
    with ChatServer().running() as running:
        yield running


def surroundings(tiny: Zoo, *roles: str, segmenter: str = "sam", **more: dict[str, Any]) -> Env:
    """The tiny profile's networks of these roles, and other bindings."""
    found: dict[str, tuple[Binding, ...]] = {}
    for role in roles:
        entries = profile.ROLES[role]
        one = next((entry for entry in entries if entry["model"].endswith(f"/{segmenter}")), entries[0])
        tiny(one["model"].rpartition("/")[2])
        found[role] = (Binding(role, one["model"], options=one.get("options", {})),)
    return Env("tiny", found | {role: (Binding(role, **one),) for role, one in more.items()})


def test_what_it_needs(tiny: Zoo) -> None:
    assert "needs role segmenter" in str(ColorScore.why_not(Env("p", {})))
    assert "needs role grounder" in str(ColorScore.why_not(surroundings(tiny, "segmenter", "features")))
    assert "needs role features" in str(ColorScore.why_not(surroundings(tiny, "segmenter", "grounder")))
    assert ColorScore.why_not(surroundings(tiny, "segmenter", "grounder", "features")) is None
    sam3 = surroundings(tiny, "segmenter", "features", segmenter="sam3")
    assert ColorScore.why_not(sam3) is None
    assert [one.role for one in ColorScore.made(sam3).bindings()] == ["segmenter", "features"]
    odd = surroundings(
        tiny, "segmenter", "grounder", "features", judge={"model": "local:x", "options": {"format": "no"}}
    )
    assert "no" in str(ColorScore.why_not(odd))


def loaded(env: Env, folder: Path, found: Boxes | None = None) -> ColorScore:
    made = ColorScore.made(env)
    made.load(Context(run_dir=str(folder)))
    assert isinstance(made, ColorScore)
    if found is not None:
        made.grounded = found  # type: ignore[assignment]
    return made


def item(image: np.ndarray, *references: np.ndarray, slices: str = "{}") -> SampleItem:
    row = {"id": "a", "prompt": "p", "slices": slices}
    return SampleItem(row, image, references=references)


def test_by_tiny_networks(tiny: Zoo, tmp_path: Path) -> None:
    """Random boxes; the same picture on both sides has the same ones."""
    measure = loaded(surroundings(tiny, "segmenter", "grounder", "features"), tmp_path)
    rng = np.random.default_rng(0)
    one, other = (rng.integers(0, 256, (120, 150, 3), dtype=np.uint8) for _ in range(2))
    same, different, nobody = measure([item(one, one), item(other, one), item(one)])
    assert not isinstance(same, Exception) and not isinstance(different, Exception)
    assert nobody == {"color_why": "no reference to compare with"}
    assert same["color_labels_from"] == "fixed list: person" and "hair" in same["color_labels"]
    assert set(ColorScore.writes.names) >= set(same)
    assert same["color_score"] == pytest.approx(1, abs=1e-5), same
    assert same["color_pairs"] >= 1 and 0 < same["color_coverage"] <= 1
    assert {"label", "cosine", "rgb", "hsv", "lab"} == set(json.loads(same["color_details"])[0])
    assert different.get("color_why") or 0 <= different["color_score"] < 0.999


def test_sam3_finds_phrases_by_itself(tiny: Zoo, tmp_path: Path) -> None:
    env = surroundings(tiny, "segmenter", "features", segmenter="sam3")
    measure = loaded(env, tmp_path)
    image = np.random.default_rng(1).integers(0, 256, (90, 120, 3), dtype=np.uint8)
    [values] = measure([item(image, image)])
    assert not isinstance(values, Exception)
    assert values.get("color_why") == "no person found in reference 1" or values["color_score"] == pytest.approx(1)


def test_regions_of_several_references_are_pooled(tiny: Zoo, tmp_path: Path) -> None:
    half = Boxes(("person", 0.9, slice(0, 40)), ("hair", 0.9, slice(0, 10)), ("top", 0.9, slice(20, 40)))
    measure = loaded(surroundings(tiny, "segmenter", "grounder", "features"), tmp_path, half)
    red, blue = painted(200, 0, 0)[0], painted(0, 0, 200)[0]
    single, double = measure([item(red, red), item(red, red, blue)])
    assert not isinstance(single, Exception) and not isinstance(double, Exception)
    assert single["color_coverage"] == pytest.approx(0.75)
    assert single["color_pairs"] == 2 == double["color_pairs"]
    assert double["color_coverage"] == pytest.approx(0.375)
    nothing = loaded(surroundings(tiny, "segmenter", "grounder", "features"), tmp_path, Boxes(half.found[0]))
    [bare] = nothing([item(red, blue)])
    assert not isinstance(bare, Exception)
    assert (bare["color_pairs"], bare["color_why"]) == (0, "no part is found in both pictures")
    assert bare.get("color_score") is None
    cat = measure([item(red, red, slices='{"class": "cat"}')])[0]
    assert not isinstance(cat, Exception) and cat["color_why"] == "no cat found in reference 1"


def test_the_judge_names_the_parts(tiny: Zoo, tmp_path: Path, server: ChatServer) -> None:
    found = Boxes(("teapot", 0.9, slice(0, 40)), ("lid", 0.9, slice(0, 10)), ("person", 0.9, slice(0, 40)))
    env = surroundings(tiny, "segmenter", "grounder", "features", judge=binding(server))
    measure = loaded(env, tmp_path, found)
    image, second = painted(200, 0, 0)[0], painted(190, 0, 0)[0]
    server.script(says('{"subject": "teapot", "parts": ["lid", "spout"]}'))
    first, other = measure([item(second, image), item(image, image)])
    assert len(server.requests) == 1, "one reference, one question"
    assert "main subject" in server.requests[0].prompt and len(server.requests[0].images) == 1
    assert not isinstance(first, Exception) and not isinstance(other, Exception)
    assert (first["color_labels"], first["color_labels_from"]) == (["lid", "spout"], "judge")
    assert first["color_score"] < other["color_score"] == pytest.approx(1, abs=1e-5)
    server.script(says(None, refusal="I will not look at people"))
    [refused] = measure([item(image, image)])
    assert not isinstance(refused, Exception)
    assert refused["color_labels_from"] == "fixed list: person (the judge: refused)"
    server.script(says('{"subject": "teapot", "parts": []}'))
    [empty] = measure([item(image, image)])
    assert not isinstance(empty, Exception)
    assert empty["color_labels_from"] == "fixed list: person (the judge named no part)"
    server.script(fails(503, "busy"))
    [down] = measure([item(image, image)])
    assert isinstance(down, Unavailable) and "busy" in str(down)
    assert (
        "question" in measure.config()
        and "question" not in ColorScore.made(surroundings(tiny, "segmenter", "grounder", "features")).config()
    )
    assert judging.QUESTIONS[-1] == "parts"
