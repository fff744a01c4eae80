"""CHARIS (Instruct Identity, Algorithm 2): its axes, and their weighted geometric mean in two modes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from idtool.engine.step import Env
from idtool.evaluate.charis import aggregate
from idtool.evaluate.charis.aggregate import Derived, geometric_mean
from idtool.evaluate.metrics.base import Metric, SampleMetric, Unscored
from idtool.evaluate.metrics.judged import Judged, judged
from idtool.evaluate.samples import Sample

PAPER = "Instruct Identity, Algorithm 2"


class CharisId(Judged):
    family = "charis_id"
    summary = "identity axis of CHARIS: the subject's attributes, one by one, by a judge"
    paper = f"{PAPER}, line 3; the question is ours"
    measure = "judge_identity"
    axis: ClassVar[Any] = "identity"


class CharisPrompt(SampleMetric):
    """(VLM-Prompt + CLIP) / 2. CLIP is the raw cosine, about .3 at best, so the axis ends near .67: all numbers of the
    paper's tables fit that, and no rescaled cosine."""

    family = "charis_prompt"
    summary = "prompt axis of CHARIS: the prompt's requirements by a judge, and the raw CLIP cosine, half each"
    paper = f"{PAPER}, line 4; the question is ours, the scale of CLIP is what fits the tables"
    bounds: ClassVar[Any] = (0.0, 1.0)
    axis: ClassVar[Any] = "prompt"

    def __init__(self) -> None:
        self.image = ("judge_prompt", "clip")
        self.prompt = ("prompt_clip",)
        self.network = "clip"

    def name(self, labels: Mapping[str, str]) -> str:
        return f"{self.family}/{labels.get('judge_prompt', 'judge')}+{labels.get('clip', 'clip')}{self.variant}"

    def scaled(self, cosine: float) -> float:
        """What enters for CLIP."""
        return cosine

    def __call__(self, sample: Sample) -> float:
        score = judged(sample, "judge_prompt")
        image, text = sample.image.get("clip_embedding"), sample.prompt.get("text_embedding")
        if image is None or text is None:
            raise Unscored("no CLIP embedding")
        cosine = float(np.dot(np.asarray(image, np.float64), np.asarray(text, np.float64)))
        # A geometric mean takes nothing below 0; a cosine below 0 says no more than one of 0.
        return max(0.0, (score + self.scaled(cosine)) / 2)


class CharisPromptRescaled(CharisPrompt):
    """Ours: the usual range of cosines, .15 to .40, becomes [0, 1], so that the axis can reach 1."""

    family = "charis_prompt_rescaled"
    summary = "prompt axis of CHARIS with the CLIP cosine rescaled from .15 to .40; ours"
    paper = f"ours; {PAPER}, line 4, has the raw cosine"
    LOW, HIGH = 0.15, 0.40

    def settings(self) -> dict[str, Any]:
        return {"low": self.LOW, "high": self.HIGH}

    def scaled(self, cosine: float) -> float:
        return min(1.0, max(0.0, (cosine - self.LOW) / (self.HIGH - self.LOW)))


class CharisColor(SampleMetric):
    family = "charis_color"
    summary = "colour axis of CHARIS: colours of the subject's parts against the reference's (ColorScore-v1)"
    paper = "Instruct Identity, Algorithm 1, whose line 7 is blank: our completion"
    bounds: ClassVar[Any] = (0.0, 1.0)
    axis: ClassVar[Any] = "identity"
    column: ClassVar[str] = "color_score"

    def __init__(self) -> None:
        self.image = ("color_score",)
        self.network = "color_score"

    def __call__(self, sample: Sample) -> float:
        value = sample.image.get(self.column)
        if value is None:
            raise Unscored(f"color_score: {sample.image.get('color_why') or 'no score'}")
        return float(value)


class ColorScore(CharisColor):
    """ColorScore-v1 with its options: as `charis_color`; by medians; after a grey-world white balance, for scenes in
    another light; and marked down by the share of the subject that was not compared."""

    family = "colorscore"
    summary = "ColorScore-v1 of the subject's parts, with its variants"
    VARIANTS: ClassVar[Mapping[str, str]] = {
        "": "color_score",
        "@median": "color_score_median",
        "@grey-world": "color_score_grey",
        "@covered": "color_score",
    }

    def __init__(self, variant: str = "") -> None:
        super().__init__()
        self.variant = variant

    @classmethod
    def instances(cls, env: Env) -> Sequence[Metric]:
        return [cls(variant) for variant in cls.VARIANTS]

    def settings(self) -> dict[str, Any]:
        return {"column": self.VARIANTS[self.variant], "times_coverage": self.variant == "@covered"}

    def __call__(self, sample: Sample) -> float:
        value = sample.image.get(self.VARIANTS[self.variant])
        if value is None:
            return super().__call__(sample)
        return float(value) * (float(sample.image["color_coverage"]) if self.variant == "@covered" else 1.0)


