"""How good the picture is by itself: networks of taste and of quality, blur, and nudity."""

from __future__ import annotations

from typing import Any, ClassVar

from idtool.evaluate.measures.quality import Quality as QualityMeasure
from idtool.evaluate.measures.ranked import AESTHETICS, IQAS
from idtool.evaluate.metrics.base import SampleMetric, Unscored
from idtool.evaluate.metrics.networks import Score, known
from idtool.evaluate.samples import Sample


class Aesthetic(Score):
    """Each predictor has a scale of its own, about 1 to 10."""

    family = "aesthetic"
    summary = "how pleasing the image is, as raters would say"
    paper = "DMID section 4.1.2 (aesthetic-predictor-v2-5); IdGlow (LAION)"
    unit = "points"
    axis: ClassVar[Any] = "quality"
    measures = AESTHETICS


class Iqa(Score):
    """CLIP-IQA: the probability of "Good photo." against "Bad photo."."""

    family = "iqa"
    summary = "technical quality of the whole image, without a reference"
    paper = "Wang et al., AAAI 2023; CHARIS. Theirs runs ResNet-50 on whole images, ours a CLIP on its usual crop"
    bounds: ClassVar[Any] = (0.0, 1.0)
    axis: ClassVar[Any] = "quality"
    measures = IQAS


class Quality(Score):
    """Of the largest face."""

    family = "quality"
    summary = "how usable the picture of the largest face is"
    bounds: ClassVar[Any] = (0.0, 1.0)
    axis: ClassVar[Any] = "quality"
    measures = (QualityMeasure,)

    def __init__(self, rank: int = 0) -> None:
        super().__init__(rank)
        self.image = ("faces", *self.image)

    def __call__(self, sample: Sample) -> float:
        if sample.image.get(self.column) is None:
            raise Unscored("no face in the image")
        return super().__call__(sample)


class Sharpness(SampleMetric):
    """Low for blur. Neither way is better: a shallow depth of field is blur, and noise is none."""

    family = "sharpness"
    summary = "variance of the Laplacian of Gaussian of luma, short side 512 px"
    unit = "luma^2"
    bounds: ClassVar[Any] = (0.0, None)
    better: ClassVar[Any] = "neither"
    axis: ClassVar[Any] = "quality"
    image = ("pixels",)

    def __call__(self, sample: Sample) -> float:
        return float(known(sample.image, "sharpness", "the image"))


class Nsfw(SampleMetric):
    """As the gate of the generation run judged; nothing is looked at again."""

    family = "nsfw"
    summary = "how sure the run's network is that the image is explicit"
    bounds: ClassVar[Any] = (0.0, 1.0)
    better: ClassVar[Any] = "lower"

    def __call__(self, sample: Sample) -> float:
        value = sample.row["nsfw"]
        if value is None:
            raise Unscored("the run did not judge nudity")
        return float(value)
