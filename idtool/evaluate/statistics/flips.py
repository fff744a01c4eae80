"""Permutation tests of paired differences: the two methods are swapped within identities.

Under the null hypothesis it does not matter which of the two made the images of an identity. For a mean, a swap is a
flip of the sign of the identity's summed differences.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from idtool.evaluate.statistics.bootstrap import Floats, Statistic, in_blocks, itself

EXACT = 14
"""Up to so many clusters, every pattern of swaps is tried."""
FLIPS = 10_000


def flip_test(
    sum_a: Floats,
    sum_b: Floats,
    counts: Floats,
    statistic: Statistic = itself,
    *,
    seed: int = 0,
    flips: int = FLIPS,
) -> tuple[Floats, Floats]:
    """Two-sided p-values (K,) of pairs of methods, and the same corrected for all pairs.

    `sum_a`, `sum_b`, `counts`: (P, clusters, K). Exact for up to 14 clusters: all patterns are tried. Else `flips` - 1
    random patterns and the observed one (Phipson and Smyth 2010), so that p is never below 1 / flips. NaN for pairs
    without a common sample.

    The correction is Westfall and Young's step-down max-T (1993, Alg. 4.1): as Holm's, but with the chance that any of
    the remaining pairs is as extreme taken from the patterns, all pairs swapped at once, where Holm adds the single
    chances up. It is as strict for the family and keeps its power where few identities make p-values coarse.
    """
    half, middle, total = (sum_a - sum_b) / 2, (sum_a + sum_b).sum(axis=1) / 2, counts.sum(axis=1)
    parts, clusters, columns = half.shape
    p, corrected = np.full(columns, np.nan), np.full(columns, np.nan)
    with np.errstate(invalid="ignore", divide="ignore"):
        known = np.flatnonzero((total[0] > 0) & np.isfinite(statistic(middle / total)))
        if not len(known):
            return p, corrected
        half, middle, total = half[..., known], middle[:, known], total[:, known]
        scale = _spread(half, middle, total, statistic)

        def size(moved: Floats) -> Floats:
            """(b, K) of differences, in their spreads, where the sums of the first have moved by (P, b, K)."""
            one, other = ((middle[:, None] + sign * moved) / total[:, None] for sign in (1, -1))
            return np.abs(statistic(one) - statistic(other)) / scale

        # Sums in another order differ in their last digits; equal ones must count as equal.
        observed = size(half.sum(axis=1)[:, None])[0] - 1e-9
        order = np.argsort(-observed, kind="stable")
        alone, joint, tried = np.zeros(len(known)), np.zeros(len(known)), 0
        for signs in _signs(clusters, max(clusters, parts * len(known)), seed, flips):
            extreme = size(np.stack([signs @ half[part] for part in range(parts)]))
            alone += (extreme >= observed).sum(axis=0)
            # For each pair, the largest of it and of those that were observed to be smaller.
            rest = np.maximum.accumulate(extreme[:, order[::-1]], axis=1)[:, ::-1]
            joint += (rest >= observed[order]).sum(axis=0)
            tried += len(signs)
    unseen = 0 if clusters <= EXACT else 1
    p[known] = (alone + unseen) / (tried + unseen)
    corrected[known[order]] = np.maximum.accumulate((joint + unseen) / (tried + unseen))
    return p, corrected


def _spread(half: Floats, middle: Floats, total: Floats, statistic: Statistic) -> Floats:
    """(K,) root mean square of the difference over all patterns, to first order: what makes pairs comparable. It is
    the same for every pattern, as the test needs. 1 where no pattern makes a difference."""
    at = middle / total
    step = 1e-4
    change = np.zeros(half.shape[1:])
    for part in range(len(half)):
        up, down = at.copy(), at.copy()
        up[part] += step
        down[part] -= step
        slope = (statistic(up) - statistic(down)) / (2 * step)
        # A part that neither method has moves nothing.
        change += np.where(total[part] > 0, slope * half[part] / total[part], 0.0)
    spread = 2 * np.sqrt((change**2).sum(axis=0))
    return np.where(spread > 0, spread, 1.0)


def _signs(clusters: int, width: int, seed: int, flips: int) -> Iterator[Floats]:
    """Blocks (b, clusters) of +1 and -1."""
    if clusters <= EXACT:
        # The mirror of a pattern is as extreme as the pattern itself: half of them say all.
        codes = np.arange(2 ** (clusters - 1))
        at = 0
        for count in in_blocks(len(codes), width):
            bits = (codes[at : at + count, None] >> np.arange(clusters)) & 1
            yield np.where(bits, -1.0, 1.0)
            at += count
        return
    rng = np.random.default_rng([seed, clusters, 1])
    for count in in_blocks(flips - 1, width):
        yield np.where(rng.integers(0, 2, (count, clusters), dtype=np.int8), -1.0, 1.0)
