from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.spatial.distance import squareform

from idtool.curate.cluster import Floats, average_linkage, means, normalise, separation, tracks


def people(seed: int, sizes: list[int], spread: float = 0.6, dim: int = 64) -> tuple[Floats, np.ndarray]:
    rng = np.random.default_rng(seed)
    label = np.repeat(np.arange(len(sizes)), sizes)
    centre = rng.normal(size=(len(sizes), dim)) / np.sqrt(dim)
    return normalise(centre[label] + spread * rng.normal(size=(len(label), dim)) / np.sqrt(dim))[0], label


def by_scipy(vectors: Floats, threshold: float) -> list[int]:
    """The lowest row of each row's cluster, from the full distance matrix."""
    distance = 1 - vectors.astype(np.float64) @ vectors.T
    np.fill_diagonal(distance, 0)
    cluster = fcluster(
        linkage(squareform((distance + distance.T) / 2, checks=False), "average"), 1 - threshold, "distance"
    )
    return [int(np.flatnonzero(cluster == c)[0]) for c in cluster]


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 10_000),
    st.lists(st.integers(1, 12), min_size=1, max_size=12),
    st.floats(0.2, 1.4),
    st.floats(0.05, 0.9),
)
def test_average_linkage_is_that_of_scipy(seed: int, sizes: list[int], spread: float, threshold: float) -> None:
    vectors, _ = people(seed, sizes, spread)
    if len(vectors) > 1:
        assert average_linkage(vectors, threshold).tolist() == by_scipy(vectors, threshold)


def test_blocks_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors, _ = people(1, [30, 20, 1, 9])
    whole = average_linkage(vectors, 0.3)
    monkeypatch.setattr("idtool.curate.cluster.BLOCK_VALUES", 7)
    assert np.array_equal(average_linkage(vectors, 0.3), whole)


def test_a_chain_of_lookalikes_does_not_join_two_people() -> None:
    angle = np.radians([0, 3, 6, 40, 74, 77, 80])
    vectors = np.stack([np.cos(angle), np.sin(angle)], axis=1).astype(np.float32)
    assert len(set(average_linkage(vectors, 0.75).tolist())) == 2


def test_copies_of_one_row_are_one_cluster() -> None:
    vectors = np.tile(normalise(np.ones((1, 16)))[0], (50, 1))
    assert set(average_linkage(vectors, 0.9).tolist()) == {0}


def test_named_rows_never_come_together_and_others_join_the_nearest() -> None:
    vectors, _label = people(3, [8, 8], spread=0.4)
    twin = normalise(vectors[0] + 0.02)[0]
    named = np.zeros(17, np.bool_)
    named[[0, 16]] = True
    root = average_linkage(np.concatenate([vectors, twin]), 0.3, named)
    assert root[0] != root[16]
    assert set(root[8:16].tolist()) == {8}


def test_tracks_end_with_the_shot_and_with_the_person() -> None:
    vectors, _label = people(4, [6, 6], spread=0.3)
    rows = [0, 1, 2, 6, 7, 3, 4]
    shot = np.array([0, 0, 0, 0, 0, 0, 1])
    track = tracks(np.zeros(7, np.int64), shot, np.arange(7), vectors[rows], 0.4)
    assert track.tolist() == [0, 0, 0, 1, 1, 2, 3]
    shuffled = [3, 6, 0, 5, 1, 4, 2]
    again = tracks(np.zeros(7, np.int64), shot[shuffled], np.array(shuffled), vectors[rows][shuffled], 0.4)
    assert again.tolist() == track[shuffled].tolist()
    assert len(set(tracks(np.full(3, -1), np.zeros(3, np.int64), np.arange(3), vectors[:3], 0.1).tolist())) == 3


def test_means_leave_out_rows_of_no_group() -> None:
    vectors = np.arange(8, dtype=np.float32).reshape(4, 2)
    assert means(vectors, np.array([1, -1, 1, 0]), 3).tolist() == [[6, 7], [2, 3], [0, 0]]


def test_separation_falls_when_people_are_mixed_and_when_one_is_split() -> None:
    vectors, label = people(5, [10] * 8, spread=0.5)
    whole = separation(vectors, label, 0.4)
    assert whole is not None and whole.share == 1.0 and whole.rows == 80
    mixed = separation(vectors, label // 2, 0.5)
    split = separation(vectors, np.arange(80) // 5, 0.4)
    assert mixed is not None and mixed.share < 0.6
    assert split is not None and split.share < 0.1
    assert separation(vectors, np.arange(80), 0.4) is None
    assert separation(vectors, np.full(80, -1), 0.4) is None


def test_normalise_marks_what_has_no_direction() -> None:
    vectors, usable = normalise([[3.0, 4.0], [0.0, 0.0], [np.nan, 1.0], [np.inf, 0.0]])
    assert usable.tolist() == [True, False, False, False]
    assert np.allclose(vectors, [[0.6, 0.8], [0, 0], [0, 0], [0, 0]])
