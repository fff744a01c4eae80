"""FGIS, fine-grained identity similarity: how alike the parts of the face are (ConsistentID, section 4.1).

How regions are cut, which the paper leaves open, is told in `idtool.evaluate.measures.face_regions`. Only regions that
image and reference both show are compared, so a number rests on one to five of them: `fgis_coverage` says on how many.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from idtool.engine.step import Env
from idtool.evaluate.measures.base import Measure
from idtool.evaluate.measures.face_regions import FaceRegions, FaceRegionsFullframe
from idtool.evaluate.metrics.base import Metric, SampleMetric, Unscored
from idtool.evaluate.metrics.networks import cosine
from idtool.evaluate.samples import Sample
from idtool.models.parts import REGIONS

Cosines = Mapping[str, float]


class OnRegions(SampleMetric):
    """A metric on the regions of the largest face and of the references' largest faces."""

    bounds: ClassVar[Any] = (-1.0, 1.0)
    unit = "cosine"
    axis: ClassVar[Any] = "identity"
    paper = "ConsistentID section 4.1, which publishes no code: alignment, cuts and visibility are ours"

    def __init__(self, measure: type[Measure] = FaceRegions, variant: str = "") -> None:
        self.column = measure.writes.names[0]
        self.image = self.reference = ("people", measure.name)
        self.network = measure.name
        self.variant = variant

    @classmethod
    def instances(cls, env: Env) -> Sequence[Metric]:
        if why := FaceRegions.why_not(env):
            raise Unscored(why)
        return [cls()]

    def compared(self, sample: Sample) -> list[Cosines]:
        """For each reference, region -> cosine, of the regions that image and reference both show. Unscored without a
        face, without a reference, or when the references are of several people: whom the largest face is, it cannot
        tell."""
        if not sample.references:
            raise Unscored("no reference: nobody to be alike to")
        people = set(sample.row["people"] or [None])
        if len(sample.references) > 1 and (len(people) > 1 or None in people):
            raise Unscored("several people: FGIS looks at the largest face only")
        image = self._regions(sample.image, "the image")
        others = [self._regions(one, f"reference {k}") for k, one in enumerate(sample.references, start=1)]
        return [
            {
                region: cosine(a, b)
                for region, a, b in zip(REGIONS, image, other, strict=True)
                if a is not None and b is not None
            }
            for other in others
        ]

    def _regions(self, columns: Mapping[str, Any], what: str) -> Sequence[Sequence[float] | None]:
        found: Sequence[Sequence[float] | None] | None = columns.get(self.column)
        if found is None:
            raise Unscored(f"no face in {what}")
        return found


class Fgis(OnRegions):
    """Mean over the regions, then over the references. `@fullframe`: regions in their place, as ConsistentID's encoder
    sees them, where place and size weigh too."""

    family = "fgis"
    summary = "cosine of features of face, eyes, ears, nose and mouth, mean over those that both show"

    @classmethod
    def instances(cls, env: Env) -> Sequence[Metric]:
        return [*super().instances(env), cls(FaceRegionsFullframe, "@fullframe")]

    def __call__(self, sample: Sample) -> float:
        found = [np.mean(list(cosines.values())) for cosines in self.compared(sample) if cosines]
        if not found:
            raise Unscored("no region is seen in both image and reference")
        return float(np.mean(found))


class FgisCoverage(OnRegions):
    """What `fgis` of the same images rests on."""

    family = "fgis_coverage"
    summary = "share of the five regions that image and reference both show"
    unit = "1"
    bounds: ClassVar[Any] = (0.0, 1.0)
    better: ClassVar[Any] = "neither"
    axis: ClassVar[Any] = "other"

    def __call__(self, sample: Sample) -> float:
        return float(np.mean([len(cosines) / len(REGIONS) for cosines in self.compared(sample)]))


class FgisRegion(OnRegions):
    """`fgis` of one region, over the images and references that both show it."""

    family = "fgis_region"
    summary = "cosine of features of one region of the face"

    def __init__(self, region: str = next(iter(REGIONS))) -> None:
        super().__init__(variant=f"@{region}")
        self.region = region

    @classmethod
    def instances(cls, env: Env) -> Sequence[Metric]:
        return [cls(region) for _ in super().instances(env) for region in REGIONS]

    def __call__(self, sample: Sample) -> float:
        found = [cosines[self.region] for cosines in self.compared(sample) if self.region in cosines]
        if not found:
            raise Unscored(f"the region {self.region} is not seen in both image and reference")
        return float(np.mean(found))
