"""Who takes part: the same number of people in every cell, drawn by a hash of seed and label.

The draw depends on nothing else: not on the order or the place of files, nor on who else is there. Somebody who is
taken out is replaced by the next in line of the same cell; the others stay.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import product
from typing import TypeVar

from idtool.errors import UsageError
from idtool.evaluate.identities import Identity
from idtool.evaluate.suite_model import Level, Suite

T = TypeVar("T")
Cell = tuple[str, ...]
"""A value for each attribute of the cells, in their order."""
SHOWN = 12


def rank(seed: int, *parts: object) -> str:
    """What to sort by for an order that looks random and is the same everywhere."""
    return hashlib.sha256("\0".join(map(str, (seed, *parts))).encode("utf-8", "surrogatepass")).hexdigest()


def shuffled(items: Sequence[T], seed: int, *parts: object) -> list[T]:
    """The items in an order that seed, parts and the items themselves decide."""
    return sorted(items, key=lambda item: rank(seed, *parts, item))


def level_of(value: str, levels: Mapping[str, Level]) -> str | None:
    """Which value of an attribute a label means; None: none of them."""
    word = value.strip().casefold()
    for name, level in levels.items():
        if word in {one.casefold() for one in (name, *level.labels)}:
            return name
    try:
        number = float(word)
    except ValueError:
        return None
    for name, level in levels.items():
        given = (level.min, level.max) != (None, None)
        if given and (level.min is None or number >= level.min) and (level.max is None or number < level.max):
            return name
    return None


def cell_of(person: Identity, suite: Suite) -> Cell | None:
    """The person's cell; None where a label is missing or means no value of the suite."""
    found = [level_of(person.attributes.get(name, ""), levels) for name, levels in suite.identities.cells.items()]
    return None if None in found else tuple(value for value in found if value is not None)


def choose(suite: Suite, people: Sequence[Identity], seed: int = 0) -> list[Identity]:
    """The people of the suite that take part, in the order of the draw. UsageError when there are too few, with every
    cell that lacks somebody and how many, and when two people have one label."""
    twice = [label for label, count in Counter(one.label for one in people).items() if count > 1]
    if twice:
        raise UsageError(f"Two people are called {sorted(twice)[0]!r}.", "Give every person one label.")
    wanted = suite.identities
    able = [one for one in people if len(one.references) >= wanted.per_person]
    ranked = sorted(able, key=lambda one: rank(seed, one.label))
    few = f"; {len(people) - len(able)} have fewer than {wanted.per_person} pictures" if len(able) < len(people) else ""
    if wanted.cells:
        return _balanced(suite, ranked, few, seed)
    if wanted.count is not None and len(ranked) < wanted.count:
        raise _too_few(suite, f"needs {wanted.count} people and got {len(ranked)}{few}")
    chosen = ranked[: wanted.count]
    if not suite.group_sizes(len(chosen)):
        raise _too_few(suite, f"shows {max(suite.sizes)} people in one image and got {len(chosen)}{few}")
    return chosen


def _balanced(suite: Suite, ranked: Sequence[Identity], few: str, seed: int) -> list[Identity]:
    levels = suite.identities.cells
    cells: dict[Cell, list[Identity]] = {cell: [] for cell in product(*levels.values())}
    outside = 0
    for one in ranked:
        cell = cell_of(one, suite)
        if cell is None:
            outside += 1
        else:
            cells[cell].append(one)
    count = suite.identities.count
    if count is not None and count % len(cells):
        raise UsageError(
            f"Suite {suite.name}: {count} people cannot be spread evenly over {len(cells)} cells.",
            f"Ask for a multiple of {len(cells)}.",
        )
    each = max(1, min(map(len, cells.values()))) if count is None else count // len(cells)
    lacking = {cell: len(there) for cell, there in cells.items() if len(there) < each}
    if lacking:
        told = [f"needs {each} people in each of {len(cells)} cells. Too few in:"]
        told += [f"{_named(cell, suite)}: {n} of {each}, {each - n} missing" for cell, n in lacking.items()][:SHOWN]
        told += [f"and {len(lacking) - SHOWN} more cells"] if len(lacking) > SHOWN else []
        rest = f"; {outside} have no label for {', '.join(levels)} that the suite knows" if outside else ""
        raise _too_few(suite, "\n  ".join(told) + rest + few)
    return sorted((one for there in cells.values() for one in there[:each]), key=lambda one: rank(seed, one.label))


def _named(cell: Cell, suite: Suite) -> str:
    return ", ".join(f"{name}={value}" for name, value in zip(suite.identities.cells, cell, strict=True))


def _too_few(suite: Suite, what: str) -> UsageError:
    return UsageError(
        f"Suite {suite.name} {what}.",
        "Give more people; or lower identities.count in a copy of the suite (null: as many as there are).",
    )
