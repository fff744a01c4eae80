"""KID and CMMD: how far the features of a set of images are from those of real ones, by the maximum mean discrepancy
(Gretton et al., JMLR 2012), which takes them for no particular distribution and so can do with fewer images than FID.

    MMD^2 = mean k(x, x') + mean k(y, y') - 2 mean k(x, y)

The unbiased estimate leaves the pairs of an image with itself out of the first two means, and may fall below 0.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from idtool.engine.step import Env
from idtool.evaluate.measures.clip import Clip
from idtool.evaluate.measures.inception import Inception
from idtool.evaluate.metrics.base import Metric, SetMetric, SetScore
from idtool.evaluate.metrics.frechet import told, way
from idtool.evaluate.samples import Sample

Rows = npt.NDArray[np.float32]
Floats = npt.NDArray[np.float64]
Kernel = Callable[[Rows, Rows], Floats]
"""Rows (n, D) and (m, D) to the kernel of each with each (n, m), less any constant, which drops out of the MMD."""

KEPT = 30_000
"""Images of each side that are held, drawn evenly from all: of 2048 features 245 MB."""
BLOCK = 1024
"""Rows that the kernel is computed of at a time."""
SUBSETS, SUBSET = 100, 1000
"""KID's: how many, and of how many images each."""
SIGMA, SCALE = 10.0, 1000.0
"""CMMD's: width of its Gaussian, and what the number is multiplied by."""


class Reservoir:
    """Up to `most` of the rows that come by, each with the same chance (Vitter's algorithm R), by a fixed seed."""

    def __init__(self, most: int) -> None:
        self.seen = 0
        self._most = most
        self._rng = np.random.default_rng(0)
        self._held = np.empty((0, 0), np.float32)

    def add(self, row: npt.ArrayLike) -> None:
        """Take a row (D,) into account."""
        place = self.seen if self.seen < self._most else int(self._rng.integers(self.seen + 1))
        self.seen += 1
        if place >= self._most:
            return
        if place >= len(self._held):
            grown = np.empty((min(self._most, 2 * place + BLOCK), np.size(row)), np.float32)
            if place:
                grown[:place] = self._held
            self._held = grown
        self._held[place] = row

    def __len__(self) -> int:
        return min(self.seen, self._most)

    def rows(self) -> Rows:
        """(n, D) float32."""
        return self._held[: len(self)]


@dataclass(frozen=True)
class Discrepancy:
    """The two estimates of a squared MMD."""

    biased: float
    unbiased: float


def mmd(x: Rows, y: Rows, kernel: Kernel) -> Discrepancy:
    """Squared MMD of rows (n, D) and (m, D), at least two of each, in the memory of one block."""
    n, m = len(x), len(y)
    (apart_x, itself_x), (apart_y, itself_y) = _within(x, kernel), _within(y, kernel)
    between = 2 * sum(float(kernel(a, b).sum()) for a in _blocks(x) for b in _blocks(y)) / (n * m)
    return Discrepancy(
        biased=(apart_x + itself_x) / n**2 + (apart_y + itself_y) / m**2 - between,
        unbiased=apart_x / (n * (n - 1)) + apart_y / (m * (m - 1)) - between,
    )


def _within(rows: Rows, kernel: Kernel) -> tuple[float, float]:
    """Sum of the kernel over pairs of different rows, and over rows with themselves."""
    apart = itself = 0.0
    blocks = _blocks(rows)
    for k, block in enumerate(blocks):
        near = kernel(block, block)
        alone = float(np.trace(near))
        itself += alone
        # A block on the diagonal holds each pair twice; the others stand for their mirror images too.
        apart += float(near.sum()) - alone + 2 * sum(float(kernel(block, other).sum()) for other in blocks[k + 1 :])
    return apart, itself


def _blocks(rows: Rows) -> list[Rows]:
    return [rows[at : at + BLOCK] for at in range(0, len(rows), BLOCK)]


def polynomial(x: Rows, y: Rows) -> Floats:
    """KID's kernel, (x y / D + 1)^3 (Bińkowski et al., ICLR 2018)."""
    base: Floats = (x @ y.T).astype(np.float64) / x.shape[1] + 1
    # Two products are several times as fast as the power.
    return base * base * base


def gaussian(x: Rows, y: Rows) -> Floats:
    """CMMD's kernel less 1, exp(-|x - y|^2 / (2 * 10^2)) - 1 (Jayasumana et al., CVPR 2024).

    Vectors of length 1 are at most 2 apart, so that the kernel itself is .98 to 1 and its digits would cancel.
    """
    a, b = x.astype(np.float64), y.astype(np.float64)
    squares = (a * a).sum(1)[:, None] + (b * b).sum(1) - 2 * (a @ b.T)
    less: Floats = np.expm1(np.maximum(squares, 0) / (-2 * SIGMA**2))
    return less


