"""What a suite of a given size can show: the smallest difference that it would find, and how large one is."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from idtool.evaluate.statistics.bootstrap import Floats


def minimum_detectable_difference(
    se: npt.ArrayLike, clusters: npt.ArrayLike, *, alpha: float = 0.05, power: float = 0.8
) -> Floats:
    """The true difference of two means that a two-sided test at `alpha` finds with probability `power`:
    (t[1 - alpha/2] + t[power]) * se, with clusters - 1 degrees of freedom (Bloom 1995).

    `se`: standard error of the paired difference. NaN for fewer than two clusters, and for a standard error of 0: where
    nothing varies, nothing is known of what would.
    """
    from scipy.stats import t

    error, count = np.broadcast_arrays(np.asarray(se, np.float64), np.asarray(clusters, np.float64))
    freedom = np.where((count >= 2) & (error > 0), count - 1, np.nan)
    multiple: Floats = (t.ppf(1 - alpha / 2, freedom) + t.ppf(power, freedom)) * error
    return multiple


def effect_size(sums: Floats, counts: Floats) -> Floats:
    """Cohen's d_z (K,): mean of the clusters' mean differences over their standard deviation. `sums`, `counts`:
    (clusters, K). NaN where fewer than two clusters have any, or where all differ by the same."""
    with np.errstate(invalid="ignore", divide="ignore"):
        means = sums / counts
    there = np.isfinite(means)
    n = there.sum(axis=0)
    filled = np.where(there, means, 0.0)
    with np.errstate(invalid="ignore", divide="ignore"):
        center = filled.sum(axis=0) / n
        spread = np.sqrt((np.where(there, means - center, 0.0) ** 2).sum(axis=0) / (n - 1))
        size: Floats = np.where((n >= 2) & (spread > 1e-12 * np.abs(center)), center / spread, np.nan)
    return size
