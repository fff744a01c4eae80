"""A suite: what a benchmark asks for, as data. People, prompts, how they are crossed, which metrics score the images.

load_suite("smoke")            a packaged one (idtool/benchmarks)
load_suite("mine.yaml")        a file; every mistake is told with its line
"""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from idtool import benchmarks
from idtool.config_errors import findings
from idtool.engine.fingerprint import fingerprint
from idtool.errors import UsageError
from idtool.evaluate.suite_checks import problems
from idtool.evaluate.suite_model import Suite
from idtool.registry import did_you_mean
from idtool.yaml_source import Problem, dotted, parse

__all__ = ["Suite", "describe", "load_suite", "suite_hash", "suite_names", "suite_text"]
MAX_PROBLEMS = 10
_NOT_HASHED = ("summary", "paper", "limits", "metrics", "primary", "baselines", "real")
"""Fields that no request depends on: a suite may gain a metric and stay the same benchmark."""


def suite_names() -> list[str]:
    """The packaged suites."""
    return benchmarks.names()


def load_suite(name_or_path: str) -> Suite:
    """A packaged suite by its name, or a file by its path (it ends in .yaml or .yml). UsageError lists every problem of
    the file with its line, at most 10."""
    text = suite_text(name_or_path)
    source = parse(text, name_or_path if name_or_path.endswith((".yaml", ".yml")) else f"{name_or_path}.yaml")
    if not isinstance(source.data, Mapping):
        raise UsageError(f"{source.where(())}: a suite is a file of keys such as name, summary, prompts.")
    found: list[Problem] = list(source.problems)
    try:
        suite = Suite.model_validate(source.data)
    except ValidationError as error:
        for path, told, key in findings(error, Suite, source.data):
            at = (*path, key) if key is not None else path
            found.append(Problem(source.where(at), f"{dotted(path)}: {told}" if path else told))
    else:
        found += [Problem(source.where(path), f"{dotted(path)}: {told}") for path, told in problems(suite)]
    if found:
        shown = [str(problem) for problem in found[:MAX_PROBLEMS]]
        more = [f"and {len(found) - MAX_PROBLEMS} more."] if len(found) > MAX_PROBLEMS else []
        raise UsageError("\n".join([*shown, *more]))
    return suite


def suite_text(name_or_path: str) -> str:
    """The file of a suite, comments and all: to copy and edit. UsageError when it cannot be read."""
    # A name never means a file of that name: what lies in the working directory must not change a benchmark.
    if not name_or_path.endswith((".yaml", ".yml")):
        if name_or_path not in suite_names():
            hint = did_you_mean(name_or_path, suite_names())
            raise UsageError(f"Unknown suite {name_or_path!r}.", f"{hint} A suite of your own ends in .yaml.")
        return benchmarks.text(name_or_path)
    try:
        return Path(name_or_path).read_text("utf-8")
    except OSError as error:
        raise UsageError(f"Cannot read {name_or_path}: {error.strerror}.", "Check the path.") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{name_or_path} is not UTF-8 text: {error.reason} at byte {error.start}.") from error


def suite_hash(suite: Suite) -> str:
    """24 hex digits of all that the requests depend on besides who the people are and the seed."""
    content = suite.model_dump(mode="json", exclude=set(_NOT_HASHED))
    content["identities"].pop("source")
    return fingerprint("suite", content)


def describe(suite: Suite) -> dict[str, Any]:
    """What `suites list|show` and a benchmark's manifest tell. JSON-able."""
    people = suite.identities
    categories: dict[str, int] = {}
    for prompt in suite.prompts:
        categories[prompt.category or "none"] = categories.get(prompt.category or "none", 0) + 1
    cells = prod(len(levels) for levels in people.cells.values()) if people.cells else 0
    return {
        "name": suite.name,
        "version": suite.version,
        "summary": suite.summary,
        "paper": suite.paper,
        "people": suite.people,
        "sizes": list(suite.sizes),
        "subjects": suite.subjects,
        "requests": suite.requests(),
        "identities": {
            **people.model_dump(mode="json", include={"source", "count", "per_person", "smallest_face", "attributes"}),
            "cells": {name: list(levels) for name, levels in people.cells.items()},
            "per_cell": people.count // cells if cells and people.count else None,
        },
        "prompts": len(suite.prompts),
        "categories": categories,
        "captions": None if suite.captions is None else {"of": "somebody else", "same": list(suite.captions.same)},
        "template": suite.template,
        "factors": {name: list(levels) for name, levels in suite.factors.items()},
        "draw": suite.draw.model_dump(mode="json"),
        "seeds": list(suite.seeds),
        "prompting": suite.prompting,
        "size": None if suite.size is None else suite.size.model_dump(mode="json"),
        "metrics": list(suite.metrics),
        "primary": suite.primary.model_dump(mode="json"),
        "baselines": list(suite.baselines),
        "real": suite.real,
        "limits": list(suite.limits),
    }
