"""How well a similarity tells pairs of one person from pairs of two: rates, thresholds and how sure they are.

A pair counts as one person when its similarity is at least the threshold. FMR, the false match rate, is the share of
pairs of two people that do; FNMR, the false non-match rate, the share of pairs of one person that do not (ISO/IEC
19795-1). All functions take similarities as float arrays (N,), any order.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Doubles = npt.NDArray[np.float64]
Indices = npt.NDArray[np.int64]

DECIMALS = 4
"""Of thresholds, which are rounded up, so that the rate that was asked for still holds."""
REPEATS = 400
FEWEST_REPEATS = 100
_WORK = 200_000_000
"""Pairs times repeats of a bootstrap that take some seconds."""


@dataclass(frozen=True)
class Pairs:
    """Similarities of pairs, with the people in them."""

    similarity: Doubles
    """(N,)"""
    same: npt.NDArray[np.bool_]
    """(N,) whether both pictures show one person."""
    people: Indices
    """(N, 2) who is in them, as numbers from 0."""

    @property
    def genuine(self) -> Doubles:
        """Similarities of the pairs of one person."""
        return self.similarity[self.same]

    @property
    def impostor(self) -> Doubles:
        """Similarities of the pairs of two people."""
        return self.similarity[~self.same]


def auc(genuine: Doubles, impostor: Doubles) -> float:
    """The area under the ROC curve: how often a pair of one person is more alike than a pair of two, ties half."""
    ranked = np.sort(impostor)
    below, not_above = (np.searchsorted(ranked, genuine, side) for side in ("left", "right"))
    return float((below + not_above).mean() / 2 / len(ranked))


def rates(genuine: Doubles, impostor: Doubles, thresholds: npt.ArrayLike) -> tuple[Doubles, Doubles]:
    """FMR and FNMR at each threshold."""
    at = np.asarray(thresholds, np.float64)
    false_matches = 1 - np.searchsorted(np.sort(impostor), at, "left") / len(impostor)
    return false_matches, np.searchsorted(np.sort(genuine), at, "left") / len(genuine)


def equal_error(genuine: Doubles, impostor: Doubles) -> tuple[float, float]:
    """The equal error rate, and its threshold: where FMR and FNMR differ least, the mean of the two."""
    at = np.unique(np.concatenate([genuine, impostor]))
    fmr, fnmr = rates(genuine, impostor, at)
    best = int(np.abs(fmr - fnmr).argmin())
    return float(fmr[best] + fnmr[best]) / 2, float(at[best])


def threshold_at(impostor: Doubles, fmr: float) -> float:
    """The lowest threshold, rounded up to `DECIMALS`, at which at most the share `fmr` of pairs of two people match."""
    ranked = np.sort(impostor)[::-1]
    allowed = int(fmr * len(ranked) + 1e-9)
    return -1.0 if allowed >= len(ranked) else _just_above(float(ranked[allowed]))


def roc(genuine: Doubles, impostor: Doubles, per_decade: int = 10) -> list[tuple[float, float, float]]:
    """(threshold, FMR, FNMR) at FMRs in even ratios from one pair to all of them."""
    decades = np.log10(len(impostor))
    asked = 10.0 ** -np.linspace(0, decades, max(2, int(np.ceil(decades * per_decade)) + 1))
    at = np.unique([threshold_at(impostor, float(fmr)) for fmr in asked])
    return [(float(t), float(a), float(b)) for t, a, b in zip(at, *rates(genuine, impostor, at), strict=True)]


def intervals(
    pairs: Pairs, fmrs: Sequence[float], *, seed: int = 0, level: float = 0.95
) -> list[tuple[float, float]] | None:
    """Between which thresholds each FMR would lie with other people, from a bootstrap that draws people.

    Pairs share people, so drawing pairs would make the interval too narrow: each repeat draws as many people as there
    are, with replacement, and a pair of two counts as often as the two were drawn together. None where there are too
    many pairs to do it in seconds.
    """
    of_two = ~pairs.same
    order = np.argsort(-pairs.similarity[of_two], kind="stable")
    ranked, people = pairs.similarity[of_two][order], pairs.people[of_two][order]
    repeats = min(REPEATS, _WORK // max(1, len(ranked)))
    if repeats < FEWEST_REPEATS:
        return None
    random, number = np.random.default_rng(seed), int(pairs.people.max()) + 1
    found: list[list[float]] = [[] for _ in fmrs]
    for _ in range(repeats):
        drawn = np.bincount(random.integers(0, number, number), minlength=number)
        total = np.cumsum(drawn[people[:, 0]] * drawn[people[:, 1]])
        if total[-1] == 0:
            continue
        for thresholds, fmr in zip(found, fmrs, strict=True):
            first = int(np.searchsorted(total, fmr * total[-1] + 1e-9, "right"))
            thresholds.append(_just_above(float(ranked[first])) if first < len(ranked) else -1.0)
    if not all(found):
        return None
    tail = (1 - level) / 2
    return [(float(low), float(high)) for low, high in (np.quantile(one, [tail, 1 - tail]) for one in found)]


def _just_above(similarity: float) -> float:
    """The lowest multiple of the last decimal that is above a similarity."""
    scale = float(10**DECIMALS)
    steps = math.floor(similarity * scale)
    # The product may be rounded to either side.
    return next(step / scale for step in range(steps, steps + 3) if step / scale > similarity)
