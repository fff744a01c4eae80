"""Cluster bootstrap: identities are drawn with replacement, with all their samples (Davison and Hinkley 1997, §3.8)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Statistic = Callable[[Floats], Floats]
"""(P, …) means of the parts of a metric -> (…) its number. Most metrics have one part, themselves."""

DRAWS = 2_000
LEVEL = 0.95
BLOCK = 1 << 22
"""Numbers held at once."""
KEPT = 1 << 24
"""Up to this many, the weights are kept; above, they are drawn again at each use."""


def itself(means: Floats) -> Floats:
    """The statistic of most metrics: their mean."""
    found: Floats = means[0]
    return found


class Resamples:
    """How often each cluster is drawn, in each draw: multinomial weights, the same whenever and for whatever they are
    used. So the draws of two methods are paired, and their difference has an interval of its own."""

    def __init__(self, clusters: int, seed: int = 0, draws: int = DRAWS) -> None:
        if clusters < 1:
            raise ValueError(f"expected at least one cluster, got {clusters}")
        self.clusters, self.seed, self.draws = clusters, seed, draws
        self._kept: list[npt.NDArray[np.uint16]] | None = None

    def blocks(self) -> Iterator[Floats]:
        """Blocks (b, clusters) of all draws, in order."""
        if self._kept is None and self.draws * self.clusters <= KEPT:
            self._kept = list(self._drawn())
        for block in self._kept if self._kept is not None else self._drawn():
            yield block.astype(np.float64)

    def _drawn(self) -> Iterator[npt.NDArray[np.uint16]]:
        rng = np.random.default_rng([self.seed, self.clusters])
        each = np.full(self.clusters, 1 / self.clusters)
        for count in in_blocks(self.draws, self.clusters):
            yield rng.multinomial(self.clusters, each, size=count).astype(np.uint16)

    def means(self, sums: Floats, counts: Floats, statistic: Statistic = itself) -> Floats:
        """(draws, K) the statistic in every draw. `sums`, `counts`: (P, clusters, K) of values in each cluster. NaN in
        draws that have no value."""
        parts, _, columns = sums.shape
        out = np.empty((self.draws, columns))
        at = 0
        for block in self.blocks():
            with np.errstate(invalid="ignore", divide="ignore"):
                drawn = np.stack([(block @ sums[p]) / (block @ counts[p]) for p in range(parts)])
            out[at : at + len(block)] = statistic(drawn)
            at += len(block)
        return out


@lru_cache(maxsize=8)
def resamples(clusters: int, seed: int = 0, draws: int = DRAWS) -> Resamples:
    """The draws of so many clusters, made once."""
    return Resamples(clusters, seed, draws)


def in_blocks(count: int, width: int) -> Iterator[int]:
    """Sizes of the blocks that `count` rows of `width` numbers are handled in."""
    size = max(1, BLOCK // max(1, width))
    for start in range(0, count, size):
        yield min(size, count - start)


def totals(values: Floats, starts: npt.NDArray[np.intp]) -> tuple[Floats, Floats]:
    """Sums and counts (P, clusters, K) of the values (P, N, K) that are not NaN. `starts`: the first row of each
    cluster; rows of one cluster stand together."""
    there = np.isfinite(values)
    sums: Floats = np.add.reduceat(np.where(there, values, 0.0), starts, axis=1)
    counts: Floats = np.add.reduceat(there, starts, axis=1, dtype=np.float64)
    return sums, counts


def percentile_interval(draws: Floats, clusters: npt.ArrayLike, level: float = LEVEL) -> tuple[Floats, Floats, Floats]:
    """Low and high end of the expanded percentile interval, and standard error, (K,) each, of draws (B, K) of so many
    `clusters` (K,).

    Plain percentiles are too narrow for few clusters: they take the standard deviation of n for that of n - 1, and the
    normal distribution for Student's. The percentiles are moved outward by both (Hesterberg 2015, §4.2), and the
    standard error is widened by the first; for many clusters nothing changes. NaN for fewer than two clusters, and
    where fewer than half of the draws have a value.
    """
    counts = np.broadcast_to(np.asarray(clusters, np.int64), draws.shape[1:])
    found = np.full((3, draws.shape[1]), np.nan)
    there = np.isfinite(draws)
    whole = there.all(axis=0)
    for count in np.unique(counts[counts >= 2]):
        tail = _tail(int(count), level)
        wider = np.sqrt(count / (count - 1))
        of_count = counts == count
        full = of_count & whole
        found[:2, full] = np.quantile(draws[:, full], [tail, 1 - tail], axis=0)
        found[2, full] = wider * draws[:, full].std(axis=0, ddof=1)
        for k in np.flatnonzero(of_count & ~whole & (there.mean(axis=0) >= 0.5)):
            some = draws[there[:, k], k]
            found[:, k] = *np.quantile(some, [tail, 1 - tail]), wider * some.std(ddof=1)
    return found[0], found[1], found[2]


def _tail(clusters: int, level: float) -> float:
    """Share of the draws that is cut off at each end."""
    from scipy.stats import norm, t

    return float(norm.cdf(np.sqrt(clusters / (clusters - 1)) * t.ppf((1 - level) / 2, clusters - 1)))


def cluster_bootstrap(
    values: npt.ArrayLike, clusters: npt.ArrayLike, *, seed: int = 0, draws: int = DRAWS, level: float = LEVEL
) -> dict[str, Any]:
    """Mean of `values` (N,), its percentile interval and standard error, with `clusters` (N,) drawn with replacement.

    NaN values are left out. The interval is None with a `note` where one cluster has all values: nothing can be said
    of others then.
    """
    numbers = np.asarray(values, np.float64)
    labels = np.unique(np.asarray(clusters), return_inverse=True)[1].reshape(-1)
    order = np.argsort(labels, kind="stable")
    kept = order[np.isfinite(numbers[order])]
    if not len(kept):
        return {"mean": None, "low": None, "high": None, "se": None, "note": "no value"}
    starts = first_rows(labels[kept])
    sums, counts = totals(numbers[kept][None, :, None], starts)
    mean = float(sums.sum() / counts.sum())
    if len(starts) < 2:
        return {"mean": mean, "low": None, "high": None, "se": None, "note": "one identity only: no interval"}
    drawn = resamples(len(starts), seed, draws).means(sums, counts)
    low, high, se = percentile_interval(drawn, len(starts), level)
    return {"mean": mean, "low": float(low[0]), "high": float(high[0]), "se": float(se[0]), "note": ""}


def first_rows(clusters: npt.NDArray[Any]) -> npt.NDArray[np.intp]:
    """The first row of each cluster, in labels (N,) of which equal ones stand together."""
    return np.flatnonzero(np.r_[True, clusters[1:] != clusters[:-1]]) if len(clusters) else np.empty(0, np.intp)
