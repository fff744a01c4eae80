"""What a suite's types cannot say: that placeholders are filled, factors are used, cells come out even."""

from __future__ import annotations

from collections.abc import Iterator
from math import prod

from idtool.evaluate.suite_model import Suite
from idtool.evaluate.templates import ATTRIBUTES, COUNT, PROMPT, Gap, gaps, whose
from idtool.registry import did_you_mean
from idtool.yaml_source import KeyPath

Told = tuple[KeyPath, str]
"""Where, and a sentence."""


def problems(suite: Suite) -> Iterator[Told]:
    """All that is wrong with a suite whose values are well-formed."""
    yield from _people(suite)
    yield from _prompts(suite)
    yield from _draw(suite)
    for axis, family in suite.primary.model_dump().items():
        if family not in suite.metrics:
            yield ("primary", axis), f"{family!r} is none of the metrics. {did_you_mean(family, suite.metrics)}"


def _people(suite: Suite) -> Iterator[Told]:
    if suite.groups and (min(suite.groups) < 1 or max(suite.groups) != suite.people):
        yield ("groups",), f"sizes from 1 to people ({suite.people}), which the largest must be."
    if len(suite.sizes) > 1 and suite.factors:
        yield ("factors",), "factors are for groups of one size: a template names every person."
    cells = prod(len(levels) for levels in suite.identities.cells.values())
    count = suite.identities.count
    if suite.identities.cells and count and count % cells:
        yield ("identities", "count"), f"{count} people cannot be spread evenly over {cells} cells."
    for name, levels in suite.identities.cells.items():
        words = [word.casefold() for level, more in levels.items() for word in {level, *more.labels}]
        if twice := sorted({word for word in words if words.count(word) > 1}):
            yield ("identities", "cells", name), f"{twice[0]!r} stands for two values."
    if suite.identities.attributes == "measured" and suite.subjects == "any":
        yield ("identities", "attributes"), "age and gender are measured of faces; this suite has any subjects."


def _prompts(suite: Suite) -> Iterator[Told]:
    if bool(suite.prompts) == (suite.captions is not None):
        yield ("prompts",), "give either prompts, or captions in their place."
    if suite.captions and (suite.people > 1 or suite.factors or suite.draw.kind != "grid"):
        yield ("captions",), "captions of others are for one person, without factors, draw: grid."
    texts: dict[tuple[str, str | None], int] = {}
    for number, prompt in enumerate(suite.prompts):
        first = texts.setdefault((prompt.text, prompt.template), number)
        if first != number:
            yield ("prompts", number), f"the same prompt as number {first + 1}."
        if both := sorted(set(prompt.targets) & set(suite.factors)):
            yield ("prompts", number, "targets", both[0]), f"{both[0]!r} is a factor of the suite already."
        for name, value in prompt.targets.items():
            if not isinstance(value, str) and len(value) != suite.people:
                yield ("prompts", number, "targets", name), f"{len(value)} values for {suite.people} people."
        yield from _text(suite, ("prompts", number, "text"), prompt.text, inner=True)
        if prompt.template is not None:
            yield from _text(suite, ("prompts", number, "template"), prompt.template)
            yield from _factors(suite, ("prompts", number, "template"), prompt.template, prompt.text)
    yield from _text(suite, ("template",), suite.template)
    plain = [prompt.text for prompt in suite.prompts if prompt.template is None]
    yield from dict.fromkeys(told for text in plain for told in _factors(suite, ("template",), suite.template, text))


def _text(suite: Suite, path: KeyPath, text: str, *, inner: bool = False) -> Iterator[Told]:
    """Problems of the placeholders of a prompt (`inner`) or of a template."""
    try:
        found = gaps(text)
    except ValueError as error:
        yield path, f"{error}."
        return
    if not inner and whose(found, PROMPT) != {None}:
        yield path, "the prompt belongs into a template once, as {prompt}."
    known = [*ATTRIBUTES, *suite.factors, *suite.identities.cells, *suite.identities.defaults, COUNT]
    for gap in dict.fromkeys(found):
        if gap.name == PROMPT and not inner:
            continue
        if gap.name not in known:
            yield path, f"unknown placeholder {gap}. {did_you_mean(gap.name, list(dict.fromkeys(known)), 'Known')}"
        elif why := _person(suite, gap):
            yield path, why


def _person(suite: Suite, gap: Gap) -> str | None:
    """What is wrong with whom a placeholder is about."""
    if gap.name == COUNT:
        return None if gap.person is None else f"{gap} is about nobody: write {{count}}."
    if gap.person is None:
        return None if suite.people == 1 else f"{gap} does not say whose: write {{{gap.name}_1}} and so on."
    if not 1 <= gap.person <= min(suite.sizes):
        return f"{gap} is about a person that some images do not have (they show {min(suite.sizes)})."
    return None


def _factors(suite: Suite, path: KeyPath, template: str, text: str) -> Iterator[Told]:
    """A factor that no prompt says would only repeat requests."""
    try:
        found = [*gaps(template), *gaps(text)]
    except ValueError:
        return  # told of already
    if len(suite.sizes) > 1:
        return
    for name in suite.factors:
        if {person or 1 for person in whose(found, name)} != set(range(1, suite.people + 1)):
            missing = f"{{{name}}}" if suite.people == 1 else f"{{{name}_1}} to {{{name}_{suite.people}}}"
            yield path, f"the factor {name!r} is not said: {missing} must be there, else requests repeat."


def _draw(suite: Suite) -> Iterator[Told]:
    if (suite.draw.kind == "sample") != (suite.draw.n is not None):
        yield ("draw",), "a sample says how many, as {kind: sample, n: 20}; a grid does not."
    elif suite.draw.n is not None:
        every = len(suite.prompts) * prod(len(levels) for levels in suite.factors.values())
        if suite.draw.n > every:
            yield ("draw", "n"), f"there are only {every} combinations of a prompt and one person's factors."
    if len(set(suite.seeds)) != len(suite.seeds):
        yield ("seeds",), "a seed is given twice."
