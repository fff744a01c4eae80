"""How much of a method's identity score is bought by copying: the variance of `facesim` over its images that the
components of `copy_paste` explain by least squares.

    adjusted R^2 = 1 - (1 - R^2) (n - 1) / (n - p - 1),   p the number of components that vary independently

Near 1: images score high exactly where they repeat pose, expression, framing or background of the reference. Near 0:
the score does not depend on that (it may be a little below). Over all 582 pairs of fixture photos of one person, which
copy nothing, it is .36 by arcface-mbf and .26 by edgeface-s: recognition itself finds another pose harder.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from idtool.engine.step import Env
from idtool.evaluate.measures.people import IDENTITIES, PeopleIdentity
from idtool.evaluate.metrics.base import Metric, SetMetric, SetScore, Unscored
from idtool.evaluate.metrics.copy_paste import Component, components, measures_of
from idtool.evaluate.metrics.facesim import FaceSim
from idtool.evaluate.samples import Sample

FEWEST = 30
"""Images below which no number is given unless it is forced."""
CONSTANT = 1e-8
"""Variance below which a value counts as one that does not vary; cosines are good to about 1e-6."""
DEPENDENT = 1e-8
"""Share of the largest variance below which a direction counts as none."""
Floats = npt.NDArray[np.float64]


class FacesimExplained(SetMetric):
    """On one network of role `identity`. Keeps sums of products only."""

    family = "facesim_explained"
    summary = "share of facesim's variance that copied pose, expression, framing and background explain"
    paper = "ours"
    unit = "adjusted R^2"
    bounds: ClassVar[Any] = (None, 1.0)
    better: ClassVar[Any] = "lower"
    axis: ClassVar[Any] = "copying"

    def __init__(self, measure: type[PeopleIdentity], parts: Sequence[Component]) -> None:
        self.measure, self.parts = measure, parts
        self.facesim = FaceSim(measure)
        self.image = self.reference = tuple(dict.fromkeys((*self.facesim.image, *measures_of(parts))))
        self.network = measure.name
        size = len(parts) + 2
        self.products = np.zeros((size, size))
        """Sum over images of z z^T, z = (1, components, facesim)."""

    @classmethod
    def instances(cls, env: Env) -> Sequence[Metric]:
        parts = components(env)
        return [cls(measure, parts) for measure in IDENTITIES if measure.bound(env)]

    def settings(self) -> dict[str, Any]:
        return {"components": {one.part: one.settings() for one in self.parts}, "fewest": FEWEST}

    def fresh(self) -> FacesimExplained:
        return FacesimExplained(self.measure, self.parts)

    def add(self, sample: Sample) -> None:
        try:
            row = np.array([1.0, *(one(sample) for one in self.parts), self.facesim(sample)])
        except Unscored:
            return  # no face: neither has a number
        self.products += np.outer(row, row)

    def add_real(self, columns: Mapping[str, Any]) -> None:
        """Real images take no part."""

    def finish(self, *, force: bool = False) -> SetScore:
        n = round(self.products[0, 0])
        if n < FEWEST and not force:
            return SetScore(None, n=n, note=f"{n} images with faces; fewer than {FEWEST} say little")
        if not n:
            return SetScore(None, note="no image with faces")
        value = adjusted(self.products)
        return SetScore(None, n=n, note=value) if isinstance(value, str) else SetScore(value, n=n)


def adjusted(products: Floats) -> float | str:
    """Adjusted R^2 of the last column on those between, by sums of products (of columns: 1, x..., y); or why there is
    none."""
    n = float(products[0, 0])
    mean = products[0, 1:] / n
    spread = products[1:, 1:] / n - np.outer(mean, mean)
    if spread[-1, -1] < CONSTANT:
        return "facesim is the same for every image"
    varying = np.flatnonzero(np.diag(spread)[:-1] > CONSTANT)
    if not len(varying):
        return "every image repeats equally much of its reference"
    own, shared = spread[np.ix_(varying, varying)], spread[varying, -1]
    p = int(np.linalg.matrix_rank(own, tol=DEPENDENT * float(np.trace(own)), hermitian=True))
    if n <= p + 1:
        return f"{n:.0f} images are too few for {p} components"
    explained = float(shared @ np.linalg.pinv(own, rcond=DEPENDENT, hermitian=True) @ shared) / float(spread[-1, -1])
    value = 1 - (1 - min(explained, 1.0)) * (n - 1) / (n - p - 1)
    return value if math.isfinite(value) else "the sums are not finite"
