"""Metrics that stand once for each network of a role: a number means something only next to others of one network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from idtool.engine.step import Env
from idtool.evaluate.measures.base import Measure
from idtool.evaluate.metrics.base import Metric, SampleMetric, Unscored
from idtool.evaluate.samples import Sample


class OnNetwork(SampleMetric):
    """A metric on one network of a role, of those that the profile binds."""

    measures: ClassVar[tuple[type[Measure], ...]]
    """The same measure by the first, second and third network."""

    def __init__(self, rank: int = 0) -> None:
        measure = self.measures[rank]
        self.image = (measure.name,)
        self.network = measure.name
        self.column = measure.writes.names[0]

    @classmethod
    def instances(cls, env: Env) -> Sequence[Metric]:
        found = [cls(rank) for rank, measure in enumerate(cls.measures) if measure.bound(env)]
        if not found:
            raise Unscored(cls.measures[0].why_not(env) or "")
        return found


class Score(OnNetwork):
    """The number that the measure itself gives."""

    def __call__(self, sample: Sample) -> float:
        return float(known(sample.image, self.column, "the image"))


class LikeReferences(OnNetwork):
    """Cosine of the image's vector with that of each reference, averaged over the references."""

    def __init__(self, rank: int = 0) -> None:
        super().__init__(rank)
        self.reference = self.image

    def __call__(self, sample: Sample) -> float:
        if not sample.references:
            raise Unscored("no reference: nothing to be alike to")
        image = known(sample.image, self.column, "the image")
        others = [
            known(reference, self.column, f"reference {k}") for k, reference in enumerate(sample.references, start=1)
        ]
        return float(np.mean([cosine(image, other) for other in others]))


def known(columns: Mapping[str, Any], column: str, what: str) -> Any:
    """The value of a column; Unscored where there is none."""
    value = columns.get(column)
    if value is None:
        raise Unscored(f"{what} has no {column}")
    return value


def cosine(a: npt.ArrayLike, b: npt.ArrayLike) -> float:
    """Cosine [-1, 1] of two vectors (D,) of any length; Unscored when one is all zeros."""
    one, other = np.asarray(a, np.float64), np.asarray(b, np.float64)
    lengths = float(np.linalg.norm(one) * np.linalg.norm(other))
    if lengths == 0:
        raise Unscored("a vector of length 0 has no direction")
    return float(np.clip(one @ other / lengths, -1.0, 1.0))
