"""Questions to vision-language models and what comes back, whatever runs the model (roles `captioner` and `judge`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

Image = npt.NDArray[np.uint8]

REASONS: Mapping[str, str] = {
    "refused": "the model, or the server in front of it, will not answer",
    "invalid": "the answer does not fit the schema, however often it was asked for, or the network gave NaN",
    "cut": "the answer was longer than `Ask.max_tokens`",
    "empty": "the answer is empty",
    "too_long": "question, images and answer do not fit the model's context",
    "bad_input": "the question cannot be put: an image of another kind, or a request that the server rejects",
    "timeout": "no answer in time, tried again and again",
    "unavailable": "the server failed, tried again and again, or asks for a longer wait than is allowed",
}
"""Why an answer may not count -> in words."""


@dataclass(frozen=True, eq=False)
class Ask:
    """One question."""

    prompt: str
    images: tuple[Image, ...] = ()
    """RGB uint8 (H, W, 3), in the order in which the prompt speaks of them. They stand before the prompt."""
    system: str | None = None
    schema: Mapping[str, Any] | None = None
    """JSON schema that the answer must satisfy; None: free text."""
    max_tokens: int = 512
    """Most tokens of the answer."""
    repeat: int = 0
    """Which of several answers to the same question this is. The model never sees it; the cache of answers does."""


@dataclass(frozen=True)
class Answer:
    """What the model said, or why there is nothing."""

    text: str | None
    """The answer as it came, outer white space and thinking aloud off; None when there is none."""
    data: Any = None
    """The parsed answer, when the question had a schema and the answer fits it."""
    reason: str | None = None
    """Why the answer does not count, one of `REASONS`; None when it does."""
    detail: str = ""
    """One sentence to `reason`, for people."""
    tokens_in: int = 0
    tokens_out: int = 0
    """Tokens of the question with its images and of the answer, over all tries; 0 where a server does not say."""
    cost: float | None = None
    """In the currency of the binding's prices; None where no prices are given."""
    cached: bool = False
    """Taken from the cache of answers: no tokens were spent now."""

    @property
    def ok(self) -> bool:
        """Whether the answer counts. One that does not is null with its reason, never a score or a caption."""
        return self.reason is None


class Model(Protocol):
    """What a captioner or judge is, whatever runs it."""

    @property
    def deterministic(self) -> bool:
        """Whether the same question always gets the same answer, so that a repeat tells nothing."""

    def ask(self, asks: Sequence[Ask]) -> list[Answer]:
        """One answer for every question, in their order."""

    def fingerprint(self) -> dict[str, Any]:
        """What the answers depend on."""
