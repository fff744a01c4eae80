"""Identity diversity: how different a person's images are from each other, which no single image shows.

    1 - mean cosine of all pairs of an identity's n images = 1 - (|S|^2 - n) / (n (n - 1)),   S the sum of unit vectors

so one vector per identity is kept, however many images there are. A method that repeats one picture whatever the
prompt has 0. Prompts and seeds are mixed: compare methods on the same suite.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from idtool.engine.step import Env
from idtool.evaluate.measures.base import Measure
from idtool.evaluate.measures.copy import CopyEmbedding
from idtool.evaluate.measures.features import Features
from idtool.evaluate.metrics.base import IdentityMetric, Metric, Unscored
from idtool.evaluate.samples import Sample

LOOKS: tuple[type[Measure], ...] = (CopyEmbedding, Features)
"""Measures of whole images: composition and place by a copy descriptor, content by self-supervised features."""


class IdentityDiversity(IdentityMetric):
    """On one network that looks at whole images."""

    family = "identity_diversity"
    summary = "1 - mean cosine between the images of one identity"
    paper = "ours"
    unit = "1 - cosine"
    bounds: ClassVar[Any] = (0.0, 2.0)
    axis: ClassVar[Any] = "editability"

    def __init__(self, measure: type[Measure]) -> None:
        self.measure = measure
        self.column = measure.writes.names[0]
        self.image = (measure.name,)
        self.network = measure.name
        self.sums: dict[str, npt.NDArray[np.float64]] = {}
        self.counts: dict[str, int] = {}

    @classmethod
    def instances(cls, env: Env) -> Sequence[Metric]:
        found = [cls(measure) for measure in LOOKS if measure.bound(env)]
        if not found:
            raise Unscored(f"needs role copy or features; profile {env.profile} binds neither")
        return found

    def fresh(self) -> IdentityDiversity:
        return IdentityDiversity(self.measure)

    def add(self, sample: Sample) -> None:
        vector = np.asarray(sample.image[self.column], np.float64)
        identity = str(sample.row["identity"])
        # A vector without length becomes nan, and the identity's number with it: told, not left out.
        with np.errstate(invalid="ignore"):
            unit = vector / np.linalg.norm(vector)
        self.sums[identity] = self.sums.get(identity, np.zeros_like(unit)) + unit
        self.counts[identity] = self.counts.get(identity, 0) + 1

    def finish(self) -> Iterable[tuple[str, float | Unscored]]:
        for identity, total in self.sums.items():
            n = self.counts[identity]
            if n < 2:
                yield identity, Unscored("one image: nothing to compare it with")
                continue
            mean = (float(total @ total) - n) / (n * (n - 1))
            yield identity, max(0.0, 1 - mean) if np.isfinite(mean) else Unscored("an image has features of length 0")
