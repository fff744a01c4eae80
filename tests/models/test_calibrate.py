"""Rates and thresholds against their definitions, and calibration of a face network on labelled photos."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy.stats import mannwhitneyu, norm

from idtool.engine.step import Binding
from idtool.errors import UsageError
from idtool.models import labelled, verification
from idtool.models.calibrate import calibrate
from idtool.models.calibration import stored
from idtool.models.verification import Pairs, auc, equal_error, intervals, rates, roc, threshold_at
from tests.zoo import Zoo
from tests.zoo.face_pack import drawn_person

FACES, IDENTITY = Binding("faces", "insightface:tiny"), Binding("identity", "insightface:tiny")


def cosines(seed: int, genuine: int = 80, impostor: int = 500) -> tuple[np.ndarray, np.ndarray]:
    """Rounded, so that there are ties."""
    random = np.random.default_rng(seed)
    return random.normal(0.5, 0.2, genuine).round(2), random.normal(0.1, 0.2, impostor).round(2)


@pytest.mark.parametrize("seed", range(4))
def test_auc_is_that_of_the_rank_sum(seed: int) -> None:
    genuine, impostor = cosines(seed)
    expected = mannwhitneyu(genuine, impostor).statistic / (len(genuine) * len(impostor))
    assert auc(genuine, impostor) == pytest.approx(expected, abs=1e-12)
    assert auc(np.array([0.9]), np.array([0.1, 0.2])) == 1


@given(st.lists(st.floats(-1, 1), min_size=1, max_size=80), st.sampled_from([0.5, 0.1, 0.03, 1e-3]), st.integers(0, 80))
@settings(max_examples=300, deadline=None)
def test_a_threshold_keeps_its_rate_and_a_lower_one_does_not(scores: list[float], fmr: float, twins: int) -> None:
    impostor = np.array(scores + scores[:1] * twins)
    at = threshold_at(impostor, fmr)
    assert (impostor >= at).mean() <= fmr
    if at > -1:
        assert (impostor >= at - 10**-verification.DECIMALS - 1e-12).mean() > fmr


def test_rates_are_shares_on_the_wrong_side() -> None:
    genuine, impostor = np.array([0.2, 0.5, 0.5, 0.9]), np.array([0.1, 0.3, 0.5])
    fmr, fnmr = rates(genuine, impostor, [0.0, 0.5, 0.51, 1.0])
    assert fmr == pytest.approx([1, 1 / 3, 0, 0])
    assert fnmr == pytest.approx([0, 1 / 4, 3 / 4, 1])


def test_equal_error_of_two_normal_distributions() -> None:
    random = np.random.default_rng(0)
    rate, at = equal_error(random.normal(2, 1, 20_000), random.normal(0, 1, 20_000))
    assert rate == pytest.approx(norm.cdf(-1), abs=0.005)
    assert at == pytest.approx(1, abs=0.05)
    assert equal_error(np.array([0.8, 0.9]), np.array([0.1, 0.2]))[0] == 0


def test_roc_falls_and_rises() -> None:
    points = np.array(roc(*cosines(1)))
    assert (np.diff(points[:, 0]) > 0).all()
    assert (np.diff(points[:, 1]) <= 0).all()
    assert (np.diff(points[:, 2]) >= 0).all()
    assert points[-1, 1] <= 2 / 500


def some_pairs(people: int, photos: int, seed: int = 0) -> Pairs:
    """Photos that lie about a centre per person."""
    random = np.random.default_rng(seed)
    who = np.repeat(np.arange(people), photos)
    x = random.normal(size=(people, 8))[who] + 0.3 * random.normal(size=(len(who), 8))
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    a, b = np.triu_indices(len(who), 1)
    return Pairs((x[a] * x[b]).sum(1), who[a] == who[b], np.column_stack([who[a], who[b]]))


def test_interval_is_about_people_not_about_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    """More photos of the same people hardly narrow it; it holds the threshold, and is the same every time."""
    few, many = some_pairs(20, 3), some_pairs(20, 12)
    [(low, high)], [(low_many, high_many)] = (intervals(pairs, [0.01]) or [] for pairs in (few, many))
    assert low <= threshold_at(few.impostor, 0.01) <= high
    assert high_many - low_many > 0.5 * (high - low)
    assert intervals(few, [0.01]) == [(low, high)]
    monkeypatch.setattr(verification, "_WORK", 1000)
    assert intervals(few, [0.01]) is None


@pytest.fixture(scope="module")
def drawings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six drawn people, three photos each."""
    album = tmp_path_factory.mktemp("album")
    for person in range(6):
        (album / f"person{person}").mkdir()
        for shot in range(3):
            Image.fromarray(drawn_person(person, shot)).save(album / f"person{person}" / f"{shot}.jpg", quality=95)
    return album


