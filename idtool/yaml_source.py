"""YAML with a memory of where everything stood: values by the safe loader, and line and column of every key path."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import yaml

from idtool.errors import UsageError
from idtool.registry import did_you_mean

KeyPath = tuple[str | int, ...]
MAX_NODES = 100_000
"""A file whose aliases unfold to more than this is refused."""
PLAIN_TAGS = ("tag:yaml.org,2002:map", "tag:yaml.org,2002:seq")


class Mark(NamedTuple):
    """A place in the file, counted from 1."""

    line: int
    column: int


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with a file: where, and a sentence."""

    where: str
    text: str

    def __str__(self) -> str:
        return f"{self.where}: {self.text}"


@dataclass
class Source:
    """A parsed YAML file."""

    name: str
    """How messages call it."""
    data: Any = None
    marks: dict[KeyPath, Mark] = field(default_factory=dict)
    """Where each value's key (or list dash) stands."""
    problems: list[Problem] = field(default_factory=list)

    def where(self, path: KeyPath) -> str:
        """`pipelines.yaml:42` of the nearest enclosing thing that the file has."""
        for length in range(len(path), -1, -1):
            if path[:length] in self.marks:
                return f"{self.name}:{self.marks[path[:length]].line}"
        return self.name


def dotted(path: KeyPath) -> str:
    """`recipes.dmid.steps[3].resolution`."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def parse(text: str, name: str) -> Source:
    """The file's content with its places. Duplicate and non-text keys are listed in `problems`; text that is not
    YAML at all is a UsageError with line and column."""
    source = Source(name)
    loader = yaml.SafeLoader(text)
    try:
        node = loader.get_single_node()
        if node is not None:
            source.marks[()] = Mark(node.start_mark.line + 1, node.start_mark.column + 1)
            source.data = _Reader(loader, source).value(node, ())
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f"{name}:{mark.line + 1}:{mark.column + 1}" if mark else name
        why = " ".join(part for part in (error.problem, error.context) if part)
        raise UsageError(f"{place}: not valid YAML: {why}.", "Check indentation, colons and quotes there.") from error
    except yaml.YAMLError as error:
        raise UsageError(f"{name}: not valid YAML: {error}.", "Is it a text file in UTF-8?") from error
    except RecursionError:
        raise UsageError(f"{name}: not valid YAML: nested too deeply.") from None
    finally:
        loader.dispose()
    return source


class _Reader:
    """Turns nodes into plain values, noting places on the way."""

    def __init__(self, loader: yaml.SafeLoader, source: Source) -> None:
        self.loader, self.source = loader, source
        self.open: list[yaml.Node] = []
        self.count = 0

    def value(self, node: yaml.Node, path: KeyPath) -> Any:
        self.count += 1
        if self.count > MAX_NODES or any(node is parent for parent in self.open):
            raise yaml.MarkedYAMLError(None, None, "aliases unfold without end", node.start_mark)
        self.open.append(node)
        try:
            if not isinstance(node, yaml.ScalarNode) and node.tag not in PLAIN_TAGS:
                raise yaml.MarkedYAMLError(None, None, f"the tag {node.tag} is not allowed", node.start_mark)
            if isinstance(node, yaml.MappingNode):
                return {key: self.value(child, (*path, key)) for key, child in self._pairs(node, path)}
            if isinstance(node, yaml.SequenceNode):
                items = []
                for number, child in enumerate(node.value):
                    self._mark((*path, number), child)
                    items.append(self.value(child, (*path, number)))
                return items
            try:
                return self.loader.construct_object(node)
            except ValueError as error:  # looks like a date or a number and is none, such as 2024-13-45
                raise yaml.MarkedYAMLError(None, None, f"{node.value!r}: {error}", node.start_mark) from error
        finally:
            self.open.pop()

    def _pairs(self, node: yaml.MappingNode, path: KeyPath) -> Iterator[tuple[str, yaml.Node]]:
        seen: dict[str, int] = {}
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                continue
            key, line = self._key(key_node, path), key_node.start_mark.line + 1
            if key in seen:
                here = f"{self.source.name}:{line}"
                text = f"{dotted((*path, key))}: given twice, first in line {seen[key]}. Remove one."
                self.source.problems.append(Problem(here, text))
            seen.setdefault(key, line)
        self.loader.flatten_mapping(node)
        for key_node, child in node.value:
            key = self._key(key_node, path)
            self._mark((*path, key), key_node)
            yield key, child

    def _key(self, node: yaml.Node, path: KeyPath) -> str:
        # `no:` and `1:` are keys that YAML would read as a boolean and a number; a name is what was meant.
        if not isinstance(node, yaml.ScalarNode):
            raise yaml.MarkedYAMLError(None, None, "a key must be a plain name", node.start_mark)
        return str(node.value)

    def _mark(self, path: KeyPath, node: yaml.Node) -> None:
        self.source.marks[path] = Mark(node.start_mark.line + 1, node.start_mark.column + 1)


def scalar(text: str) -> Any:
    """A value as YAML would read it on one line: `512`, `true`, `[a, b]`, `null`. ValueError when it is not YAML."""
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(f"not a YAML value: {text!r}") from error


def unknown_key(key: str, expected: list[str]) -> str:
    """`unknown key 'mim'. Did you mean 'min'? Expected one of: max, min.`"""
    if not expected:
        return f"unknown key {key!r}. No keys are expected here."
    return f"unknown key {key!r}. {did_you_mean(key, expected, 'Expected one of')}"


def line_of(problem: Problem) -> int:
    """The line that a problem stands in; 0 where it has none."""
    number = problem.where.rpartition(":")[2]
    return int(number) if number.isdigit() else 0
