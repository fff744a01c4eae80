"""The built-in sample: made twice with the same bytes, people apart, their pictures together but not copies."""

from __future__ import annotations

import csv
import hashlib
import itertools
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from idtool import sample
from idtool.errors import RunFailed, UsageError
from idtool.models.faces import Scrfd
from idtool.models.identity import ArcFaceMobile, align
from idtool.models.portraits import Latent, MobileStyleGan
from idtool.sample import COLUMNS, make_sample, synthetic
from idtool.sample.synthetic import write_mp4

pytestmark = pytest.mark.offline_weights


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two people with a short video: a few images stand for the full sample."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(synthetic, "FRAMES", 3)
        return make_sample(tmp_path_factory.mktemp("sample"), people=2, seed=3)


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "manifest.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def embed(image: np.ndarray) -> np.ndarray:
    (faces,) = Scrfd().detect([image])
    raw = ArcFaceMobile().embed(align(image, faces[0].kps))[0]
    return raw / np.linalg.norm(raw)


def test_manifest_lists_every_file(made: Path) -> None:
    listed = rows(made)
    files = {p.relative_to(made).as_posix() for p in made.rglob("*") if p.is_file()} - {"manifest.csv"}
    assert {row["path"] for row in listed} == files
    assert tuple(listed[0]) == COLUMNS
    for row in listed:
        expected = row["path"].split("/")[1] if row["path"].startswith("people/") else ""
        assert row["identity"] == expected
        assert row["consent"] == "not applicable: synthetic person"
    assert not list(made.parent.glob(".making-*"))


def test_the_latent_of_a_portrait_makes_it_again(made: Path) -> None:
    told = {row["path"]: row["latent"] for row in rows(made) if row["latent"]}
    assert set(told) == {
        "people/person_01/copy_of_portrait_1.png",
        "people/person_01/portrait_1.png",
        "people/person_02/portrait_1.png",
    }
    network = MobileStyleGan(threads=2)
    people = [f"people/person_0{k}/portrait_1.png" for k in (1, 2)]
    images = network.render([network.layered(network.drawn(Latent.read(told[path]))) for path in people])
    for path, image in zip(people, images, strict=True):
        assert np.array_equal(image, cv2.cvtColor(cv2.imread(str(made / path)), cv2.COLOR_BGR2RGB))


def test_people_are_apart_and_their_pictures_together(made: Path) -> None:
    of: dict[str, list[np.ndarray]] = {}
    for person in sorted((made / "people").iterdir()):
        photos = [cv2.cvtColor(cv2.imread(str(p)), cv2.COLOR_BGR2RGB) for p in sorted(person.glob("portrait_?.png"))]
        assert len(photos) >= 3
        assert all(photo.shape == (1024, 1024, 3) for photo in photos)
        of[person.name] = [embed(photo) for photo in photos]
    for a, b in itertools.combinations(of, 2):
        assert max(float(x @ y) for x in of[a] for y in of[b]) < 0.35
    for embeddings in of.values():
        same = [float(x @ y) for x, y in itertools.combinations(embeddings, 2)]
        assert min(same) > 0.45
        assert max(same) < 0.95


def test_a_walk_is_one_person_who_moves(made: Path) -> None:
    with av.open(str(made / "people" / "person_01" / "walk.mp4")) as video:
        assert video.streams.video[0].average_rate == synthetic.FPS
        frames = [frame.to_ndarray(format="rgb24") for frame in video.decode(video=0)]
    assert len(frames) == 3
    first, last = embed(frames[0]), embed(frames[-1])
    assert 0.75 < float(first @ last) < 0.98


def test_deliberate_faults(made: Path) -> None:
    first, second = made / "people" / "person_01", made / "people" / "person_02"
    assert (first / "copy_of_portrait_1.png").read_bytes() == (first / "portrait_1.png").read_bytes()
    sharp, blurred = (
        cv2.Laplacian(cv2.imread(str(p), 0), cv2.CV_64F).var()
        for p in (first / "portrait_3.png", first / "blurred.png")
    )
    assert blurred < 0.02 * sharp
    assert cv2.imread(str(second / "small.png")).shape == (512, 512, 3)
    again = cv2.imread(str(second / "portrait_1_saved_again.jpg")).astype(int)
    assert 0 < np.abs(again - cv2.imread(str(second / "portrait_1.png"))).mean() < 4
    both = cv2.cvtColor(cv2.imread(str(made / "mixed" / "two_people.png")), cv2.COLOR_BGR2RGB)
    assert len(Scrfd().detect([both])[0]) == 2


def test_same_bytes_again_and_cached(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(synthetic, "FRAMES", 3)
    said: list[str] = []
    assert make_sample(made.parent, people=2, seed=3, announce=said.append) == made
    assert said == []
    again = make_sample(tmp_path, people=2, seed=3, announce=said.append)
    assert len(said) == 3
    digest = lambda folder: {  # noqa: E731
        p.relative_to(folder).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.rglob("*.*")
    }
    assert again.name == made.name
    assert digest(again) == digest(made)


def test_an_incomplete_sample_is_made_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stub maker shows the bookkeeping without the networks."""

    class Stub:
        def __init__(self, seed: int, say: object) -> None:
            pass

        def make(self, folder: Path, count: int) -> list[tuple[str, str, str]]:
            (folder / "a.png").write_bytes(b"x")
            return [("a.png", "one", "")]

    monkeypatch.setattr(sample, "Maker", Stub)
    folder = make_sample(tmp_path)
    (folder / "a.png").unlink()
    assert make_sample(tmp_path) == folder
    assert (folder / "a.png").is_file()
    manifest = (folder / "manifest.csv").read_text("utf-8")
    (folder / "manifest.csv").write_text(manifest.replace(",latent", "", 1), "utf-8")  # as an older version left it
    assert make_sample(tmp_path) == folder
    assert (folder / "manifest.csv").read_text("utf-8") == manifest
    assert make_sample(tmp_path, seed=1) != folder


def test_a_failure_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken:
        def __init__(self, seed: int, say: object) -> None:
            raise RunFailed("no", "")

    monkeypatch.setattr(sample, "Maker", Broken)
    with pytest.raises(RunFailed):
        make_sample(tmp_path)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(UsageError):
        make_sample(tmp_path, people=1)


def test_videos_have_the_same_bytes(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    frames = [rng.integers(0, 256, (64, 96, 3), np.uint8) for _ in range(5)]
    write_mp4(tmp_path / "a.mp4", frames, 10)
    write_mp4(tmp_path / "b.mp4", frames, 10)
    assert (tmp_path / "a.mp4").read_bytes() == (tmp_path / "b.mp4").read_bytes()
