"""Krippendorff's alpha: how far judges, or the votes of one judge, agree beyond chance.

Our own lines, since the package `krippendorff` is under the GPL; tests compare with it.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt


def agreement(ratings: npt.ArrayLike, level: Literal["ordinal", "interval"] = "ordinal") -> float | None:
    """Alpha (at most 1; 0: by chance) of `ratings` (raters, units), NaN where a rater says nothing of a unit.

    Krippendorff, "Computing Krippendorff's Alpha-Reliability" (2011): 1 - observed / expected disagreement over the
    coincidences of values in units that have two ratings or more. None where it is not defined: no such unit, or one
    and the same rating everywhere. ValueError for an array of another shape or an unknown level.
    """
    table = np.asarray(ratings, np.float64)
    if table.ndim != 2 or level not in ("ordinal", "interval"):
        raise ValueError(f"Expected ratings (raters, units), ordinal or interval. Got {table.shape}, {level}")
    table = table[:, (~np.isnan(table)).sum(axis=0) > 1]
    values = np.unique(table[~np.isnan(table)])
    if len(values) < 2:
        return None
    counts = (table[:, :, None] == values).sum(axis=0).astype(np.float64)  # (units, values)
    shares = counts / (counts.sum(axis=1, keepdims=True) - 1)
    coincidences = shares.T @ counts - np.diag(shares.sum(axis=0))
    totals = coincidences.sum(axis=1)
    # The distance of two ranks counts the ratings between them, and half of those at both ends.
    places = np.cumsum(totals) - totals / 2 if level == "ordinal" else values
    distances = (places[:, None] - places[None, :]) ** 2
    expected = (np.outer(totals, totals) * distances).sum() / (totals.sum() - 1)
    return float(1 - (coincidences * distances).sum() / expected)
