"""Measures `judge_…`: what a vision-language model (role `judge`) says of an image, its references and its prompt.

Several votes on each question; a refused or unreadable one counts as nothing. Where no vote counts, the score is null
with the reason. Where the judge could not be asked at all, the row is an error, and is tried again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, cast

import numpy as np
import pyarrow as pa

from idtool.evaluate.charis.questions import Question, question
from idtool.evaluate.measures.base import Item, Measure, SampleItem, Values, column
from idtool.models.asking import reduced
from idtool.models.caption_checks import MACHINE, Unavailable
from idtool.models.judge import BEST, VOTES, Verdict, verdicts

LONG_SIDE = 768
"""Pixels of the longer side of the pictures that a judge sees, at most."""


def columns(name: str) -> pa.Schema:
    """What every judgement writes."""
    return pa.schema(
        [
            column(f"{name}_score", pa.float32(), "mean of the votes that count, over 4; null: none does", "[0, 1]"),
            column(
                f"{name}_votes", pa.list_(pa.float32()), "each vote, question by question; null: unscored", "0 to 4"
            ),
            column(f"{name}_unscored", pa.int32(), "votes that do not count"),
            column(f"{name}_agreement", pa.float32(), "share of pairs of votes that are equal", "[0, 1]"),
            column(f"{name}_reasons", pa.string(), "the reasons that were given, a line each"),
            column(f"{name}_why", pa.string(), "why there is no score; null where there is one"),
            column(f"{name}_prompt_hash", pa.string(), "of the wording of the questions"),
            column(f"{name}_tokens_in", pa.int64(), "tokens of the questions; 0 for answers that were kept"),
            column(f"{name}_tokens_out", pa.int64(), "tokens of the answers; 0 for answers that were kept"),
            column(f"{name}_cost", pa.float64(), "by the prices of the binding; null where it has none", "currency"),
        ]
    )


class Judgement(Measure):
    """Base: one score, of one question or of several."""

    kind: ClassVar[Literal["image", "text", "sample"]] = "sample"
    role = "judge"
    asked: ClassVar[tuple[str, ...]]
    """Names of the questions (`charis/prompts/`)."""
    shows: ClassVar[Literal["references", "image"]] = "references"
    """Whether the judge sees the references before the image, or the image alone."""

    def config(self) -> dict[str, Any]:
        return {**super().config(), "questions": self._hash(), "votes": VOTES, "long_side": LONG_SIDE}

    def __call__(self, items: Sequence[Item]) -> Sequence[Values | Exception]:
        samples = cast(Sequence[SampleItem], items)
        lacking = [self._lacking(sample) for sample in samples]
        having = [sample for sample, why in zip(samples, lacking, strict=True) if why is None]
        asks = [one.ask(*self._shown(sample)) for sample in having for one in self._questions()]
        found = iter(verdicts(self.model, asks, VOTES))
        return [
            self._values([next(found) for _ in self.asked]) if why is None else {f"{self.name}_why": why}
            for why in lacking
        ]

    def of(self, found: Sequence[Verdict]) -> tuple[float | None, str | None]:
        """(score in [0, 1], None), or (None, why) of the verdicts on the questions."""
        score = found[0].score
        return (score / BEST, None) if score is not None else (None, none_counts(found[0]))

    def more(self, found: Sequence[Verdict]) -> Values:
        """Values of further columns."""
        return {}

    def _questions(self) -> list[Question]:
        return [question(name) for name in self.asked]

    def _hash(self) -> str:
        return " ".join(one.hash for one in self._questions())

    def _lacking(self, sample: SampleItem) -> str | None:
        if self.shows == "references" and not sample.references:
            return "no reference to compare with"
        if any(one.needs_text for one in self._questions()) and not (sample.row["prompt"] or "").strip():
            return "no prompt to judge by"
        return None

    def _shown(self, sample: SampleItem) -> tuple[Any, ...]:
        references = sample.references if self.shows == "references" else ()
        return [reduced(one, LONG_SIDE) for one in references], reduced(sample.image, LONG_SIDE), sample.row["prompt"]

    def _values(self, found: Sequence[Verdict]) -> Values | Exception:
        answers = [answer for verdict in found for answer in verdict.answers]
        if any(verdict.score is None for verdict in found):
            lost = next((answer for answer in answers if answer.reason in MACHINE), None)
            if lost is not None:
                return Unavailable(lost.detail or f"the judge gave no answer: {lost.reason}")
        score, why = self.of(found)
        agreements = [verdict.agreement for verdict in found if verdict.agreement is not None]
        costs = [answer.cost for answer in answers if answer.cost is not None]
        told: dict[str, Any] = {
            "score": score,
            "votes": [vote for verdict in found for vote in verdict.scores],
            "unscored": sum(verdict.unscored for verdict in found),
            "agreement": float(np.mean(agreements)) if agreements else None,
            "reasons": self._reasons(found),
            "why": why,
            "prompt_hash": self._hash(),
            "tokens_in": sum(answer.tokens_in for answer in answers),
            "tokens_out": sum(answer.tokens_out for answer in answers),
            "cost": sum(costs) if costs else None,
        }
        return {**{f"{self.name}_{name}": value for name, value in told.items()}, **self.more(found)}

    def _reasons(self, found: Sequence[Verdict]) -> str | None:
        """A line for each reason, votes and questions one after another; without those that earlier votes gave."""
        lines: dict[str, None] = {}
        for name, verdict in zip(self.asked, found, strict=True):
            about = f"{name.rpartition('_')[2]}: " if len(self.asked) > 1 else ""
            lines |= dict.fromkeys(f"{about}{' '.join(one.split())}" for vote in verdict.reasons for one in vote)
        return "\n".join(lines) or None


def none_counts(verdict: Verdict) -> str:
    """Why a verdict has no score, in words."""
    told = ", ".join(f"{reason} {count}" for reason, count in sorted(verdict.why_unscored.items()))
    return f"no vote of the judge counts: {told}"


class JudgeIdentity(Judgement):
    """VLM-ID of CHARIS (Algorithm 2, line 3): attribute by attribute, whatever pose and scene."""

    name = "judge_identity"
    summary = "whether the subject is the reference's, attribute by attribute, by a judge"
    asked = ("identity",)
    writes = columns(name)


class JudgePrompt(Judgement):
    """VLM-Prompt of CHARIS (line 4): requirement by requirement, the subject aside."""

    name = "judge_prompt"
    summary = "whether the image does what the prompt asks, requirement by requirement, by a judge"
    asked = ("prompt",)
    shows = "image"
    writes = columns(name)


PARTS = ("pose", "scene", "framing")
_BY_PART = [
    column(f"judge_diversity_{part}", pa.float32(), "of this question; null: not asked for", "[0, 1]") for part in PARTS
]


class JudgeDiversity(Judgement):
    """VLM-DiversityScore of CHARIS (line 7): 1 where the wanted changes are made in full, 0 for a copy.

    The mean of three questions, on pose and viewpoint, scene, and framing. One that most votes say the prompt asks
    nothing of is left out: a change that nobody asked for is no merit. Where nothing is asked for, there is no score.
    """

    name = "judge_diversity"
    summary = "how far the image goes from the reference to what the prompt asks, by a judge"
    asked = tuple(f"diversity_{part}" for part in PARTS)
    writes = pa.schema([*columns(name), *_BY_PART])

    def of(self, found: Sequence[Verdict]) -> tuple[float | None, str | None]:
        for part, verdict in zip(PARTS, found, strict=True):
            if verdict.score is None:
                return None, f"{part}: {none_counts(verdict)}"
        scores = [score for score in map(of_change, found) if score is not None]
        if not scores:
            return None, "the prompt asks for no other pose, scene or framing than the reference's"
        return float(np.mean(scores)), None

    def more(self, found: Sequence[Verdict]) -> Values:
        return {f"{self.name}_{part}": of_change(one) for part, one in zip(PARTS, found, strict=True)}


def of_change(verdict: Verdict) -> float | None:
    """[0, 1] mean of the votes that say the prompt asks for this change; None when less than half of those that count
    say so."""
    given: list[Mapping[str, Any]] = [answer.data for answer in verdict.answers if answer.ok]
    wanted = [vote["score"] / BEST for vote in given if vote["asked"]]
    return float(np.mean(wanted)) if wanted and 2 * len(wanted) >= len(given) else None


class JudgeConcept(Judgement):
    """Concept preservation, after DreamBench++ (Peng et al., ICLR 2025), in our own words."""

    name = "judge_concept"
    summary = "how well the subject is preserved, by a judge"
    asked = ("concept",)
    writes = columns(name)


class JudgeFollowing(Judgement):
    """Prompt following, after DreamBench++, in our own words."""

    name = "judge_following"
    summary = "how well the prompt is followed, by a judge"
    asked = ("following",)
    shows = "image"
    writes = columns(name)


class JudgeConceptDebiased(Judgement):
    """Concept preservation with copies of pose, background and crop marked down: debiased (ours). DSD (Cai et al., CVPR
    2025) names the idea; its wording is not public."""

    name = "judge_concept_debiased"
    summary = "how well the subject is preserved without copying the reference, by a judge"
    asked = ("concept_debiased",)
    writes = columns(name)


class JudgeFollowingDebiased(Judgement):
    """Prompt following where only what goes beyond the reference counts: debiased (ours)."""

    name = "judge_following_debiased"
    summary = "how well what the prompt asks beyond the reference is done, by a judge"
    asked = ("following_debiased",)
    writes = columns(name)
