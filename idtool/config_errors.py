"""What pydantic found, told to a person: one sentence per place, with the keys and values that would be right."""

from __future__ import annotations

import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, NamedTuple, Union

from pydantic import BaseModel, ValidationError

from idtool.registry import nearest
from idtool.yaml_source import KeyPath, unknown_key


class Finding(NamedTuple):
    """A place in the data (relative to what was validated) and what is wrong there."""

    path: KeyPath
    text: str
    about_key: str | None = None
    """The unknown or missing key below `path`, when that is the matter."""


EXPECTED = {
    "int": "a whole number",
    "float": "a number",
    "string": "text",
    "bool": "true or false",
    "list": "a list",
    "tuple": "a list",
    "set": "a list",
    "frozen_set": "a list",
    "dict": "keys with values",
    "model": "keys with values",
    "mapping": "keys with values",
    "none": "null",
    "finite": "a finite number",
}


def findings(error: ValidationError, model: type[BaseModel], data: Any) -> list[Finding]:
    """One finding per place; alternatives of a union are joined as `expected a number or null`."""
    found: list[Finding] = []
    expected: dict[KeyPath, list[str]] = {}
    seen: dict[KeyPath, Any] = {}
    for item in error.errors(include_url=False):
        path, allowed = _place(item["loc"], model, data)
        kind = item["type"]
        if kind == "extra_forbidden":
            key = str(path[-1])
            found.append(Finding(path[:-1], unknown_key(key, allowed), key))
        elif kind == "missing":
            key = str(item["loc"][-1])
            found.append(Finding(path, f"{key!r} is missing.", key))
        elif (what := _expectation(kind, item.get("ctx", {}))) is not None:
            alternatives = expected.setdefault(path, [])
            seen[path] = item["input"]
            if what not in alternatives:
                alternatives.append(what)
        else:
            text = item["msg"].removeprefix("Value error, ").removeprefix("Assertion failed, ")
            found.append(Finding(path, f"{text[:1].lower()}{text[1:].rstrip('.')}."))
    for path, alternatives in expected.items():
        # An alternative of a union that got further than a mere type error has said more already.
        if not any(f.path[: len(path)] == path for f in found):
            found.append(Finding(path, _mismatch(alternatives, seen[path])))
    return found


def _mismatch(alternatives: list[str], value: Any) -> str:
    text = f"expected {' or '.join(alternatives)}, found {shown(value)}."
    names = [word.strip("'") for what in alternatives for word in what.replace(" or ", ", ").split(", ") if "'" in word]
    guess = nearest(value, names) if isinstance(value, str) and names else None
    return f"{text} Did you mean {guess!r}?" if guess else text


def shown(value: Any) -> str:
    """A value as it would be written in YAML, shortened."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Mapping):
        return f"keys ({', '.join(map(str, value))})" if value else "no keys"
    if isinstance(value, list | tuple):
        return f"a list of {len(value)}"
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _expectation(kind: str, ctx: Mapping[str, Any]) -> str | None:
    """What pydantic's error type says should have stood there; None when its own message is better."""
    bounds = {
        "greater_than": "a number above {gt:g}",
        "greater_than_equal": "a number of at least {ge:g}",
        "less_than": "a number below {lt:g}",
        "less_than_equal": "a number of at most {le:g}",
        "literal_error": "{expected}",
        "enum": "{expected}",
        "too_short": "at least {min_length} of them",
        "too_long": "at most {max_length} of them",
        "string_too_short": "text of at least {min_length} characters",
        "string_pattern_mismatch": "text like {pattern}",
    }
    if kind in bounds:
        return bounds[kind].format(**ctx)
    if kind == "int_from_float":
        return EXPECTED["int"]
    for ending in ("_type", "_parsing", "_attributes_type", "_number"):
        if kind.endswith(ending) and kind.removesuffix(ending) in EXPECTED:
            return EXPECTED[kind.removesuffix(ending)]
    return None


def _place(loc: Sequence[str | int], model: type[BaseModel], data: Any) -> tuple[KeyPath, list[str]]:
    """The key path in the data that pydantic's location means (which also names union members and validators),
    and the keys that the innermost model there knows."""
    path: list[str | int] = []
    types_here: list[Any] = [model]
    keys: list[str] = []
    for depth, part in enumerate(loc):
        keys = [key for kind in types_here for key in _keys(kind)] or keys
        inside = [child for kind in types_here for child in _children(kind, part)]
        named = [kind for kind in types_here if getattr(kind, "__name__", None) == part]
        types_here = inside or named or types_here
        present = (isinstance(data, Mapping) and part in data) or (
            isinstance(data, list) and isinstance(part, int) and part < len(data)
        )
        if present:
            path.append(part)
            data = data[part]
        elif depth == len(loc) - 1 and not inside and not named and isinstance(part, str):
            break
    return tuple(path), sorted(set(keys))


def _flat(annotation: Any) -> Iterator[Any]:
    """The plain types inside Annotated, Optional and Union."""
    origin = typing.get_origin(annotation)
    if origin is Annotated:
        yield from _flat(typing.get_args(annotation)[0])
    elif origin in (Union, types.UnionType):
        for option in typing.get_args(annotation):
            yield from _flat(option)
    else:
        yield annotation


def _is_model(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseModel)


def _keys(kind: Any) -> list[str]:
    return [field.alias or name for name, field in kind.model_fields.items()] if _is_model(kind) else []


def _children(kind: Any, part: str | int) -> list[Any]:
    """The types that may stand at key or index `part` of a value of type `kind`."""
    if _is_model(kind):
        for name, field in kind.model_fields.items():
            if part in (name, field.alias):
                return list(_flat(field.annotation))
        extra = typing.get_type_hints(kind, include_extras=True).get("__pydantic_extra__")
        if kind.model_config.get("extra") == "allow" and extra is not None:
            return [child for option in _flat(extra) for child in _children(option, part)]
        return []
    arguments = typing.get_args(kind)
    origin = typing.get_origin(kind)
    if arguments and isinstance(origin, type) and issubclass(origin, Mapping):
        return list(_flat(arguments[-1]))
    if arguments and isinstance(origin, type) and issubclass(origin, Sequence) and isinstance(part, int):
        return list(_flat(arguments[0]))
    return []
