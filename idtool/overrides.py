"""`--set step.key…=value`: changes to a recipe's steps from the command line."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from idtool.engine.step import Step
from idtool.errors import UsageError
from idtool.registry import Registry, did_you_mean
from idtool.yaml_source import KeyPath, scalar, unknown_key

HOW = "Write --set STEP.KEY=VALUE, as in --set gate.resolution.short_side.min=512."


@dataclass(frozen=True)
class Override:
    """One `--set`, and the place that it wrote."""

    text: str
    index: int
    path: KeyPath

    def wrote(self, index: int, path: KeyPath) -> bool:
        """Whether the value at `path` of step `index` lies in, or encloses, what this override wrote."""
        length = min(len(path), len(self.path))
        return index == self.index and path[:length] == self.path[:length]


def step_names(kinds: Sequence[str]) -> list[str]:
    """`gate`, `gate.2`, … : each step's name in a run and in --set."""
    count: Counter[str] = Counter()
    names = []
    for kind in kinds:
        count[kind] += 1
        names.append(kind if count[kind] == 1 else f"{kind}.{count[kind]}")
    return names


def apply_overrides(
    steps: Sequence[dict[str, Any]], sets: Collection[str], kinds: Registry[type[Step]]
) -> tuple[list[dict[str, Any]], list[Override]]:
    """The steps with every override applied, in order. Values are read as YAML. UsageError for a step that the recipe
    does not have, a key that it does not know, or text that is no `key=value`."""
    changed = copy.deepcopy(list(steps))
    overrides = []
    for text in sets:
        target, equals, value_text = text.partition("=")
        parts = target.strip().split(".")
        if not equals or len(parts) < 2 or not all(parts):
            raise UsageError(f"--set {text}: not of the form STEP.KEY=VALUE.", HOW)
        try:
            value = scalar(value_text)
        except ValueError as error:
            raise UsageError(
                f"--set {text}: {error}.", "Quote it for YAML, as in --set 'caption.by=\"x: y\"'."
            ) from None
        index, path = _find(parts, changed, kinds, text)
        _write(changed[index], path, value, text)
        overrides.append(Override(text, index, tuple(path)))
    return changed, overrides


def _find(
    parts: list[str], steps: list[dict[str, Any]], kinds: Registry[type[Step]], text: str
) -> tuple[int, list[str]]:
    """Which step is meant, and the keys inside it."""
    names = step_names([step["step"] for step in steps])
    if len(parts) > 1 and parts[1].isdigit():
        numbered = parts[0] if parts[1] == "1" else f"{parts[0]}.{parts[1]}"
        named, path = [numbered], parts[2:]
    else:
        named, path = [name for name in names if name.partition(".")[0] == parts[0]], parts[1:]
    if not named or named[0] not in names:
        asked = named[0] if named else parts[0]
        raise UsageError(f"--set {text}: the recipe has no step {asked!r}.", did_you_mean(asked, names, "It has"))
    if not path:
        raise UsageError(f"--set {text}: names no key of step {named[0]!r}.", HOW)
    # Several gates: the one that already has the key is meant, so `gate.face…` finds the gate called face.
    having = [name for name in named if path[0] in steps[names.index(name)]]
    if having:
        return names.index(having[0]), path
    known = {name: _known_keys(steps[names.index(name)], kinds) for name in named}
    open_ended = kinds.get(parts[0]).Settings.model_config.get("extra") == "allow"
    if not open_ended and path[0] not in known[named[0]]:
        raise UsageError(f"--set {text}: {parts[0]}: {unknown_key(path[0], known[named[0]])}")
    if open_ended and len(named) > 1:
        keys = [f"{name}.{key}" for name in named for key in known[name]]
        guess = did_you_mean(path[0], [key.rpartition(".")[2] for key in keys], "They have")
        raise UsageError(
            f"--set {text}: the recipe has {len(named)} steps {parts[0]!r} and none has {path[0]!r}.",
            f"{guess} To add it, name the step: {', '.join(named)}.",
        )
    return names.index(named[0]), path


def _known_keys(step: dict[str, Any], kinds: Registry[type[Step]]) -> list[str]:
    declared = kinds.get(step["step"]).Settings.model_fields
    return sorted({*declared, *(key for key in step if key != "step")})


def _write(step: dict[str, Any], path: list[str], value: Any, text: str) -> None:
    inner = step
    for number, key in enumerate(path[:-1]):
        below = inner.get(key)
        if below is None:
            below = inner[key] = {}
        elif not isinstance(below, dict):
            done = ".".join(path[: number + 1])
            raise UsageError(f"--set {text}: {done} is a single value, it has no key {path[number + 1]!r}.", HOW)
        inner = below
    inner[path[-1]] = value
