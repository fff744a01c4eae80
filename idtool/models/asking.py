"""What all captioners and judges share: questions are checked, looked up in the cache, put, held to their schema, put
again when the answer does not fit it, and counted."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np

from idtool.errors import UsageError
from idtool.media.shrink import halved
from idtool.models import answers, crops, structured
from idtool.models.answers import AnswerCache, Usage
from idtool.models.ask import Answer, Ask, Image

_CANNOT = r"(?:can ?not|can['’]?t|could not|won['’]?t|(?:am|are) (?:unable|not able) to)\b"
_REFUSAL = re.compile(
    rf"\W*(?:(?:i['’]?m|i am) (?:very |so |really )?sorry\b|sorry, (?:but )?i\b|i apologi[sz]e\b|as an ai\b"
    rf"|(?:unfortunately,? )?(?:(?:i|we) {_CANNOT}|i['’]m (?:unable|not able) to\b))",
    re.IGNORECASE,
)
REFUSAL_LENGTH = 500
"""Characters above which a text is taken for an answer, however it begins."""
_THOUGHT = re.compile(r"\A.*</think(?:ing)?>", re.DOTALL)


class Asking(ABC):
    """Base of the wrappers. Safe to call from several threads if `_say` is."""

    roles: ClassVar[tuple[str, ...]] = ("captioner", "judge")
    deterministic: bool = True
    """Whether the same question always gets the same answer."""
    guided: bool = False
    """Whether the engine itself holds answers to the schema; else the prompt asks for it."""

    def __init__(self, *, repairs: int, cache: bool) -> None:
        if repairs < 0:
            raise UsageError(f"Option `repairs` is {repairs}.", "It is 0 or more.")
        self.repairs = repairs
        self.usage = Usage()
        self._cache = AnswerCache() if cache else None

    @abstractmethod
    def fingerprint(self) -> dict[str, Any]:
        """What the answers depend on."""

    @abstractmethod
    def _say(self, asks: Sequence[Ask]) -> Iterator[tuple[int, Answer]]:
        """Answers as they come, with the index of their question. `data` is not filled in yet."""

    def ask(self, asks: Sequence[Ask]) -> list[Answer]:
        """One answer for every question, in their order; what is wrong with one never touches the others.

        An answer that does not fit its schema is asked for again, up to `repairs` times, with the problem in the
        prompt. MissingError when the model cannot be had at all.
        """
        done: dict[int, Answer] = {}
        names: dict[int, str] = {}
        waiting: dict[int, Ask] = {}
        fingerprint = self.fingerprint() if self._cache is not None else {}
        for number, ask in enumerate(asks):
            problem = problem_of(ask)
            if problem:
                done[number] = Answer(None, reason="bad_input", detail=problem)
            elif self._cache is not None:
                names[number] = answers.key(fingerprint, ask)
                known = self._cache.get(names[number])
                if known is not None:
                    done[number] = known
            if number in done:
                self.usage.add(done[number])
            else:
                waiting[number] = ask
        for number, answer in self._rounds(waiting) if waiting else ():
            # At once, not at the end: what is paid for is kept even if the next question ends the run.
            done[number] = answer
            self.usage.add(answer)
            if self._cache is not None:
                self._cache.put(names[number], answer)
        return [done[number] for number in range(len(asks))]

    def _rounds(self, asks: Mapping[int, Ask]) -> Iterator[tuple[int, Answer]]:
        """Put the questions, then those again whose answers do not fit."""
        spent: dict[int, Answer] = {}
        problems: dict[int, str] = {}
        waiting = list(asks)
        for left in range(self.repairs, -1, -1):
            again = []
            for place, said in self._say([self._worded(asks[n], problems.get(n)) for n in waiting]):
                number = waiting[place]
                answer = _together(spent.get(number), judged(said, asks[number]))
                # What came with a reason of its own would come again; only an answer that does not fit is mended.
                if said.ok and answer.reason == "invalid" and left:
                    spent[number], problems[number] = answer, answer.detail
                    again.append(number)
                else:
                    yield number, answer
            waiting = sorted(again)
            if not waiting:
                return

    def _worded(self, ask: Ask, problem: str | None) -> Ask:
        """The question with what must be added to its prompt for an answer by schema."""
        if ask.schema is None or (self.guided and problem is None):
            return ask
        reminder = [structured.reminder(problem)] if problem else []
        return replace(ask, prompt="\n\n".join([ask.prompt, *reminder, structured.instruction(ask.schema)]))

    def _facts(self) -> dict[str, Any]:
        """For the fingerprints: how answers are asked for and held to their schemas."""
        by = "engine" if self.guided else "prompt"
        return {"structured": f"v1, by {by}", "repairs": self.repairs}


def problem_of(ask: Ask) -> str:
    """What is wrong with a question, in a sentence; empty when nothing is."""
    if ask.max_tokens < 1:
        return f"max_tokens is {ask.max_tokens}."
    try:
        for image in ask.images:
            crops.check(image)
        if ask.schema is not None:
            structured.check_schema(ask.schema)
    except (ValueError, AttributeError, TypeError) as error:
        return f"{error}."
    return ""


def judged(said: Answer, ask: Ask) -> Answer:
    """The answer as it counts: thinking aloud taken off, refusals told from answers, JSON read."""
    if said.text is None:
        return said
    # Only a cut one has not come to its end.
    text = _THOUGHT.sub("", said.text, count=1).strip()
    said = replace(said, text=text or None)
    if said.reason not in (None, "cut"):
        return said
    if ask.schema is not None and text:
        data, problem = structured.read(text, ask.schema)
        if problem is None:
            # Whole and fitting: what the model would have added after it does not matter.
            return replace(said, data=data, reason=None, detail="")
        if said.reason is None and not is_refusal(text):
            return replace(said, reason="invalid", detail=problem)
    if said.reason is None and not text:
        return replace(said, reason="empty", detail="the answer is empty")
    if is_refusal(text):
        return replace(said, reason="refused", detail=text[:200])
    return said


def is_refusal(text: str) -> bool:
    """Whether a text is a model's way of saying no, judged by how it begins. English only, and only short texts."""
    return len(text) <= REFUSAL_LENGTH and _REFUSAL.match(text) is not None


def _together(before: Answer | None, now: Answer) -> Answer:
    """The later answer with the tokens and costs of both."""
    if before is None:
        return now
    costs = [one.cost for one in (before, now) if one.cost is not None]
    return replace(
        now,
        tokens_in=before.tokens_in + now.tokens_in,
        tokens_out=before.tokens_out + now.tokens_out,
        cost=sum(costs) if costs else None,
    )


def reduced(image: Image, long_side: int) -> Image:
    """`image` with its longer side at most `long_side` px, averaged over areas; a smaller one as it is."""
    import cv2

    scale = long_side / max(image.shape[:2])
    if scale >= 1:
        return image
    height, width = (max(1, round(side * scale)) for side in image.shape[:2])
    smaller = halved(image, width, height)
    return np.asarray(cv2.resize(smaller, (width, height), interpolation=cv2.INTER_AREA), np.uint8)


def check_long_side(long_side: int) -> int:
    """UsageError for a size that leaves nothing to see."""
    if long_side < 28:
        raise UsageError(f"Option `long_side` is {long_side}.", "It is the longer side of images in px, 28 or more.")
    return long_side
