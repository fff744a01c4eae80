"""From a suite and people to requests: who is shown together, with which prompt, in which seeds.

Every draw is a hash of the seed and of labels (`idtool.evaluate.cells`), so that the same people get the same prompts
on every machine. Requests are the same for all methods.
"""

from __future__ import annotations

import json
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from math import lcm

from idtool.errors import MissingError, UsageError
from idtool.evaluate.cells import cell_of, choose, rank, shuffled
from idtool.evaluate.identities import Identity
from idtool.evaluate.prompting import Writer, marked, rewritten
from idtool.evaluate.suite_model import Prompt, Suite
from idtool.evaluate.templates import ATTRIBUTES, COUNT, PROMPT, fill, in_words
from idtool.generate.requests import Wish

Values = tuple[str, ...]
"""A value for each factor of the suite, in their order."""
MIXED = "mixed"
"""Slice of a group whose people differ."""


@dataclass(frozen=True)
class Scene:
    """What a group of people is shown doing."""

    prompt: Prompt
    values: tuple[Values, ...]
    """For each person."""
    literal: bool = False
    """A caption: braces in it are no placeholders."""


def wishes(suite: Suite, identities: Sequence[Identity], seed: int = 0, *, writer: Writer | None = None) -> list[Wish]:
    """The requests of a suite for the people that it draws from `identities`. `writer` writes dynamic prompts.

    UsageError when people, captions or labels are too few; MissingError when the suite wants dynamic prompts and there
    is nobody to write them.
    """
    found: list[Wish] = []
    for group, scene in _all_scenes(suite, identities, seed):
        found += _of_scene(suite, group, scene, seed)
    if not found:
        raise UsageError(f"Suite {suite.name} has no prompt for any of these people.", "See `only` of its prompts.")
    if suite.prompting == "static":
        return found
    if writer is None:
        raise MissingError(
            f"Suite {suite.name} has prompting: {suite.prompting}, and there is no captioner to write prompts.",
            "Choose a profile that binds role captioner, or set prompting: static in a copy of the suite.",
        )
    written = rewritten(found, writer)
    if suite.prompting == "dynamic":
        return written
    return [one for k, dynamic in enumerate(written) for one in (marked(found[k], "static"), dynamic)]


def requests_per_method(suite: Suite, identities: Sequence[Identity] | None = None, seed: int = 0) -> int | None:
    """How many images a method is asked for; without `identities` by the suite's own count of people, None where that
    says too little."""
    if identities is None:
        return suite.requests()
    return suite.repeats * sum(1 for _ in _all_scenes(suite, identities, seed))


def _all_scenes(suite: Suite, identities: Sequence[Identity], seed: int) -> Iterator[tuple[Sequence[Identity], Scene]]:
    chosen = choose(suite, identities, seed)
    captions = {} if suite.captions is None else captions_for(suite, chosen, identities, seed)
    for group in groups(suite, chosen):
        if captions:
            yield group, Scene(Prompt(text=captions[group[0].label]), ((),), literal=True)
        else:
            yield from ((group, scene) for scene in scenes(suite, [one.label for one in group], seed))


def groups(suite: Suite, chosen: Sequence[Identity]) -> Iterator[list[Identity]]:
    """The people of each image, from left to right. Nobody is in two groups, so that groups are independent."""
    start = 0
    for size in suite.group_sizes(len(chosen)):
        yield list(chosen[start : start + size])
        start += size


def scenes(suite: Suite, labels: Sequence[str], seed: int) -> Iterator[Scene]:
    """What a group of people is asked to be shown in: all of the grid, or the sample that is drawn for them."""
    prompts = [one for one in suite.prompts if not one.only or set(labels) <= set(one.only)]
    values: list[Values] = list(product(*suite.factors.values()))
    if suite.draw.n is None:
        for prompt, each in product(prompts, product(values, repeat=len(labels))):
            yield Scene(prompt, each)
        return
    order = shuffled(range(len(prompts)), seed, *labels, "prompts")
    own = [shuffled(values, seed, *labels, "values", person) for person in range(len(labels))]
    for k in range(min(suite.draw.n, len(prompts) * len(values))):
        # Both run round, and after a whole turn of the pair the second is one ahead: every pair comes once before any
        # comes twice, and every prompt and every value as often as any other, give or take one.
        turn = k // lcm(len(prompts), len(values))
        yield Scene(prompts[order[k % len(prompts)]], tuple(one[(k + turn) % len(values)] for one in own))