def over_subsets(x: Rows, y: Rows, kernel: Kernel, size: int, seed: int = 0) -> Floats:
    """(`SUBSETS`,) unbiased squared MMDs of `size` rows of each side, drawn anew each time, without replacement."""
    rng = np.random.default_rng(seed)

    def drawn(rows: Rows) -> Rows:
        return rows[rng.choice(len(rows), size, replace=False)]

    return np.array([mmd(drawn(x), drawn(y), kernel).unbiased for _ in range(SUBSETS)])


class KernelDistance(SetMetric):
    """What the two distances share: at most `kept` images of each side, and two at least."""

    better: ClassVar[Any] = "lower"
    axis: ClassVar[Any] = "quality"
    column: ClassVar[str]

    def __init__(self, variant: str = "", kept: int = KEPT) -> None:
        self.variant, self._kept = variant, kept
        self._made, self._real = Reservoir(kept), Reservoir(kept)

    def fresh(self) -> KernelDistance:
        return type(self)(self.variant, self._kept)

    def add(self, sample: Sample) -> None:
        self._made.add(sample.image[self.column])

    def add_real(self, columns: Mapping[str, Any]) -> None:
        self._real.add(columns[self.column])

    def finish(self, *, force: bool = False) -> SetScore:
        n, real = len(self._made), len(self._real)
        if min(n, real) < 2:
            why = f"{told(n, real)}: {self.family.upper()} needs 2 on each side"
            return SetScore(None, n=n, n_real=real, note=why)
        value, std, note = self.distance(self._made.rows(), self._real.rows())
        if max(self._made.seen, self._real.seen) > self._kept:
            note += f"; drawn from {told(self._made.seen, self._real.seen)}"
        return SetScore(value, std, n, real, note)

    @abstractmethod
    def distance(self, made: Rows, real: Rows) -> tuple[float, float | None, str]:
        """The number, its spread over subsets, and how it came about; of at least two rows on each side."""


class Kid(KernelDistance):
    """Mean over 100 subsets of 1,000 images. Where there are no more than 1,000, the estimate is of all images, and
    the spread that of subsets of half of them."""

    family = "kid"
    summary = "kernel inception distance between the images and the reference pictures"
    paper = "Bińkowski et al., ICLR 2018; subsets as torch-fidelity and clean-fid draw them"
    unit = "squared MMD"
    image = reference = (Inception.name,)
    network = Inception.name
    column = Inception.writes.names[0]

    @classmethod
    def instances(cls, env: Env) -> Sequence[Metric]:
        return [cls(way(env))]

    def settings(self) -> dict[str, Any]:
        return {"kernel": "(x y / D + 1)^3", "subsets": SUBSETS, "subset": SUBSET, "kept": self._kept}

    def distance(self, made: Rows, real: Rows) -> tuple[float, float | None, str]:
        few = min(len(made), len(real))
        if few > SUBSET:
            found = over_subsets(made, real, polynomial, SUBSET)
            return float(found.mean()), float(found.std()), f"mean of {SUBSETS} subsets of {SUBSET:,} images"
        value = mmd(made, real, polynomial).unbiased
        if few < 4:
            return value, None, "unbiased, of all images"
        found = over_subsets(made, real, polynomial, few // 2)
        return value, float(found.std()), f"unbiased, of all images; spread of {SUBSETS} subsets of {few // 2}"


class Cmmd(KernelDistance):
    """By the network of role `clip`; the paper's is ViT-L/14 at 336 px, on pictures squeezed into a square."""

    family = "cmmd"
    summary = "CLIP maximum mean discrepancy between the images and the reference pictures"
    paper = "Jayasumana et al., CVPR 2024: Gaussian kernel of width 10, biased estimate, times 1000"
    unit = "squared MMD x 1000"
    bounds: ClassVar[Any] = (0.0, None)
    image = reference = (Clip.name,)
    network = Clip.name
    column = Clip.writes.names[0]

    def settings(self) -> dict[str, Any]:
        return {"kernel": f"exp(-|x - y|^2 / (2 * {SIGMA:g}^2))", "scale": SCALE, "kept": self._kept}

    def distance(self, made: Rows, real: Rows) -> tuple[float, float | None, str]:
        found = mmd(made, real, gaussian)
        note = f"{SCALE * found.unbiased:.3f} without the bias of small sets"
        return max(0.0, SCALE * found.biased), None, note