@pytest.fixture
def album(drawings: Path, tmp_path: Path) -> Path:
    """The drawings, to be added to."""
    return Path(shutil.copytree(drawings, tmp_path / "album"))


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("IDTOOL_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def write_pairs(album: Path, rows: list[tuple[str, str, Any]]) -> Path:
    table = album / "pairs.csv"
    table.write_text("a,b,same\n" + "".join(f"{a},{b},{same}\n" for a, b, same in rows))
    return table


def test_folder_and_manifest_make_all_pairs(album: Path) -> None:
    found = labelled.read(album)
    assert len(found.files) == 18
    assert len(found.pairs) == 18 * 17 // 2
    assert found.same.sum() == 6 * 3
    assert found.names[0] == "person0/0.jpg"
    rows = [f"{path.relative_to(album)},{path.parent.name}" for path in found.files]
    (album / "list.csv").write_text("path,identity\n" + "\n".join(rows))
    again = labelled.read(album / "list.csv")
    assert again.files == found.files
    assert np.array_equal(again.same, found.same)


def test_pairs_of_a_table(album: Path) -> None:
    rows = [
        ("person0/0.jpg", "person0/1.jpg", 1),
        ("person0/1.jpg", "person0/2.jpg", "yes"),
        ("person0/0.jpg", "person1/0.jpg", "False"),
    ]
    found = labelled.read(write_pairs(album, rows))
    assert found.same.tolist() == [True, True, False]
    assert found.people[0] == found.people[1] == found.people[2] != found.people[3]
    table = album / "pairs.jsonl"
    table.write_text("\n".join(json.dumps({"a": a, "b": b, "same": bool(k < 2)}) for k, (a, b, _) in enumerate(rows)))
    assert labelled.read(table).same.tolist() == [True, True, False]


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ([("a", "b", 1), ("b", "c", 1), ("c", "a", 0)], "row 3: the two are said to differ"),
        ([("a", "b", "maybe")], "row 1: `same` is 'maybe'"),
        ([("a", "", 1)], "row 1: `b` is empty"),
        ([("a", "a", 1)], "paired with itself"),
        ([("a", "b", 1)], "no pair of two people"),
        ([("a", "b", 0)], "no pair of one person"),
    ],
)
def test_labels_that_cannot_be(album: Path, rows: list[tuple[str, str, Any]], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        labelled.read(write_pairs(album, rows))


def test_photos_without_a_name_are_refused(album: Path) -> None:
    (album / "list.csv").write_text("path\nperson0/0.jpg\n")
    with pytest.raises(UsageError, match="does not say who"):
        labelled.read(album / "list.csv")
    with pytest.raises(UsageError, match="does not say who"):
        labelled.read(album / "person0")
    with pytest.raises(UsageError, match="does not exist"):
        labelled.read(album / "nowhere")


def test_calibration_on_drawn_people(album: Path, cache: Path, tiny: Zoo) -> None:
    """Photos without a face and broken ones are named, a rate that the pairs are too few for is refused with how many
    it takes, and the threshold comes out as a line for pipelines.yaml."""
    tiny("face-pack")
    Image.new("RGB", (200, 200), (10, 60, 90)).save(album / "person0" / "wall.jpg")
    (album / "person1" / "half.jpg").write_bytes((album / "person1" / "0.jpg").read_bytes()[:2000])
    two = np.concatenate([drawn_person(5, 9, size=(320, 480), radius=r, centre=(160, 240)) for r in (90, 60)], axis=1)
    Image.fromarray(two).save(album / "person5" / "two.jpg")
    seen = []
    found = calibrate(FACES, IDENTITY, album, progress=lambda done, of: seen.append((done, of)))
    assert (found.photos, found.people) == (19, 6)
    assert (found.genuine, found.impostor) == (5 * 3 + 6, 19 * 18 // 2 - 21)
    assert found.no_face == ("person0/wall.jpg",)
    assert set(found.left_out) == {"person0/wall.jpg", "person1/half.jpg"}
    assert found.several_faces == ("person5/two.jpg",)
    assert seen[-1] == (21, 21)
    assert found.auc > 0.9
    assert found.eer < 0.2
    tenth, hundredth, thousandth, _ = found.thresholds
    assert tenth.measured_fmr is not None
    assert tenth.measured_fmr <= 0.1
    assert tenth.low <= tenth.threshold <= tenth.high  # type: ignore[operator]
    assert hundredth.threshold is not None
    assert thousandth.threshold is None
    assert "1,000 pairs of two people; there are 150" in thousandth.reason
    line = yaml.safe_load(found.as_yaml())
    assert line == {"thresholds": {"same_person": hundredth.threshold}}
    assert yaml.safe_load(found.as_yaml(0.1)) == {"thresholds": {"same_person": tenth.threshold}}
    path = found.store()
    assert path.is_relative_to(cache)
    assert stored(found.sha256) == json.loads(json.dumps(found.as_dict()))
    assert stored("0" * 64) is None
    assert found.store(album / "mine.json") == album / "mine.json"


def test_calibration_on_pairs(album: Path, tiny: Zoo) -> None:
    tiny("face-pack")
    rows: list[tuple[str, str, Any]] = [(f"person{p}/0.jpg", f"person{p}/1.jpg", 1) for p in range(6)]
    rows += [(f"person{p}/0.jpg", f"person{q}/1.jpg", 0) for p in range(6) for q in range(p)]
    found = calibrate(FACES, IDENTITY, write_pairs(album, rows), fmr=[0.1])
    assert (found.genuine, found.impostor, found.people, len(found.thresholds)) == (6, 15, 6, 1)
    rows[-1] = ("person0/gone.jpg", "person1/1.jpg", 0)
    found = calibrate(FACES, IDENTITY, write_pairs(album, rows), fmr=[0.1])
    assert found.impostor == 14
    assert "No such file" in found.left_out["person0/gone.jpg"]
    with pytest.raises(UsageError, match="too few"):
        calibrate(FACES, IDENTITY, write_pairs(album, rows), fmr=[0.01]).as_yaml()
    with pytest.raises(UsageError, match="between 0 and 1"):
        calibrate(FACES, IDENTITY, album, fmr=[0.0])


def test_nothing_to_compare_is_an_error(tmp_path: Path, tiny: Zoo) -> None:
    tiny("face-pack")
    for name in ("a/1.jpg", "a/2.jpg", "b/1.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (64, 64)).save(tmp_path / name)
    with pytest.raises(UsageError, match=r"3 of 3 photos .* could not be compared \(a/1.jpg: no face"):
        calibrate(FACES, IDENTITY, tmp_path)


def test_a_row_that_the_network_fails_on_is_named(album: Path, tiny: Zoo, monkeypatch: pytest.MonkeyPatch) -> None:
    from idtool.models import load

    tiny("face-pack")
    network = load(IDENTITY)
    real, calls = network.embed, []

    def embed(crops: Any) -> Any:
        calls.append(len(crops))
        if len(crops) > 1 or calls.count(1) == 2:
            raise ValueError("the network gave a value that is not finite")
        return real(crops)

    monkeypatch.setattr(network, "embed", embed)
    found = calibrate(FACES, IDENTITY, album)
    assert found.left_out == {"person0/1.jpg": "the network gave a value that is not finite"}
    assert calls == [16, *[1] * 16, 2, 1, 1]


@pytest.mark.offline_weights
def test_real_people_are_told_apart(fixtures: Path, tmp_path: Path) -> None:
    """Four photos each of six people. (All 161 photos of 26 people: AUC .99999, EER .0017; FMR .001 at .336,
    .0001 at .375.)"""
    people = sorted(path for path in (fixtures / "identities").iterdir() if len(list(path.iterdir())) >= 4)[:6]
    rows = [f"{photo},{person.name}" for person in people for photo in sorted(person.iterdir())[:4]]
    (tmp_path / "list.csv").write_text("path,identity\n" + "\n".join(rows))
    found = calibrate(Binding("faces", "scrfd-500m"), Binding("identity", "arcface-mbf"), tmp_path / "list.csv")
    assert (found.photos, found.people, len(found.left_out)) == (24, 6, 0)
    assert found.auc > 0.999
    assert 0.1 < found.at().threshold < 0.45  # type: ignore[operator]
    assert found.cosines["genuine"]["mean"] - found.cosines["impostor"]["mean"] > 0.5
