"""JSON out of what a language model says: found among other text, read with a little tolerance, held to its schema.

Nothing is guessed. What is tolerated has one meaning only: code fences and prose around the JSON, trailing commas,
Python's `True`, `False`, `None` and single quotes, line breaks inside strings. An end that is missing, a key that
stands twice, or two different answers that both fit are problems, not answers.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from typing import Any

DEPTH = 64
"""How deeply objects and lists may stand in each other."""
LENGTH = 200_000
"""Characters of an answer that are looked at; a longer one is no answer."""
_STRINGS = json.JSONDecoder(strict=False)
_SPACE = re.compile(r"\s*")
_FIELD = re.compile(r"\{\s*(?:\"(?:[^\"\\]|\\.){0,100}\"|'[^'{}]{0,100}')\s*:")
"""The beginning of an object that is no prose."""
_WORD = re.compile(r"true|false|null|True|False|None")
_NUMBER = re.compile(r"-?(?:0|[1-9]\d{0,300})(?:\.\d{1,300})?(?:[eE][+-]?\d{1,4})?(?![\w.])")
_WORDS = {"true": True, "True": True, "false": False, "False": False, "null": None, "None": None}


def instruction(schema: Mapping[str, Any]) -> str:
    """What a model is told that cannot be held to a schema otherwise."""
    return (
        "Answer with JSON only, without any other text before or after it. "
        f"It must satisfy this JSON schema: {json.dumps(schema, ensure_ascii=False)}"
    )


def reminder(problem: str) -> str:
    """What is added when the question is put again because of `problem`."""
    return f"An earlier answer to this question could not be used: {problem}."


def check_schema(schema: Mapping[str, Any]) -> None:
    """ValueError when `schema` is no JSON schema."""
    from jsonschema import Draft202012Validator
    from jsonschema.exceptions import SchemaError

    try:
        Draft202012Validator.check_schema(dict(schema))
    except SchemaError as error:
        raise ValueError(f"The schema of a question is no JSON schema: {error.message}") from error


def read(text: str, schema: Mapping[str, Any]) -> tuple[Any, str | None]:
    """The JSON in `text` that fits `schema`, and None; or None and the problem, as a clause of a sentence."""
    from jsonschema import Draft202012Validator
    from referencing import Registry

    if len(text) > LENGTH:
        return None, f"the answer has {len(text)} characters"
    found, damage = _candidates(text, _openings(schema))
    # An empty registry: a `$ref` to elsewhere is an error, not a request over the network.
    validator = Draft202012Validator(dict(schema), registry=Registry())
    fitting: list[Any] = []
    problem = None
    for value in found:
        error = _misfit(validator, value)
        if error is None:
            if not any(value == other for other in fitting):
                fitting.append(value)
        else:
            problem = problem or error
    if damage:
        return None, damage
    if len(fitting) == 1:
        return fitting[0], None
    if fitting:
        return None, f"it holds {len(fitting)} different answers"
    return None, problem or "it holds no JSON"


def _misfit(validator: Any, value: Any) -> str | None:
    try:
        errors = sorted(validator.iter_errors(value), key=lambda error: list(map(str, error.absolute_path)))
    # Regular expressions and references of the schema may fail in their own ways.
    except Exception as error:
        return f"it cannot be compared with the schema ({type(error).__name__})"
    if not errors:
        return None
    where = ".".join(map(str, errors[0].absolute_path))
    return f"{where + ': ' if where else ''}{errors[0].message[:200]}"


def _openings(schema: Mapping[str, Any]) -> str:
    """The characters by which a value that fits may begin. Bare words and numbers are not looked for in prose."""
    return {"object": "{", "array": "["}.get(str(schema.get("type")), "{[")


def _candidates(text: str, openings: str) -> tuple[list[Any], str | None]:
    """Values that begin with one of `openings`, outermost and in order; what is wrong with one that cannot be read."""
    found: list[Any] = []
    place = 0
    while (start := next((i for i in range(place, len(text)) if text[i] in openings), -1)) >= 0:
        try:
            value, place = _value(text, start, 0)
            found.append(value)
        except _Hopeless as error:
            return found, str(error)
        except _Bad:
            if _FIELD.match(text, start):
                # It is meant to be the answer; a smaller object inside it is not the answer either.
                return found, "the JSON is malformed"
            place = start + 1
    return found, None


class _Bad(Exception):
    """What stands here is no JSON."""


class _Hopeless(_Bad):
    """What stands here is JSON that nothing further on can save."""


_UNFINISHED = "the JSON has no end"
_DEEP = "the JSON is nested too deeply"


def _value(text: str, at: int, depth: int) -> tuple[Any, int]:
    """The value that begins at `at` (white space before it is skipped), and where it ends."""
    at = _skip(text, at)
    if depth > DEPTH:
        raise _Hopeless(_DEEP)
    letter = text[at]
    if letter == "{":
        return _sequence(text, at + 1, "}", lambda place: _pair(text, place, depth + 1), _object)
    if letter == "[":
        return _sequence(text, at + 1, "]", lambda place: _value(text, place, depth + 1), list)
    if letter in "\"'":
        return _string(text, at)
    if word := _WORD.match(text, at):
        return _WORDS[word.group()], word.end()
    if number := _NUMBER.match(text, at):
        value = json.loads(number.group())
        if not math.isfinite(value):
            raise _Bad
        return value, number.end()
    raise _Bad


def _sequence(
    text: str, at: int, end: str, item: Callable[[int], tuple[Any, int]], build: Callable[[list[Any]], Any]
) -> tuple[Any, int]:
    """Items between commas up to `end`; a comma may stand before it."""
    items: list[Any] = []
    at = _skip(text, at)
    while text[at] != end:
        value, at = item(at)
        items.append(value)
        at = _skip(text, at)
        if text[at] == ",":
            at = _skip(text, at + 1)
        elif text[at] != end:
            raise _Bad
    return build(items), at + 1


def _pair(text: str, at: int, depth: int) -> tuple[tuple[str, Any], int]:
    key, at = _string(text, at)
    at = _skip(text, at)
    if text[at] != ":":
        raise _Bad
    value, at = _value(text, at + 1, depth)
    return (key, value), at


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len({key for key, _ in pairs}) < len(pairs):
        raise _Bad
    return dict(pairs)


def _string(text: str, at: int) -> tuple[str, int]:
    """A string in double quotes; or in single ones, when the next single quote can only be its end."""
    if text[at] == '"':
        try:
            value, end = _STRINGS.raw_decode(text, at)
        except json.JSONDecodeError as error:
            raise (_Hopeless(_UNFINISHED) if error.msg.startswith("Unterminated") else _Bad()) from error
    elif text[at] == "'":
        end = text.find("'", at + 1) + 1
        if not end:
            raise _Hopeless(_UNFINISHED)
        value = text[at + 1 : end - 1]
        # An apostrophe, a quote or an escape inside: what the string is would be a guess.
        if "\\" in value or '"' in value or text[_skip(text, end)] not in ",:}]":
            raise _Bad
    else:
        raise _Bad
    if any("\ud800" <= letter <= "\udfff" for letter in value):
        raise _Bad
    return value, end


def _skip(text: str, at: int) -> int:
    """Where the white space from `at` ends. `_Hopeless` at the end of the text."""
    match = _SPACE.match(text, at)
    end = match.end() if match else at
    if end >= len(text):
        raise _Hopeless(_UNFINISHED)
    return end
