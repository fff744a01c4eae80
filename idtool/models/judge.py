"""Scores by vision-language models: several votes on one question, their mean, and how far they agree.

A vote that is refused, or that cannot be read after all repairs, is unscored: it counts neither as 0 nor as anything
else, and how many there are is said beside the score.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from idtool.models.ask import Answer, Ask, Model

SCORE_SCHEMA: Mapping[str, Any] = {
    "type": "object",
    "properties": {
        "score": {"type": "integer", "enum": [0, 1, 2, 3, 4]},
        "reasons": {"type": "array", "items": {"type": "string"}},
    },
    "required": ["score", "reasons"],
    "additionalProperties": False,
}
"""What a judge answers: a whole score from 0 to 4, and why. Nothing in it is beyond the subset that servers enforce."""
BEST = 4
VOTES = 3


@dataclass(frozen=True)
class Verdict:
    """What several votes come to."""

    answers: tuple[Answer, ...]
    """The votes as they came."""
    prompt_hash: str
    """SHA-256 of prompt, system text and schema, so that figures of two wordings are told apart."""

    @property
    def scores(self) -> tuple[float | None, ...]:
        """The score of each vote; None where it is unscored."""
        return tuple(float(answer.data["score"]) if answer.ok else None for answer in self.answers)

    @property
    def score(self) -> float | None:
        """Mean of the scored votes, [0, 4] under `SCORE_SCHEMA`; None when there is none."""
        given = self._given()
        return float(np.mean(given)) if given else None

    @property
    def unscored(self) -> int:
        """How many votes have no score."""
        return len(self.answers) - len(self._given())

    @property
    def why_unscored(self) -> dict[str, int]:
        """How many votes have no score for each reason of `idtool.models.ask.REASONS`."""
        return dict(Counter(answer.reason for answer in self.answers if answer.reason is not None))

    @property
    def agreement(self) -> float | None:
        """[0, 1] share of the pairs of scored votes that are equal (P_i of Fleiss 1971); None for fewer
        than two scored votes."""
        given = self._given()
        pairs = len(given) * (len(given) - 1)
        return sum(n * (n - 1) for n in Counter(given).values()) / pairs if pairs else None

    @property
    def spread(self) -> float | None:
        """Highest less lowest score; None when there is none."""
        given = self._given()
        return max(given) - min(given) if given else None

    @property
    def reasons(self) -> tuple[tuple[str, ...], ...]:
        """What each vote gave as its reasons; nothing for unscored ones."""
        return tuple(tuple(answer.data.get("reasons", ())) if answer.ok else () for answer in self.answers)

    def _given(self) -> list[float]:
        return [score for score in self.scores if score is not None]


def votes(model: Model, ask: Ask, n: int = VOTES, *, symmetric: bool = False) -> Verdict:
    """`verdicts` for one question."""
    return verdicts(model, [ask], n, symmetric=symmetric)[0]


def verdicts(model: Model, asks: Sequence[Ask], n: int = VOTES, *, symmetric: bool = False) -> list[Verdict]:
    """A verdict on each question, of up to `n` votes; all votes on all questions are asked at once.

    `symmetric`: the order of the images does not matter to the question, so votes see them in different orders (the
    images turned round one after another), against the liking of models for the first or the last one. A model that
    always answers the same question alike (`Model.deterministic`) is asked once for each order there is: one vote
    when the order is fixed. Others are asked `n` times.

    A question without a schema gets `SCORE_SCHEMA`; one of its own must have a number under `score`. ValueError when
    it has none, or when `n` is below 1.
    """
    if n < 1:
        raise ValueError(f"Expected one vote or more. Got {n}")
    ballots = [_ballots(model, ask, n, symmetric) for ask in asks]
    answers = iter(model.ask([ballot for each in ballots for ballot in each]))
    return [Verdict(tuple(next(answers) for _ in each), prompt_hash(each[0])) for each in ballots]


def _ballots(model: Model, ask: Ask, n: int, symmetric: bool) -> list[Ask]:
    if ask.schema is None:
        ask = replace(ask, schema=SCORE_SCHEMA)
    score = (ask.schema or {}).get("properties", {}).get("score", {}).get("type")
    if score not in ("integer", "number") or "score" not in (ask.schema or {}).get("required", ()):
        raise ValueError("The schema of a judge's question must require a number under `score`")
    orders = max(1, len(ask.images)) if symmetric else 1
    count = min(n, orders) if model.deterministic else n
    return [
        replace(ask, images=_turned(ask.images, vote % orders), repeat=ask.repeat + vote // orders)
        for vote in range(count)
    ]


def _turned(images: tuple[Any, ...], by: int) -> tuple[Any, ...]:
    return images[by:] + images[:by]


def prompt_hash(ask: Ask) -> str:
    """SHA-256 of prompt, system text and schema of a question."""
    content = [ask.prompt, ask.system, ask.schema]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
