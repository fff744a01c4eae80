"""How much of an identity score copying explains: the streamed number is that of least squares."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from idtool.evaluate.measures.people import PeopleIdentity
from idtool.evaluate.metrics.explained import FacesimExplained, adjusted
from idtool.evaluate.samples import Sample
from tests.evaluate.offline import sample
from tests.evaluate.test_copy_paste import BACKGROUND, EXPRESSION, FRAMING, POSE, picture


def sums(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    z = np.column_stack([np.ones(len(y)), x, y])
    return np.asarray(z.T @ z)


@given(st.integers(0, 2**32 - 1), st.integers(8, 60), st.floats(0, 3))
@settings(max_examples=60, deadline=None)
def test_explained_variance_is_that_of_least_squares(seed: int, n: int, noise: float) -> None:
    rng = np.random.default_rng(seed)
    x = rng.uniform(size=(n, 4))
    y = x @ rng.normal(size=4) + noise * rng.normal(size=n)
    design = np.column_stack([np.ones(n), x])
    left = y - design @ np.linalg.lstsq(design, y, rcond=None)[0]
    expected = 1 - (left @ left / (n - 5)) / np.var(y, ddof=1)
    assert adjusted(sums(x, y)) == pytest.approx(expected, abs=1e-6)


def test_explained_variance_in_edge_cases() -> None:
    rng = np.random.default_rng(3)
    x, y = rng.uniform(size=(50, 3)), rng.uniform(size=50)
    assert adjusted(sums(x, np.full(50, 0.7))) == "facesim is the same for every image"
    assert adjusted(sums(np.ones((50, 3)), y)) == "every image repeats equally much of its reference"
    assert "too few for 3 components" in str(adjusted(sums(x[:4], y[:4])))
    doubled = np.column_stack([x, x[:, 0] + x[:, 1], np.ones(50)])
    assert adjusted(sums(doubled, y)) == pytest.approx(adjusted(sums(x, y))), "what says nothing new is not counted"
    assert adjusted(sums(x, x @ [1, 2, 3])) == pytest.approx(1)


def made(rng: np.random.Generator, copied: float, noise: float) -> Sample:
    """An image that repeats `copied` of its reference, whose likeness depends on that besides noise."""
    cosine = float(np.clip(0.3 + 0.6 * copied + noise * rng.normal(), -1, 1))
    image = picture(
        people_embeddings=[[cosine, float(np.sqrt(1 - cosine**2)), 0.0]],
        people_pose_angles=[[30 * (1 - copied) + rng.normal(), 0, 0]],
        copy_embedding=[copied, float(np.sqrt(1 - copied**2))],
    )
    return sample(image, picture())


def test_likeness_that_copying_buys_is_explained() -> None:
    def explained(noise: float, n: int = 60, *, of: slice = slice(None), force: bool = False) -> Any:
        rng = np.random.default_rng(1)
        metric = FacesimExplained(PeopleIdentity, [POSE, EXPRESSION, FRAMING, BACKGROUND]).fresh()
        samples = [made(rng, rng.uniform(), noise) for _ in range(n)]
        for one in samples[of]:
            metric.add(one)
        return metric.finish(force=force)

    bought, free = explained(0.01), explained(9.0)
    assert bought.n == 60 and bought.value > 0.95
    assert free.value < 0.25
    assert explained(0.01, of=slice(None, None, -1)).value == pytest.approx(bought.value), "in any order"
    few = explained(0.01, 20)
    assert few.value is None and few.n == 20 and "fewer than 30" in few.note
    assert explained(0.01, 20, force=True).value > 0.9
    assert explained(0.01, 0, force=True).value is None

    copies = FacesimExplained(PeopleIdentity, [POSE, BACKGROUND])
    for _ in range(40):
        copies.add(sample(picture(), picture()))
    copies.add(sample(picture(people_boxes=[], people_embeddings=[]), picture()))
    done = copies.finish()
    assert done.value is None and done.n == 40 and done.note == "facesim is the same for every image"
