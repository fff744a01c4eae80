"""Identity diversity: the streamed number is that of all pairs, in any order."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from idtool.evaluate.measures.copy import CopyEmbedding
from idtool.evaluate.measures.features import Features
from idtool.evaluate.metrics.base import Unscored
from idtool.evaluate.metrics.diversity import IdentityDiversity
from tests.evaluate import offline
from tests.evaluate.offline import sample


def scored(column: str, rows: list[tuple[str, np.ndarray]]) -> dict[str, float | Unscored]:
    metric = IdentityDiversity(CopyEmbedding if column == "copy_embedding" else Features).fresh()
    for identity, row in rows:
        metric.add(sample({column: row.tolist()}, identity=identity))
    return dict(metric.finish())


@given(st.integers(0, 2**32 - 1), st.integers(2, 7), st.sampled_from(["copy_embedding", "features_embedding"]))
@settings(max_examples=40, deadline=None)
def test_is_one_minus_the_mean_cosine_of_all_pairs(seed: int, n: int, column: str) -> None:
    rng = np.random.default_rng(seed)
    rows = rng.normal(1, 1, size=(n, 5)) * rng.uniform(0.1, 9, size=(n, 1))
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    expected = 1 - np.mean([unit[a] @ unit[b] for a, b in combinations(range(n), 2)])
    others = [("other", row) for row in rng.normal(size=(2, 5))]
    mixed = [("one", row) for row in rows] + others
    found = scored(column, mixed)
    assert found["one"] == pytest.approx(expected)
    shuffled = scored(column, [mixed[k] for k in rng.permutation(len(mixed))])
    assert shuffled["one"] == pytest.approx(found["one"]) and shuffled["other"] == pytest.approx(found["other"])


def test_one_picture_for_every_prompt_is_not_diverse() -> None:
    row = np.random.default_rng(0).normal(size=512)
    found = scored("copy_embedding", [("one", row)] * 9 + [("alone", row)])
    assert found["one"] == pytest.approx(0, abs=1e-12)
    assert isinstance(found["alone"], Unscored) and "one image" in str(found["alone"])
    lost = scored("features_embedding", [("one", row), ("one", row * 0)])["one"]
    assert isinstance(lost, Unscored) and "length 0" in str(lost)


def test_starts_from_nothing_each_time() -> None:
    first = IdentityDiversity(CopyEmbedding)
    first.add(sample({"copy_embedding": [1.0, 0.0]}))
    assert list(first.fresh().finish()) == []


def test_networks_of_the_profiles() -> None:
    assert [one.network for one in IdentityDiversity.instances(offline.env())] == ["copy"]
    assert [one.network for one in IdentityDiversity.instances(offline.env(profile="paper"))] == ["copy", "features"]
    with pytest.raises(Unscored, match="needs role copy or features"):
        IdentityDiversity.instances(offline.env("faces"))


@pytest.mark.offline_weights
def test_different_photos_are_more_diverse_than_copies(fixtures: Path, tmp_path: Path) -> None:
    same = [fixtures / "hard" / f"same_image_{size}p.jpg" for size in (240, 480, 1080)]
    different = [fixtures / "identities/obama" / f"0{k}_face_recognition.jpg" for k in range(3)]
    seen = offline.look(tmp_path, [*same, *different], [CopyEmbedding])
    rows = [
        (name, np.asarray(seen[path]["copy_embedding"])) for name, of in (("s", same), ("d", different)) for path in of
    ]
    found = scored("copy_embedding", rows)
    assert found["s"] < 0.1 < 0.5 < found["d"]
