"""The nudity detector: harmless photos stay low, and its other classes show that it is fed the right way."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from idtool.models.nsfw import NudeNet
from tests.models.test_faces import read

pytestmark = pytest.mark.offline_weights


@pytest.fixture(scope="module")
def model() -> NudeNet:
    return NudeNet()


def test_harmless_photos_score_low(model: NudeNet, fixtures: Path) -> None:
    files = sorted((fixtures / "identities").glob("*/*"))[::4] + sorted((fixtures / "groups").iterdir())
    found = model.score([read(path) for path in files])
    scores = np.array([one.score for one in found])
    assert scores.max() < 0.5
    assert np.median(scores) < 0.05
    assert {one.label for one in found} <= set(NudeNet.EXPLICIT)


def test_faces_are_seen_where_there_are_some(model: NudeNet, fixtures: Path) -> None:
    """Wrong scaling or class order would break this. (The network takes most men in portraits for women.)"""
    woman, men, nobody = model.class_scores(
        [
            read(fixtures / "identities/scarlett/00_photomaker.jpg"),
            read(fixtures / "groups/lecun_hinton_bengio.png"),
            read(fixtures / "hard/no_face_vector.jpg"),
        ]
    )
    male, female = NudeNet.CLASSES.index("face_male"), NudeNet.CLASSES.index("face_female")
    assert woman.argmax() == female
    assert woman.max() > 0.6
    assert men.argmax() == male
    assert men.max() > 0.6
    assert nobody[[male, female]].max() < 0.2


def test_classes_are_complete_and_in_range(model: NudeNet) -> None:
    assert len(set(NudeNet.CLASSES)) == 18
    assert set(NudeNet.EXPLICIT) <= set(NudeNet.CLASSES)
    scores = model.class_scores([np.zeros((1, 1, 3), np.uint8), np.full((50, 500, 3), 255, np.uint8)])
    assert scores.shape == (2, 18)
    assert scores.min() >= 0
    assert scores.max() <= 1
    assert model.score([]) == []
    with pytest.raises(ValueError, match="HxWx3"):
        model.score([np.zeros((5, 5, 4), np.uint8)])
