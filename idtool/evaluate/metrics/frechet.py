"""FID, the Fréchet inception distance: how far the features of a set of images are from those of real ones, both taken
for Gaussians."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from idtool.engine.step import Env
from idtool.evaluate.measures.inception import Inception
from idtool.evaluate.metrics.base import Metric, SetMetric, SetScore
from idtool.evaluate.samples import Sample

Floats = npt.NDArray[np.float64]

LEAST = 2048
"""Images that each side needs. With fewer, the covariance of 2048 features has no full rank, and the distance speaks of
the number of images more than of the images."""
ENOUGH = 10_000
"""Images that each side needs for the bias of small sets, about 1/n (Chong and Forsyth, CVPR 2020), to be small."""
BLOCK = 256
"""Rows that are held before they are merged."""


class Moments:
    """Mean and covariance of rows that come one by one, in float64 and in memory that does not grow with their number.

    Blocks are merged by the pairwise update of Chan, Golub and LeVeque ("Algorithms for Computing the Sample
    Variance", 1983), which loses no digits to large means.
    """

    def __init__(self) -> None:
        self._count = 0
        self._mean: Floats | None = None
        self._scatter: Floats | None = None
        self._held: list[npt.ArrayLike] = []

    @property
    def n(self) -> int:
        """Rows seen."""
        return self._count + len(self._held)

    def add(self, row: npt.ArrayLike) -> None:
        """Take a row (D,) into account."""
        self._held.append(row)
        if len(self._held) >= BLOCK:
            self._merge()

    def mean(self) -> Floats:
        """(D,). ValueError when there is no row."""
        self._merge()
        if self._mean is None:
            raise ValueError("there are no rows to take the mean of")
        return self._mean

    def covariance(self) -> Floats:
        """(D, D), divided by n - 1. ValueError when there are fewer than two rows."""
        self._merge()
        if self._scatter is None or self._count < 2:
            raise ValueError(f"a covariance needs at least 2 rows, and there are {self._count}")
        return self._scatter / (self._count - 1)

    def _merge(self) -> None:
        if not self._held:
            return
        rows = np.asarray(self._held, np.float64)
        self._held = []
        count, mean = len(rows), rows.mean(0)
        rows -= mean
        scatter = rows.T @ rows
        if self._mean is None or self._scatter is None:
            self._count, self._mean, self._scatter = count, mean, scatter
            return
        total = self._count + count
        gap = mean - self._mean
        self._scatter += scatter + np.outer(gap, gap) * (self._count * count / total)
        self._mean = self._mean + gap * (count / total)
        self._count = total


def frechet_distance(mean: Floats, covariance: Floats, other_mean: Floats, other_covariance: Floats) -> float:
    """Squared Fréchet distance of two Gaussians: |m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2)); at least 0.

    Dowson and Landau, Journal of Multivariate Analysis 1982. The root of C1 C2 has the trace of the root of A^T C2 A
    for any A A^T = C1, which is symmetric: so its eigenvalues are real, and singular covariances need no offset.
    """
    values, vectors = np.linalg.eigh(covariance)
    # What rounding leaves where there is nothing. Its roots would add up.
    kept = values > _noise(values)
    factor = vectors[:, kept] * np.sqrt(values[kept])
    inner = np.linalg.eigvalsh(factor.T @ other_covariance @ factor)
    root = np.sqrt(inner[inner > _noise(inner)]).sum()
    gap = mean - other_mean
    return max(0.0, float(gap @ gap + np.trace(covariance) + np.trace(other_covariance) - 2 * root))


def _noise(values: Floats) -> float:
    """The largest eigenvalue of a symmetric matrix that may be a rounding error."""
    return float(np.finfo(np.float64).eps * len(values) * max(values.max(initial=0.0), 0.0))


def way(env: Env) -> str:
    """How the profile's Inception network brings pictures to its size, as the end of a metric's name: distances of two
    ways cannot be compared."""
    binding = Inception.bound(env)
    return "@" + str(binding.options.get("preproc", "clean")) if binding else ""


class Fid(SetMetric):
    """FID by the network of role `inception`. Null under 2,048 images on either side, unless it is forced."""

    family = "fid"
    summary = "Fréchet inception distance between the images and the reference pictures"
    paper = (
        "Heusel et al., NeurIPS 2017; clean resizing of Parmar et al., CVPR 2022; ConsistentID's FID is of 45 images"
    )
    unit = "squared feature distance"
    bounds: ClassVar[Any] = (0.0, None)
    better: ClassVar[Any] = "lower"
    axis: ClassVar[Any] = "quality"
    image = reference = (Inception.name,)
    network = Inception.name

    def __init__(self, variant: str = "") -> None:
        self.variant = variant
        self._column = Inception.writes.names[0]
        self._made, self._real = Moments(), Moments()

    @classmethod
    def instances(cls, env: Env) -> Sequence[Metric]:
        return [cls(way(env))]

    def fresh(self) -> Fid:
        return type(self)(self.variant)

    def settings(self) -> dict[str, Any]:
        return {"least": LEAST, "covariance": "n - 1"}

    def add(self, sample: Sample) -> None:
        self._made.add(sample.image[self._column])

    def add_real(self, columns: Mapping[str, Any]) -> None:
        self._real.add(columns[self._column])

    def finish(self, *, force: bool = False) -> SetScore:
        n, real = self._made.n, self._real.n
        few = min(n, real) < LEAST
        if min(n, real) < 2 or (few and not force):
            # Not even force helps where a single image has no covariance.
            least = f"{LEAST:,} (or --force)" if min(n, real) >= 2 else "2"
            return SetScore(None, n=n, n_real=real, note=f"{told(n, real)}: FID needs {least} on each side")
        value = frechet_distance(self._made.mean(), self._made.covariance(), self._real.mean(), self._real.covariance())
        note = f"fewer than {ENOUGH:,} images: comparable only with FIDs of as many" if min(n, real) < ENOUGH else ""
        return SetScore(value, n=n, n_real=real, note=note)


def told(n: int, real: int) -> str:
    """How many images there are, in words."""
    return f"{n:,} generated and {real:,} real image{'s' if real != 1 else ''}"
