"""Prompts with gaps: `a {class} wearing a red hat`, `the person on the left has {expression_1}`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from idtool.errors import UsageError

ATTRIBUTES = ("age", "ethnicity", "gender", "class")
"""What labels of people usually say. A manifest may have others."""
WORDS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight")
PROMPT, COUNT = "prompt", "count"
"""Filled with the prompt's text, and with the number of people in words."""
_GAP = re.compile(r"\{([^{}]*)\}")
_NAME = re.compile(r"([A-Za-z][A-Za-z_]*?)(?:_(\d+))?")


class Gap(NamedTuple):
    """What a placeholder asks for."""

    name: str
    person: int | None
    """From 1, as in `{expression_2}`; None: not said whose."""

    def __str__(self) -> str:
        return f"{{{self.name}}}" if self.person is None else f"{{{self.name}_{self.person}}}"


def gaps(text: str) -> list[Gap]:
    """The placeholders of a text, in order. ValueError for braces that are none."""
    found = []
    for match in _GAP.finditer(text):
        name = _NAME.fullmatch(match[1])
        if name is None:
            raise ValueError(f"{match[0]} is no placeholder: a name belongs between braces, as in {{class}}")
        found.append(Gap(name[1], int(name[2]) if name[2] else None))
    if stray := re.search(r"[{}]", _GAP.sub("", text)):
        raise ValueError(f"a {stray[0]!r} without its other half")
    return found


def fill(text: str, people: Sequence[Mapping[str, str]], shared: Mapping[str, str]) -> str:
    """The text with its placeholders filled from `shared` and, where it does not have the name, from the values of
    the person that the placeholder is about (the only one, where it does not say). UsageError for what nobody gave."""

    def value(match: re.Match[str]) -> str:
        (gap,) = gaps(match[0])
        if gap.person is None and gap.name in shared:
            return shared[gap.name]
        if gap.person is None and len(people) != 1:
            raise UsageError(f"{gap} in {text!r} does not say whose.", f"Write {{{gap.name}_1}} and so on.")
        number = gap.person or 1
        if not 1 <= number <= len(people) or gap.name not in people[number - 1]:
            raise UsageError(f"Nothing fills {gap} in {text!r}.", "Give the person that label, or the suite a default.")
        return people[number - 1][gap.name]

    return _GAP.sub(value, text)


def in_words(number: int) -> str:
    """`two` for 2; digits from nine on."""
    return WORDS[number] if number < len(WORDS) else str(number)


def whose(found: Iterable[Gap], name: str) -> set[int | None]:
    """The people that placeholders of one name are about."""
    return {gap.person for gap in found if gap.name == name}
