"""How many rows of which sort are wanted, and which of those that are there are taken."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
UNKNOWN = "unknown"
"""What a value is called that is missing, or that no interval holds."""
NO_LIMIT = np.iinfo(np.int64).max


@dataclass
class Cells:
    """The sorts of rows by one or several columns (`20..30/female`), and how many rows of each may be taken."""

    columns: tuple[str, ...]
    labels: list[str]
    cell: Ints
    """(n,) index into `labels` for each row."""
    most: Ints
    """(cells,) rows of each; NO_LIMIT: any number."""
    wanted: bool
    """Whether so many are wanted (a share of a total); else they are no more than allowed (a cap)."""

    @property
    def supply(self) -> Ints:
        """(cells,) rows that are there."""
        return np.bincount(self.cell, minlength=len(self.labels)).astype(np.int64)

    def account(self, taken: npt.NDArray[np.bool_]) -> dict[str, dict[str, int]]:
        """Cell -> `supply`, `kept`, and `wanted` and `short` (rows that are missing) or `cap`."""
        supply, kept = self.supply, np.bincount(self.cell[taken], minlength=len(self.labels))
        told: dict[str, dict[str, int]] = {}
        for k, label in enumerate(self.labels):
            told[label] = {"supply": int(supply[k]), "kept": int(kept[k])}
            if self.most[k] != NO_LIMIT:
                told[label]["wanted" if self.wanted else "cap"] = int(self.most[k])
            if self.wanted and kept[k] < self.most[k]:
                told[label]["short"] = int(self.most[k] - kept[k])
        return told


def crossed(columns: Sequence[tuple[list[str], Ints]], named: Sequence[str] = ()) -> tuple[list[str], Ints]:
    """The cells of several columns, each given as its labels and the index of each row's: labels joined by `/`, and
    the cell of each row. `named`: cells that there shall be, even without a row."""
    cell = np.zeros(len(columns[0][1]), np.int64)
    for labels, codes in columns:
        cell = cell * len(labels) + codes
    joined = ["/".join(parts) for parts in itertools.product(*(labels for labels, _ in columns))]
    return [*joined, *(name for name in named if name not in set(joined))], cell


def shares_of(labels: Sequence[str], target: str | Mapping[str, float]) -> Floats:
    """Share of each cell: the same for all whose values are known (`uniform`), or as given, 0 for what is not named."""
    if isinstance(target, Mapping):
        return np.array([target.get(label, 0.0) for label in labels])
    known = np.array([UNKNOWN not in label.split("/") for label in labels], np.float64)
    return known / max(1.0, float(known.sum()))


def largest_total(supply: Ints, shares: Floats) -> int:
    """The most rows for which no cell is short that shall have some and has any."""
    asked = (shares > 0) & (supply > 0)
    return int(np.floor((supply[asked] / shares[asked]).min() + 1e-9)) if asked.any() else 0


def shared_out(total: int, shares: Floats) -> Ints:
    """`total` in whole numbers by `shares` (of sum 1), what is left to the largest fractions, the first of equals."""
    exact = shares * total
    found = np.floor(exact + 1e-9).astype(np.int64)
    order = np.argsort(-(exact - found), kind="stable")
    found[order[: max(0, total - int(found.sum()))]] += 1
    return found


def caps_of(labels: Sequence[str], cap: int | Mapping[str, int]) -> Ints:
    """Most rows of each cell: one number for all whose values are known, or numbers by name; NO_LIMIT for others."""
    if isinstance(cap, Mapping):
        return np.array([cap.get(label, NO_LIMIT) for label in labels], np.int64)
    return np.array([NO_LIMIT if UNKNOWN in label.split("/") else cap for label in labels], np.int64)


def choose(cells: Sequence[Cells], order: Ints) -> Ints:
    """(n,) -1 for the rows that are taken, else the index of the first of `cells` that had the least room left.

    `order` (n,): all rows, those to be preferred first. Rows go by their combination of cells, the scarcest first (by
    the product of supply over what may be taken), so that the rare is not crowded out by the common; within a
    combination in `order`. Greedy: no row more could be taken without breaking a quota, though another choice might
    hold more rows.
    """
    combined = np.stack([part.cell for part in cells], axis=1)
    combinations, member = np.unique(combined, axis=0, return_inverse=True)
    member = member.reshape(-1)
    plenty = np.zeros(len(combinations))
    for k, part in enumerate(cells):
        ratio = part.supply / np.maximum(part.most.astype(np.float64), 1e-9)
        plenty += np.log(np.maximum(ratio, 1e-9))[combinations[:, k]]
    rank = np.empty(len(order), np.int64)
    rank[order] = np.arange(len(order))
    rows = np.lexsort((rank, member))
    edges = np.searchsorted(member[rows], np.arange(len(combinations) + 1))
    result = np.full(len(order), -1, np.int64)
    room = [part.most.copy() for part in cells]
    for number in np.argsort(plenty, kind="stable").tolist():
        mine = rows[edges[number] : edges[number + 1]]
        places = list(zip(room, combinations[number].tolist(), strict=True))
        left = [int(one[cell]) for one, cell in places]
        take = min(len(mine), *left)
        for one, cell in places:
            one[cell] -= take if one[cell] != NO_LIMIT else 0
        result[mine[take:]] = int(np.argmin(left))
    return result


def intervals(bounds: Sequence[float]) -> list[str]:
    """Names of the intervals between neighbouring bounds: `18..30`."""
    return [f"{a:g}..{b:g}" for a, b in itertools.pairwise(bounds)]


def interval_of(values: Floats, bounds: Sequence[float]) -> Ints:
    """(n,) index of the interval that holds each value, its lower bound included and of the last also the upper one;
    as many as there are intervals for a value outside of all, or NaN."""
    edges = np.asarray(bounds, np.float64)
    found = np.searchsorted(edges, values, side="right") - 1
    found = np.where(values == edges[-1], len(edges) - 2, found)
    return np.where((found >= 0) & (found < len(edges) - 1), found, len(edges) - 1).astype(np.int64)


def tie_breaks(ids: Sequence[str], seed: int) -> npt.NDArray[np.uint64]:
    """(n,) a number for each id that depends on it and the seed alone."""
    key = str(seed).encode()
    digests = (hashlib.blake2b(one.encode("utf-8", "surrogatepass"), digest_size=8, key=key).digest() for one in ids)
    return np.frombuffer(b"".join(digests), np.uint64)
