"""Whether what a model says of an image may be its caption: an answer that counts (no refusal, not cut), of a sensible
length, and without the name of the person, which a generator would learn to draw in place of the face it is shown."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass

from idtool.models.ask import Answer

MACHINE = ("timeout", "unavailable")
"""Reasons of `Answer` that are no fault of the image: the row is an error, and `--only errors` asks again."""
NAMED, LONG, SHORT = "names_identity", "too_many_words", "too_few_words"
"""Reasons of ours, beside those of `Answer`."""
REASONS = f"{NAMED}, {LONG}, {SHORT}, refused, empty, cut, invalid, too_long (for the model) or bad_input"

_GENERIC = frozenset(
    (
        *("the", "and", "person", "people", "man", "woman", "men", "women", "boy", "girl", "face", "faces", "photo"),
        *("photos", "image", "images", "picture", "pictures", "portrait", "unknown", "actor", "actress", "singer"),
        *("model", "friend", "family", "group", "young", "old", "test", "train", "set", "class", "folder", "identity"),
        *("subject", "archive", "frame", "frames", "video"),
    )
)
"""Words of labels and folders that name nobody."""


class Unavailable(Exception):
    """The model could not be asked."""


@dataclass(frozen=True)
class Limits:
    """Bounds on a caption."""

    min_words: int
    max_words: int


@dataclass(frozen=True)
class Said:
    """A caption, or why there is none."""

    text: str | None
    reason: str | None = None


def judged(answer: Answer, limits: Limits, names: Iterable[str]) -> Said:
    """The caption that an answer is. `names`: labels under which the person is known. Raises Unavailable."""
    if answer.reason in MACHINE:
        raise Unavailable(answer.detail or f"the captioner gave no answer: {answer.reason}")
    if answer.reason is not None:
        return Said(None, answer.reason)
    text = tidy(answer.text or "")
    words = len(text.split())
    if words < limits.min_words:
        return Said(None, SHORT)
    if words > limits.max_words:
        return Said(None, LONG)
    return Said(None, NAMED) if mentions(text, names) else Said(text)


def tidy(text: str) -> str:
    """On one line, without quotation marks around it and a heading such as `Caption:` before it."""
    line = " ".join(text.split())
    line = re.sub(r"^\W*(caption|description|answer)\W*:[\s*]*", "", line, flags=re.IGNORECASE)
    for left, right in (('"', '"'), ("'", "'"), ("“", "”"), ("«", "»")):
        if len(line) > 1 and line.startswith(left) and line.endswith(right):
            line = line[1:-1].strip()
    return line


def mentions(text: str, names: Iterable[str]) -> bool:
    """Whether a text names somebody: it has all words of a label in a row, in any case, or one of them written as a
    name, with a capital. `rose_leslie`: "Rose Leslie", "rose leslie" and "Leslie", but not "a rose"."""
    plain = " ".join(_words(text))
    for name in names:
        words = _words(name)
        telling = [word for word in words if len(word) > 2 and word.isalpha() and word not in _GENERIC]
        if telling and f" {' '.join(words)} " in f" {plain} ":
            return True
        if any(re.search(rf"\b{re.escape(word)}\b", _bare(text)) for word in map(str.capitalize, telling)):
            return True
    return False


def _words(text: str) -> list[str]:
    return re.findall(r"[^\W_]+", re.sub(r"(?<=[a-z])(?=[A-Z])", " ", _bare(text)).lower())


def _bare(text: str) -> str:
    """Without accents, so that `Unal` is found in `Ünal`."""
    return "".join(letter for letter in unicodedata.normalize("NFKD", text) if not unicodedata.combining(letter))