class CharisQuality(SampleMetric):
    family = "charis_quality"
    summary = "quality axis of CHARIS: CLIP-IQA of the image"
    paper = f"{PAPER}, line 6"
    bounds: ClassVar[Any] = (0.0, 1.0)
    axis: ClassVar[Any] = "quality"

    def __init__(self) -> None:
        self.image = ("iqa",)
        self.network = "iqa"

    def __call__(self, sample: Sample) -> float:
        if sample.image.get("iqa") is None:
            raise Unscored("no quality")
        return float(sample.image["iqa"])


class CharisDiversity(Judged):
    family = "charis_diversity"
    summary = "diversity axis of CHARIS: how far the wanted changes of pose, scene and framing are made, by a judge"
    paper = f"{PAPER}, line 7; the questions are ours"
    measure = "judge_diversity"
    axis: ClassVar[Any] = "editability"


AXES: Mapping[str, type[SampleMetric]] = {
    "id": CharisId,
    "prompt": CharisPrompt,
    "color": CharisColor,
    "quality": CharisQuality,
    "diversity": CharisDiversity,
}


class Charis(SampleMetric):
    """Weighted geometric mean of the axes of one image: 0 where one of them is 0. An axis that has no number is left
    out with its weight (`charis_axes` says how many are left). The number of a set is not the mean of these, but
    the geometric mean of the axes' means (`DERIVED`)."""

    family = "charis"
    summary = "CHARIS of one image, benchmark mode: equal weights of identity, prompt, colour, quality"
    paper = f"{PAPER}, lines 8 to 15"
    bounds: ClassVar[Any] = (0.0, 1.0)
    weights: ClassVar[Mapping[str, float]] = aggregate.BENCH
    axes: ClassVar[Mapping[str, type[SampleMetric]]] = AXES

    def __init__(self) -> None:
        self.parts = {axis: self.axes[axis]() for axis in self.weights}
        self.image = tuple(dict.fromkeys(name for part in self.parts.values() for name in part.image))
        self.prompt = tuple(dict.fromkeys(name for part in self.parts.values() for name in part.prompt))
        self.network = "judge_identity"

    def settings(self) -> dict[str, Any]:
        versions = {axis: [part.family, part.version, part.settings()] for axis, part in self.parts.items()}
        return {"weights": dict(self.weights), "axes": versions}

    def values(self, sample: Sample) -> dict[str, float | None]:
        """Axis -> its number, None where there is none."""
        found: dict[str, float | None] = {}
        for axis, part in self.parts.items():
            try:
                found[axis] = part(sample)
            except Unscored:
                found[axis] = None
        return found

    def __call__(self, sample: Sample) -> float:
        values = [np.nan if one is None else one for one in self.values(sample).values()]
        if np.isnan(values).all():
            raise Unscored("none of the axes has a number")
        return float(geometric_mean(values, list(self.weights.values())))


class CharisRescaled(Charis):
    family = "charis_rescaled"
    summary = "CHARIS of one image, benchmark mode, with the CLIP cosine rescaled; ours"
    axes: ClassVar[Mapping[str, type[SampleMetric]]] = {**AXES, "prompt": CharisPromptRescaled}


class CharisFilter(Charis):
    family = "charis_filter"
    summary = "CHARIS of one image, filter mode on five axes with our weights .3 .2 .2 .1 .2"
    paper = f"{PAPER}, line 12, with the prompt axis that the paper's text filters by; weights are ours"
    weights = aggregate.FILTER


class CharisAlg2(Charis):
    family = "charis_alg2"
    summary = "CHARIS of one image, filter mode on the four axes of Algorithm 2, without the prompt"
    paper = f"{PAPER}, line 12; weights are ours"
    weights = aggregate.ALG2


class CharisAxes(Charis):
    family = "charis_axes"
    summary = "how many of the four axes `charis` of an image is made of"
    unit = "axes"
    bounds: ClassVar[Any] = (0.0, 4.0)

    def __call__(self, sample: Sample) -> float:
        return float(sum(value is not None for value in self.values(sample).values()))


DERIVED: Mapping[str, Derived] = {
    cls.family: Derived(tuple(cls.axes[axis].family for axis in cls.weights), tuple(cls.weights.values()))
    for cls in (Charis, CharisRescaled, CharisFilter, CharisAlg2)
}
"""Family -> how its number for a whole set follows from the means of the axes."""
