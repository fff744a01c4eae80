"""Correction of p-values for many comparisons. NaN: a comparison that could not be made, which is not counted."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from idtool.evaluate.statistics.bootstrap import Floats


def holm(p: npt.ArrayLike) -> Floats:
    """Holm's step-down adjustment (Holm 1979): any false claim among all has at most the chance that is asked."""
    return _of_known(p, _holm)


def benjamini_hochberg(p: npt.ArrayLike) -> Floats:
    """Adjustment for the false discovery rate (Benjamini and Hochberg 1995), by SciPy."""
    from scipy.stats import false_discovery_control

    return _of_known(p, false_discovery_control)


def _holm(p: Floats) -> Floats:
    order = np.argsort(p, kind="stable")
    steps = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(steps, 1.0)
    return adjusted


def _of_known(p: npt.ArrayLike, adjust: Callable[[Floats], Floats]) -> Floats:
    given = np.asarray(p, np.float64)
    known = np.isfinite(given)
    adjusted = np.full(given.shape, np.nan)
    if known.any():
        adjusted[known] = adjust(given[known])
    return adjusted