def _of_scene(suite: Suite, group: Sequence[Identity], scene: Scene, seed: int) -> Iterator[Wish]:
    targets = _targets(suite, scene, len(group))
    slices = _slices(suite, group, scene, targets)
    extra = json.dumps({"slices": slices, "targets": targets}, sort_keys=True, ensure_ascii=False)
    prompt = _text(suite, group, scene)
    for number in range(suite.identities.per_person):
        for own in suite.seeds:
            yield Wish(
                prompt=prompt,
                references=tuple(one.references[number] for one in group),
                people=tuple(one.label for one in group),
                seed=seed + own,
                width=suite.size.width if suite.size else None,
                height=suite.size.height if suite.size else None,
                extra=extra,
            )


def _text(suite: Suite, group: Sequence[Identity], scene: Scene) -> str:
    """The prompt with everything filled in."""
    people = [
        {
            **suite.identities.defaults,
            **one.attributes,
            **{name: suite.factors[name][value] for name, value in zip(suite.factors, values, strict=True)},
        }
        for one, values in zip(group, scene.values, strict=True)
    ]
    shared = {COUNT: in_words(len(group))}
    try:
        shared[PROMPT] = scene.prompt.text if scene.literal else fill(scene.prompt.text, people, shared)
        return fill(scene.prompt.template or suite.template, people, shared)
    except UsageError as error:
        who = " and ".join(one.label for one in group)
        raise UsageError(f"Suite {suite.name}, {who}: {error.message}", error.hint) from error


def _targets(suite: Suite, scene: Scene, people: int) -> dict[str, list[str]]:
    """What each person is to show."""
    found = {name: [values[k] for values in scene.values] for k, name in enumerate(suite.factors)}
    for name, value in scene.prompt.targets.items():
        found[name] = [value] * people if isinstance(value, str) else list(value)
    return found


def _slices(
    suite: Suite, group: Sequence[Identity], scene: Scene, targets: Mapping[str, Sequence[str]]
) -> dict[str, str]:
    """What the request counts for in reports."""
    found: dict[str, str] = {}
    if scene.prompt.category:
        found["category"] = scene.prompt.category
    if len(suite.sizes) > 1:
        found["people"] = str(len(group))
    for name, values in targets.items():
        found[name] = _one(values)
    for name in dict.fromkeys((*suite.identities.cells, *ATTRIBUTES)):
        labels = [_attribute(suite, one, name) for one in group]
        if all(labels):
            found[name] = _one(labels)
    return found


def _attribute(suite: Suite, person: Identity, name: str) -> str:
    """The value that a person counts for: that of the cell, or else the label, unless it is a number."""
    if name in suite.identities.cells:
        cell = cell_of(person, suite)
        return "" if cell is None else cell[list(suite.identities.cells).index(name)]
    label = person.attributes.get(name, "")
    return "" if label.replace(".", "", 1).isdigit() else label


def _one(values: Sequence[str]) -> str:
    return values[0] if len(set(values)) == 1 else MIXED


def captions_for(
    suite: Suite, chosen: Sequence[Identity], everybody: Sequence[Identity], seed: int = 0
) -> dict[str, str]:
    """For each of `chosen` the caption of a picture of somebody else of `everybody`: of the next in the draw, round the
    end, who has one and agrees in what must agree. So each caption is used about once, and no prompt describes the
    person that it is for. UsageError when there is nobody."""
    same = suite.captions.same if suite.captions else ()

    def kind(one: Identity) -> Values:
        return tuple(_attribute(suite, one, name) or one.attributes.get(name, "").casefold() for name in same)

    rings: dict[Values, list[tuple[str, Identity]]] = {}
    for one in everybody:
        if one.captions:
            rings.setdefault(kind(one), []).append((rank(seed, one.label), one))
    for ring in rings.values():
        ring.sort(key=lambda placed: placed[0])
    found = {}
    for one in chosen:
        ring = rings.get(kind(one), [])
        start = bisect_right(ring, rank(seed, one.label), key=lambda placed: placed[0])
        donor = next((other for _, other in (*ring[start:], *ring[:start]) if other.label != one.label), None)
        if donor is None:
            told = ", ".join(f"{name}: {value or 'not said'}" for name, value in zip(same, kind(one), strict=True))
            raise UsageError(
                f"Suite {suite.name}: there is no captioned picture of anybody but {one.label} ({told or 'anybody'}).",
                "Add a column `caption` to the manifest, or give a curated run with captions.",
            )
        found[one.label] = donor.captions[min(donor.captions)]
    return found
