"""Requests by the photos of others: an identity image asks for what a target image of somebody else shows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from idtool.curate.dpo.columns import TERMS
from idtool.curate.dpo.requests import Asked, Portrait, turned_down
from idtool.engine.step import TableContext
from idtool.engine.table import Table

if TYPE_CHECKING:
    from idtool.curate.dpo.requests import RequestsSettings


@dataclass(frozen=True)
class _Photo:
    portrait: Portrait
    identity: str
    prompt: str
    female: bool | None


def targets(table: Table, settings: RequestsSettings, context: TableContext) -> Iterator[Asked | dict[str, Any]]:
    """`settings.count` requests, or as many as there are pairs of different people: every person about equally often,
    with the portraits and the targets that were taken least so far. Photos without a prompt are turned down, and all of
    them where there is one person only."""
    photos: list[_Photo] = []
    wanted = (*TERMS.names, "female") if settings.same_gender else TERMS.names
    names = [name for name in wanted if name in table.schema.names]
    for batch in table.batches(["id", "kind", "media", "identity", settings.prompt, *names], kept_only=True):
        for row in batch.to_pylist():
            if row["kind"] != "image":
                continue
            if not row[settings.prompt]:
                yield turned_down(row, "no_prompt", f"column {settings.prompt!r} is empty")
                continue
            portrait = Portrait(row["id"], row["media"], {name: row.get(name) for name in TERMS.names})
            female = None if row.get("female") is None else row["female"] >= 0.5
            photos.append(_Photo(portrait, row["identity"], row[settings.prompt], female))
    people: dict[str, list[int]] = {}
    for number, photo in enumerate(photos):
        people.setdefault(photo.identity, []).append(number)
    made = 0
    if len(people) > 1:
        for one in _drawn(photos, people, settings.count, np.random.default_rng([context.seed, 4343])):
            made += 1
            yield one
    else:
        for photo in photos:
            told = {"id": photo.portrait.id, "media": photo.portrait.media, "identity": photo.identity, "kind": "image"}
            yield turned_down(
                told | dict(photo.portrait.terms), "alone", "there is nobody else whose photo could be asked for"
            )
    context.statistics.update(requests=made, asked=settings.count, people=len(people), seeds=settings.seeds)


def _drawn(
    photos: list[_Photo], people: Mapping[str, list[int]], count: int, draw: np.random.Generator
) -> Iterator[Asked]:
    """Round after round, each person once, until `count` are made or nobody has a pair left."""
    used_as = {"reference": np.zeros(len(photos), np.int64), "target": np.zeros(len(photos), np.int64)}
    taken: set[tuple[int, str]] = set()
    tie = draw.random(len(photos))
    left = sorted(people)
    made = 0
    while left and made < count:
        stay = []
        for name in draw.permutation(left).tolist():
            pair = _pair(photos, people, name, used_as, taken, tie) if made < count else None
            if pair is None:
                continue
            stay.append(name)
            made += 1
            reference, target = pair
            taken.add((reference, photos[target].prompt))
            used_as["reference"][reference] += 1
            used_as["target"][target] += 1
            yield _asked(photos[reference], photos[target])
        left = sorted(stay)


def _pair(
    photos: list[_Photo],
    people: Mapping[str, list[int]],
    name: str,
    used_as: Mapping[str, Any],
    taken: set[tuple[int, str]],
    tie: Any,
) -> tuple[int, int] | None:
    """The least used reference of a person with the least used target of somebody else that it was not paired with."""
    own = sorted(people[name], key=lambda k: (used_as["reference"][k], tie[k]))
    others = np.lexsort((tie, used_as["target"]))
    for reference in own:
        for target in others.tolist():
            other = photos[target]
            if other.identity == name or (reference, other.prompt) in taken:
                continue
            if None in (other.female, photos[reference].female) or other.female == photos[reference].female:
                return reference, target
    return None


def _asked(reference: _Photo, target: _Photo) -> Asked:
    return Asked(
        target.prompt, (reference.portrait,), (reference.identity,), target.portrait.id, dict(target.portrait.terms)
    )
