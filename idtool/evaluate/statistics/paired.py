"""Paired differences of methods on the samples that both have a score for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt

from idtool.evaluate.statistics.bootstrap import Floats, Statistic, itself, percentile_interval, resamples
from idtool.evaluate.statistics.correction import benjamini_hochberg, holm
from idtool.evaluate.statistics.flips import flip_test
from idtool.evaluate.statistics.power import effect_size, minimum_detectable_difference

Pair = tuple[int, int]


@dataclass(frozen=True)
class Differences:
    """Of pairs (K,) of columns; NaN where there is nothing to say."""

    n: npt.NDArray[np.int64]
    """Samples that both have."""
    clusters: npt.NDArray[np.int64]
    """Identities of those samples."""
    mean_a: Floats
    mean_b: Floats
    difference: Floats
    """mean_a - mean_b."""
    low: Floats
    high: Floats
    se: Floats
    p: Floats
    """Two-sided, by swapping the two methods within identities."""
    p_corrected: Floats
    """For all pairs, by step-down max-T: what letters go by."""
    p_holm: Floats
    p_bh: Floats
    win_rate: Floats
    """Share of the samples in which the first is better, ties half; NaN where neither side is better."""
    d_z: Floats
    mdd: Floats
    """Minimum detectable difference at 80 % power."""

    def row(self, k: int) -> dict[str, Any]:
        """One pair as plain numbers; None for NaN."""
        found = {field.name: getattr(self, field.name)[k].item() for field in fields(self)}
        return {name: None if value != value else value for name, value in found.items()}


def differences(
    values: Floats,
    starts: npt.NDArray[np.intp],
    pairs: Sequence[Pair],
    *,
    better: int = 1,
    statistic: Statistic = itself,
    seed: int = 0,
) -> Differences:
    """Differences between columns of `values` (P, N, M), NaN where there is no score.

    `starts`: the first row of each cluster. `better`: 1 for higher, -1 for lower, 0 for neither. Samples and wins are
    those of the first part, the metric itself. What is compared is the `statistic` of the means of all parts; each mean
    is over the samples that both methods have of that part.
    """
    parts, clusters, count = len(values), len(starts), len(pairs)
    sum_a, sum_b, counts = (np.empty((parts, clusters, count)) for _ in range(3))
    wins, n = np.full(count, np.nan), np.zeros(count, np.int64)
    for k, (i, j) in enumerate(pairs):
        a, b = values[:, :, i], values[:, :, j]
        both = np.isfinite(a) & np.isfinite(b)
        sum_a[:, :, k] = np.add.reduceat(np.where(both, a, 0.0), starts, axis=1)
        sum_b[:, :, k] = np.add.reduceat(np.where(both, b, 0.0), starts, axis=1)
        counts[:, :, k] = np.add.reduceat(both, starts, axis=1, dtype=np.float64)
        whole = both[0]
        n[k] = whole.sum()
        if better and n[k]:
            gain = better * (a[0, whole] - b[0, whole])
            wins[k] = ((gain > 0).sum() + (gain == 0).sum() / 2) / n[k]
    with np.errstate(invalid="ignore", divide="ignore"):
        mean_a, mean_b = (statistic(total.sum(axis=1) / counts.sum(axis=1)) for total in (sum_a, sum_b))
    # A cluster that one of the two lacks altogether tells nothing of their difference.
    present = (counts[0] > 0).sum(axis=0)
    draws = resamples(clusters, seed)
    drawn = draws.means(sum_a, counts, statistic) - draws.means(sum_b, counts, statistic)
    low, high, se = percentile_interval(drawn, present)
    p, corrected = flip_test(sum_a, sum_b, counts, statistic, seed=seed)
    p, corrected = (np.where(present >= 2, one, np.nan) for one in (p, corrected))
    return Differences(
        n=n,
        clusters=present,
        mean_a=mean_a,
        mean_b=mean_b,
        difference=mean_a - mean_b,
        low=low,
        high=high,
        se=se,
        p=p,
        p_corrected=corrected,
        p_holm=holm(p),
        p_bh=benjamini_hochberg(p),
        win_rate=wins,
        d_z=effect_size((sum_a - sum_b)[0], counts[0]) if parts == 1 else np.full(count, np.nan),
        mdd=minimum_detectable_difference(se, present),
    )
