from __future__ import annotations

from itertools import combinations
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from idtool.curate import pairing
from idtool.curate.cluster import normalise
from idtool.curate.pairing import CANDIDATE, REASONS, Faces, Found, Limits, Rules, choose, pair

PHOTOS = Limits(
    low=0.4, high=0.9, face_correlation=0.9, copy_similarity=0.8, copy_above=0.6, yaw=6, pitch=6, expression=0.4
)
FRAMES = Limits(
    low=0.7, high=0.95, low2=0.3, face_correlation=0.9, copy_above=0.6, yaw=6, pitch=6, expression=0.4, time_ms=800
)


def random_faces(seed: int, n: int, *, videos: int = 2, columns: bool = True) -> Faces:
    """Images of one person, some in videos, some copies of others with their mirror image, with values missing."""
    rng = np.random.default_rng(seed)
    centre = rng.normal(size=24)
    family = np.where(rng.random(n) < 0.4, rng.integers(0, max(1, videos), n), np.arange(n) + 100)
    embedding = centre + rng.choice([0.2, 0.5, 0.9], (n, 1)) * rng.normal(size=(n, 24))
    thumb = rng.integers(0, 256, (n, 6, 7)).astype(np.uint8)
    copy = rng.normal(size=(n, 8))
    for row in range(1, n):
        if rng.random() < 0.3:
            source = rng.integers(0, row)
            embedding[row] = embedding[source] + 0.1 * rng.normal(size=24)
            thumb[row] = thumb[source][:, :: rng.choice([-1, 1])]
            copy[row] = copy[source]
    yaw, pitch = rng.normal(0, 8, (2, n)).astype(np.float32)
    yaw[rng.random(n) < 0.2] = np.nan
    expressions = rng.dirichlet([0.4] * 7, n).astype(np.float32)
    expressions[rng.random(n) < 0.2] = np.nan
    if not columns:
        return Faces(normalise(embedding)[0], family)
    return Faces(
        normalise(embedding)[0], family, normalise(rng.normal(size=(n, 5)) + 1)[0], thumb, normalise(copy)[0],
        yaw, pitch, expressions, np.where(family < 100, rng.integers(0, 40, n) * 100.0, np.nan),
    )  # fmt: skip


def reason(faces: Faces, limits: Limits, a: int, b: int) -> int:
    """The first test that a pair fails, one pair at a time and in double precision."""

    def dot(values: Any) -> float:
        return float(values[a].astype(float) @ values[b].astype(float))

    similarity = dot(faces.embedding)
    if similarity < limits.low:
        return 0
    if limits.high is not None and similarity > limits.high:
        return 1
    if limits.low2 is not None and faces.embedding2 is not None and dot(faces.embedding2) < limits.low2:
        return 2
    if similarity >= limits.copy_above:
        if limits.face_correlation is not None and faces.thumb is not None:
            x, y = faces.thumb[a].astype(float), faces.thumb[b].astype(float)
            if max(np.corrcoef(x.ravel(), z.ravel())[0, 1] for z in (y, y[:, ::-1])) > limits.face_correlation:
                return 3
        if limits.copy_similarity is not None and faces.copy is not None and dot(faces.copy) > limits.copy_similarity:
            return 4
    ways = []
    for values, least in ((faces.yaw, limits.yaw), (faces.pitch, limits.pitch), (faces.time_ms, limits.time_ms)):
        if values is not None and least is not None:
            ways.append(abs(values[a] - values[b]) >= least)
    if faces.expressions is not None and limits.expression is not None:
        ways.append(np.abs(faces.expressions[a] - faces.expressions[b]).sum() / 2 >= limits.expression)
    return CANDIDATE if any(ways) or not ways else 5


def brute(faces: Faces, rules: Rules) -> dict[tuple[int, int], int]:
    def limits(a: int, b: int) -> Limits:
        return rules.frames if faces.family[a] == faces.family[b] else rules.photos

    return {(a, b): reason(faces, limits(a, b), a, b) for a, b in combinations(range(len(faces)), 2)}


