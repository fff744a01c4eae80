"""What the rules make: pairs of rows, and groups that gave none, each with its reason."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

GENERATED, PHOTO, PERTURBED = "generated", "photo", "perturbed"
"""Where an image of a pair comes from."""


@dataclass(frozen=True)
class Pair:
    """A chosen and a rejected image of one group. Numbers are rows of `Candidates`."""

    group: int
    chosen: int
    rejected: int
    margin: float
    """How much better the chosen one is, in the unit of the rule; see there."""
    reason: str
    """Why they are a pair, in words."""
    source: str = f"{GENERATED}/{GENERATED}"
    """Where the chosen and the rejected image come from."""
    flags: tuple[str, ...] = ()
    """What a reviewer should know, such as `reference_crop`."""


@dataclass(frozen=True)
class Dropped:
    """A group, or one kind of pairs of it, that gave no pair."""

    group: int
    reason: str
    """Machine-readable, such as `gap.quantile`."""
    message: str
    value: float | None = None
    threshold: str | None = None
    chosen: int | None = None
    rejected: int | None = None
    source: str | None = None


Found = Iterator[Pair | Dropped]
