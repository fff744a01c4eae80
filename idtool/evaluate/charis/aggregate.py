"""How axes become one number: the weighted geometric mean of Instruct Identity, Algorithm 2, lines 8 to 15.

The numbers of its Tables 1 and 2 are the geometric mean of the *means of the axes over all samples*, not the mean of
the samples' scores: all eight rows come out so. `Derived` is that; `geometric_mean` serves single samples, too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

Doubles = npt.NDArray[np.float64]

BENCH: Mapping[str, float] = {"id": 0.25, "prompt": 0.25, "color": 0.25, "quality": 0.25}
"""Benchmarking: equal weights (section CHARIS)."""
FILTER: Mapping[str, float] = {"id": 0.3, "prompt": 0.2, "color": 0.2, "quality": 0.1, "diversity": 0.2}
"""Filtering of training data: weights of ours, since the paper prints none ("adjusted to prioritize fidelity"), on all
five axes, since its text filters by prompt adherence, too, though its Algorithm 2 leaves that out."""
ALG2: Mapping[str, float] = {axis: weight for axis, weight in FILTER.items() if axis != "prompt"}
"""The axes of Algorithm 2, line 12, to the letter; the weights are ours, in the proportions of `FILTER`."""


def geometric_mean(values: npt.ArrayLike, weights: npt.ArrayLike) -> Doubles:
    """(prod v^w)^(1 / sum w) over the last axis: `values` (..., A) not below 0, `weights` (A,) above 0 -> (...).

    A value that is NaN is left out together with its weight; where all are, the result is NaN. A value of 0 makes the
    result 0: nothing is added to prevent that. ValueError for a negative value, or a weight that is not above 0.
    """
    rows, scale = np.asarray(values, np.float64), np.asarray(weights, np.float64)
    if (scale <= 0).any() or scale.shape != rows.shape[-1:]:
        raise ValueError(f"Expected {rows.shape[-1:]} weights above 0. Got {scale.tolist()}")
    if (rows < 0).any():
        raise ValueError(f"Expected values of 0 or more. Got {np.nanmin(rows)}")
    here = ~np.isnan(rows)
    share = np.where(here, scale, 0.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        logs = np.where(here, np.log(np.where(here, rows, 1.0)) * scale, 0.0)
        mean: Doubles = np.exp(logs.sum(axis=-1) / share.sum(axis=-1))
    return mean


def corpus(means: Mapping[str, npt.ArrayLike | None], weights: Mapping[str, float]) -> Doubles:
    """CHARIS of a whole set of samples, of the mean of each axis: numbers -> (), arrays (N,) of bootstrap replicates ->
    (N,). An axis that is absent, None or NaN is left out with its weight. ValueError for an axis without a weight."""
    unknown = sorted(set(means) - set(weights))
    if unknown:
        raise ValueError(f"Axis {unknown[0]!r} has no weight. Axes: {', '.join(weights)}")
    return geometric_mean(_stacked([means.get(axis) for axis in weights]), list(weights.values()))


@dataclass(frozen=True)
class Derived:
    """How the number of a whole set follows from the means of other metrics; in place of the mean of the samples."""

    families: tuple[str, ...]
    """The metric families that it is made of; each has one metric under a profile."""
    weights: tuple[float, ...]
    how: Literal["geometric mean", "product"] = "geometric mean"

    def __call__(self, means: Sequence[npt.ArrayLike | None]) -> Doubles:
        """Means of `families` in their order, numbers or arrays (N,) of bootstrap replicates -> () or (N,); NaN where
        there is no number. A missing mean (None or NaN) is left out of a geometric mean, and makes a product NaN."""
        columns = _stacked(means)
        if self.how == "geometric mean":
            return geometric_mean(columns, self.weights)
        product: Doubles = columns.prod(axis=-1)
        return product


def _stacked(columns: Sequence[npt.ArrayLike | None]) -> Doubles:
    arrays = [np.asarray(np.nan if one is None else one, np.float64) for one in columns]
    return np.stack(np.broadcast_arrays(*arrays), axis=-1)