def pairs(found: Found) -> list[tuple[int, int]]:
    return list(zip(found.a.tolist(), found.b.tolist(), strict=True))


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 100_000), st.integers(1, 30), st.integers(1, 3), st.booleans(), st.sampled_from([3, 8, 512]))
def test_every_pair_is_judged_as_by_brute_force(seed: int, n: int, videos: int, columns: bool, block: int) -> None:
    faces = random_faces(seed, n, videos=videos, columns=columns)
    rules = Rules(FRAMES, PHOTOS, per_identity=10**6, keep_rejects=10**6)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pairing, "BLOCK", block)
        patch.setattr(pairing, "SPARSE", 1 / 32 if seed % 2 else 2.0)
        found = pair(faces, rules)
    truth = brute(faces, rules)
    assert pairs(found) == sorted(p for p, code in truth.items() if code == CANDIDATE)
    assert found.counts.tolist() == [sum(c == code for c in truth.values()) for code in range(CANDIDATE + 1)]
    rejected = zip(found.rejected_a.tolist(), found.rejected_b.tolist(), found.rejected_reason.tolist(), strict=True)
    assert {(a, b): code for a, b, code in rejected} == {p: code for p, code in truth.items() if code != CANDIDATE}
    furthest = [max((code for p, code in truth.items() if row in p), default=-1) for row in range(n)]
    assert found.furthest.tolist() == furthest


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 100_000), st.integers(2, 40), st.integers(1, 12), st.integers(1, 6), st.sampled_from([4, 512]))
def test_memory_bound_and_blocks(seed: int, n: int, count: int, neighbours: int, block: int) -> None:
    """Per image the candidates with later images that differ most, then the greedy choice among all of those."""
    faces = random_faces(seed, n)
    rules = Rules(FRAMES, PHOTOS, per_identity=count, keep_rejects=5, neighbours=neighbours)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pairing, "BLOCK", block)
        found = pair(faces, rules)
    x = faces.descriptors(rules).astype(float)
    held = []
    allowed = [p for p, code in brute(faces, rules).items() if code == CANDIDATE]
    for row in range(n):
        own = [(-np.linalg.norm(x[a] - x[b]), b) for a, b in allowed if a == row]
        held += [(row, b) for _, b in sorted(own)[:neighbours]]
    assert set(pairs(found)) <= set(held)
    assert len(found.a) == min(count, len(held))
    assert len(found.rejected_a) <= 5


def test_equal_claims_go_to_lower_rows_and_less_used_images() -> None:
    faces = Faces(normalise(np.ones((5, 4)) + 0.3 * np.eye(5, 4))[0], np.arange(5))
    found = pair(faces, Rules(PHOTOS, Limits(low=0.1), per_identity=3))
    assert pairs(found) == [(0, 1), (0, 4), (2, 3)]


def test_the_choice_is_diverse_and_shares_images_evenly() -> None:
    yaw = np.array([0, 1, 2, 20, 21, 22, 40, 41, 42], np.float32)
    faces = Faces(normalise(np.ones((9, 4)))[0], np.arange(9), yaw=yaw)
    found = pair(faces, Rules(PHOTOS, Limits(low=0.1, yaw=10), per_identity=3))
    assert (0, 8) in pairs(found)
    used = np.bincount(np.concatenate([found.a, found.b]), minlength=9)
    assert used.max() == 1
    assert {tuple(sorted((int(yaw[a] // 20), int(yaw[b] // 20)))) for a, b in pairs(found)} == {(0, 1), (0, 2), (1, 2)}


def test_choose_takes_no_more_than_there_are() -> None:
    nothing = np.zeros(0, np.int64)
    assert choose(np.zeros((3, 1), np.float32), nothing, nothing, np.zeros(0, np.float32), 5).tolist() == []
    one = np.array([0])
    assert choose(np.zeros((3, 1), np.float32), one, one + 1, np.zeros(1, np.float32), 5).tolist() == [0]


@pytest.mark.parametrize("width", [32, 7])
def test_correlation_is_the_larger_of_plain_and_mirrored(width: int) -> None:
    rng = np.random.default_rng(0)
    thumb = rng.integers(0, 256, (6, 9, width)).astype(np.uint8)
    thumb[1] = thumb[0][:, ::-1]
    thumb[2] = 7
    faces = Faces(np.ones((6, 1), np.float32), np.arange(6), thumb=thumb)
    a, b = np.array([0, 0, 3]), np.array([1, 4, 5])
    got = pairing.likeness(faces.faces(), a, b)
    for k, (i, j) in enumerate(zip(a, b, strict=True)):
        x, y = thumb[i].astype(float), thumb[j].astype(float)
        assert got[k] == pytest.approx(max(np.corrcoef(x.ravel(), z.ravel())[0, 1] for z in (y, y[:, ::-1])), abs=1e-5)
    assert got[0] == pytest.approx(1)
    assert pairing.likeness(faces.faces(), np.array([2]), np.array([3]))[0] == 0


def test_reasons_are_dotted_words() -> None:
    assert all(name.startswith("pair.") and name == name.lower() for name in REASONS)
