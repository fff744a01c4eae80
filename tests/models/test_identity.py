"""Alignment against its defining property, and the two face networks on labelled photos."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from idtool.models import weights
from idtool.models.drawn import drawn_face
from idtool.models.faces import Scrfd
from idtool.models.identity import TEMPLATE, ArcFaceMobile, EdgeFaceS, Embedder, align, similarity_transform
from tests.models.test_faces import read


@given(angle=st.floats(-3.1, 3.1), scale=st.floats(0.05, 40), x=st.floats(-900, 900), y=st.floats(-900, 900))
@settings(max_examples=60, deadline=None)
def test_transform_undoes_a_similarity(angle: float, scale: float, x: float, y: float) -> None:
    turn = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    moved = TEMPLATE @ turn.T + (x, y)
    matrix = similarity_transform(moved)[0]
    assert np.abs(moved @ matrix[:, :2].T + matrix[:, 2] - TEMPLATE).max() < 1e-6


def test_transform_has_the_least_squared_error() -> None:
    points = TEMPLATE * 3 + np.random.default_rng(1).normal(0, 12, (5, 2))

    def error(matrix: np.ndarray) -> float:
        return float(((points @ matrix[:, :2].T + matrix[:, 2] - TEMPLATE) ** 2).sum())

    best = similarity_transform(points)[0]
    for change in range(4):
        for step in (-1e-3, 1e-3):
            a, b = best[0, 0] + step * (change == 0), best[1, 0] + step * (change == 1)
            shift = best[:, 2] + step * np.array([change == 2, change == 3])
            assert error(np.column_stack([[a, b], [-b, a], shift])) > error(best)


def test_transform_is_batched_and_refuses_a_point() -> None:
    stacked = np.stack([TEMPLATE, TEMPLATE * 2])
    assert np.allclose(similarity_transform(stacked)[1], [[0.5, 0, 0], [0, 0.5, 0]], atol=1e-9)
    with pytest.raises(ValueError, match="coincide"):
        similarity_transform(np.ones((5, 2)))


def test_align_brings_the_points_to_the_template() -> None:
    image = np.zeros((300, 300, 3), np.uint8)
    points = TEMPLATE * 2 + 30
    for x, y in points.round().astype(int):
        image[y - 2 : y + 3, x - 2 : x + 3] = 255
    crop = align(image, points)[0]
    assert crop.shape == (112, 112, 3)
    for x, y in TEMPLATE.round().astype(int):
        assert crop[y, x].min() > 200
    assert align(image, np.zeros((0, 5, 2))).shape == (0, 112, 112, 3)
    assert align(image, points, size=224).shape == (1, 224, 224, 3)


@pytest.mark.offline_weights
@pytest.mark.parametrize("network", [ArcFaceMobile, EdgeFaceS])
def test_embedding_does_not_depend_on_its_neighbours(network: type[Embedder]) -> None:
    model = network()
    crops = np.random.default_rng(0).integers(0, 256, (3, 112, 112, 3), dtype=np.uint8)
    together = model.embed(crops)
    assert together.shape == (3, 512)
    assert together.dtype == np.float32
    assert np.array_equal(together[1:2], model.embed(crops[1:2]))
    assert model.embed(crops[:0]).shape == (0, 512)
    with pytest.raises(ValueError, match="112"):
        model.embed(crops[:, :100])
    assert model.fingerprint()["sha256"] == weights.sha256(network.name)


@pytest.mark.offline_weights
@pytest.mark.parametrize(("network", "threshold"), [(ArcFaceMobile, 0.38), (EdgeFaceS, 0.48)])
def test_people_are_told_apart(fixtures: Path, network: type[Embedder], threshold: float) -> None:
    """On every second labelled photo: at the stated threshold almost no pair is judged wrongly."""
    files = sorted((fixtures / "identities").glob("*/*"))[::2]
    detector, model = Scrfd(), network()
    crops = [align(image, detector.detect([image])[0][0].kps)[0] for image in map(read, files)]
    raw = model.embed(np.stack(crops))
    unit = raw / np.linalg.norm(raw, axis=1, keepdims=True)
    upper = np.triu_indices(len(files), 1)
    people = np.array([file.parent.name for file in files])
    same, cosine = (people[:, None] == people)[upper], (unit @ unit.T)[upper]
    assert same.sum() > 100
    assert (cosine[~same] >= threshold).mean() <= 1e-3
    assert (cosine[same] < threshold).mean() <= 0.02
    assert cosine[same].mean() - cosine[~same].mean() > 0.55


@pytest.mark.offline_weights
def test_parity_with_insightface() -> None:
    arcface = pytest.importorskip("insightface.model_zoo.arcface_onnx")
    reference = arcface.ArcFaceONNX(str(weights.path("arcface-mbf")))
    reference.prepare(-1)
    crop = drawn_face(112)
    theirs = reference.get_feat(np.ascontiguousarray(crop[..., ::-1]))[0]
    assert np.abs(ArcFaceMobile().embed(crop[None])[0] - theirs).max() < 1e-4
