"""The optional filter by a vision-language model (role `judge`): one question on each pair.

IdGlow, section 3.4, stage 1, filters by such models without printing a question; the wording is ours, and its hash is
in the run. A pair stays when the judge prefers the chosen image. It sees both without being told which is which, in an
order that is drawn from the pair's id.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from idtool.models.ask import Ask, Model
from idtool.models.caption_checks import MACHINE
from idtool.models.judge import SCORE_SCHEMA, Verdict, prompt_hash, verdicts

Picture = npt.NDArray[np.uint8]

LONG_SIDE = 768
"""Pixels of the longer side of what a judge sees, at most."""
VOTES = 3
MIDDLE = 2.0
SCHEMA: Mapping[str, Any] = {
    **SCORE_SCHEMA,
    # Reasons first: an answer is written in the order of the schema.
    "properties": {name: SCORE_SCHEMA["properties"][name] for name in ("reasons", "score")},
    "required": ["reasons", "score"],
}
QUESTION = """{pictures} The last two pictures, X and then Y, were made for this request:

\"\"\"
{prompt}
\"\"\"

Which of X and Y is the better picture of these people? Weigh in this order: do the faces look like the people shown; \
is everybody there, once each; are clothes and accessories kept; does the picture do what the request asks; is it free \
of faults such as broken hands, noise, wrong colours or blur.

Score: 0 when X is clearly better, 1 when X is slightly better, 2 when neither is, 3 when Y is slightly better, 4 when \
Y is clearly better. Give one short reason for each point in which they differ."""
ONE = "The first picture is a reference: it shows who is meant."
SEVERAL = "The first {number} pictures are references: each shows one of the people who are meant."


@dataclass(frozen=True)
class Judged:
    """What the judge said of one pair."""

    kept: bool
    reason: str
    """`judge.prefers_chosen`, or why the pair is dropped: `judge.prefers_rejected`, `judge.tie`, `judge.unscored`."""
    score: float | None
    """[-2, 2] how much it prefers the chosen image."""
    text: str
    """Its reasons."""
    lost: bool = False
    """Whether it could not be asked at all, which is no fault of the pair's."""


def chosen_first(pair: str) -> bool:
    """Whether the judge sees the chosen image of this pair first."""
    return hashlib.sha256(f"judge\0{pair}".encode()).digest()[0] % 2 == 0


def ask(pair: str, references: Sequence[Picture], chosen: Picture, rejected: Picture, prompt: str) -> Ask:
    """The question on one pair; pictures are RGB uint8 (H, W, 3)."""
    from idtool.models.asking import reduced

    shown = ONE if len(references) == 1 else SEVERAL.replace("{number}", str(len(references)))
    both = (chosen, rejected) if chosen_first(pair) else (rejected, chosen)
    pictures = tuple(reduced(image, LONG_SIDE) for image in (*references, *both))
    # The prompt last: whatever stands in it is not taken for a placeholder.
    text = QUESTION.replace("{pictures}", shown).replace("{prompt}", prompt)
    return Ask(text, pictures, schema=SCHEMA, max_tokens=600)


def judge(model: Model, asks: Mapping[str, Ask], votes: int = VOTES) -> dict[str, Judged]:
    """What the model says of each pair (id -> question)."""
    found = verdicts(model, list(asks.values()), votes)
    return {pair: _judged(pair, verdict) for pair, verdict in zip(asks, found, strict=True)}


def _judged(pair: str, verdict: Verdict) -> Judged:
    text = "; ".join(dict.fromkeys(" ".join(one.split()) for vote in verdict.reasons for one in vote))
    if verdict.score is None:
        told = ", ".join(f"{reason} {count}" for reason, count in sorted(verdict.why_unscored.items()))
        lost = any(reason in MACHINE for reason in verdict.why_unscored)
        return Judged(False, "judge.unscored", None, f"no vote of the judge counts: {told}", lost)
    score = (MIDDLE - verdict.score) * (1 if chosen_first(pair) else -1)
    reason = "tie" if score == 0 else "prefers_chosen" if score > 0 else "prefers_rejected"
    return Judged(score > 0, f"judge.{reason}", score, text)


def wording() -> str:
    """Hash of the question, for the manifest."""
    return prompt_hash(Ask("\n".join((QUESTION, ONE, SEVERAL)), schema=SCHEMA))[:16]
