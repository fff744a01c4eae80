"""Scores that a judge gave, and what follows from them: DreamBench++'s concept preservation and prompt following, plain
and debiased, and how far the votes of a judge agree."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from idtool.engine.step import Env
from idtool.evaluate.charis.aggregate import Derived
from idtool.evaluate.charis.agreement import agreement
from idtool.evaluate.metrics.base import Metric, SampleMetric, SetMetric, SetScore, Unscored
from idtool.evaluate.samples import Sample

WORDS = (
    "DreamBench++ (Peng et al., ICLR 2025) over 4, as Instruct Identity's Table 1; the questions are in our own words"
)
DEBIASED = (
    "debiased (ours): Instruct Identity's Table 1 follows DSD (Cai et al., CVPR 2025), whose wording is not public"
)


def judged(sample: Sample, measure: str) -> float:
    """The score [0, 1] of a judgement. Unscored with the judge's reason."""
    score = sample.image.get(f"{measure}_score")
    if score is None:
        raise Unscored(f"{measure}: {sample.image.get(f'{measure}_why') or 'no score'}")
    return float(score)


class Judged(SampleMetric):
    """The score of one judgement."""

    measure: ClassVar[str]
    bounds: ClassVar[Any] = (0.0, 1.0)

    def __init__(self) -> None:
        self.image = (self.measure,)
        self.network = self.measure

    def __call__(self, sample: Sample) -> float:
        return judged(sample, self.measure)


class Concept(Judged):
    family = "dreambench_cp"
    summary = "concept preservation: how well a judge finds the subject preserved; copies are welcome"
    paper = WORDS
    measure = "judge_concept"
    axis: ClassVar[Any] = "identity"


class Following(Judged):
    family = "dreambench_pf"
    summary = "prompt following: how well a judge finds the prompt followed"
    paper = WORDS
    measure = "judge_following"
    axis: ClassVar[Any] = "prompt"


class ConceptDebiased(Judged):
    family = "dreambench_cp_debiased"
    summary = "concept preservation with copied pose, background and crop marked down; debiased (ours)"
    paper = DEBIASED
    measure = "judge_concept_debiased"
    axis: ClassVar[Any] = "identity"


class FollowingDebiased(Judged):
    family = "dreambench_pf_debiased"
    summary = "prompt following where only what goes beyond the reference counts; debiased (ours)"
    paper = DEBIASED
    measure = "judge_following_debiased"
    axis: ClassVar[Any] = "prompt"


class Both(SampleMetric):
    """Concept preservation times prompt following. The number of a set is the product of the means (`DERIVED`), as in
    every column of Instruct Identity's tables; the mean of this one is another number."""

    family = "dreambench_cppf"
    summary = "concept preservation times prompt following"
    paper = WORDS
    bounds: ClassVar[Any] = (0.0, 1.0)
    measures: ClassVar[tuple[str, str]] = (Concept.measure, Following.measure)

    def __init__(self) -> None:
        self.image = self.measures
        self.network = self.measures[0]

    def __call__(self, sample: Sample) -> float:
        return float(np.prod([judged(sample, measure) for measure in self.measures]))


class BothDebiased(Both):
    family = "dreambench_cppf_debiased"
    summary = "concept preservation times prompt following, both debiased (ours)"
    paper = DEBIASED
    measures = (ConceptDebiased.measure, FollowingDebiased.measure)


DERIVED: Mapping[str, Derived] = {
    Both.family: Derived((Concept.family, Following.family), (1.0, 1.0), "product"),
    BothDebiased.family: Derived((ConceptDebiased.family, FollowingDebiased.family), (1.0, 1.0), "product"),
}
"""Family -> how its number for a whole set follows from the means of others."""


class JudgeAgreement(SetMetric):
    """Over the votes on one question about every image. A judge that always answers alike votes once, and cannot agree
    with itself."""

    family = "judge_agreement"
    summary = "Krippendorff's alpha of a judge's votes, ordinal: 1 always alike, 0 by chance"
    paper = "Krippendorff (2011); no paper of ours reports it"
    bounds: ClassVar[Any] = (None, 1.0)

    def __init__(self, measure: str = "judge_identity") -> None:
        self.measure = self.network = measure
        self.image = (measure,)
        self.variant = f"@{measure.removeprefix('judge_')}"
        self.votes: list[list[float]] = []

    @classmethod
    def instances(cls, env: Env) -> Sequence[Metric]:
        """On the two questions that CHARIS' benchmark mode asks."""
        return [cls("judge_identity"), cls("judge_prompt")]

    def fresh(self) -> JudgeAgreement:
        return JudgeAgreement(self.measure)

    def add(self, sample: Sample) -> None:
        votes = sample.image.get(f"{self.measure}_votes") or []
        self.votes.append([np.nan if vote is None else float(vote) for vote in votes])

    def add_real(self, columns: Mapping[str, Any]) -> None:
        """Nobody judges real images."""

    def finish(self, *, force: bool = False) -> SetScore:
        table = np.full((max(map(len, self.votes), default=0), len(self.votes)), np.nan)
        for unit, votes in enumerate(self.votes):
            table[: len(votes), unit] = votes
        twice = int(((~np.isnan(table)).sum(axis=0) > 1).sum())
        value = agreement(table) if twice else None
        note = "" if value is not None else "all votes are alike" if twice else "no image has two votes that count"
        return SetScore(value, n=twice, note=note)
