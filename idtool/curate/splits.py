"""Splits by identity: a person's pairs are all in one split, so that a validation face was never trained on."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping

from idtool.errors import UsageError

SPLIT_NAME = re.compile(r"[A-Za-z0-9_]+(\.[A-Za-z0-9_]+)*")
"""What the `datasets` library takes as the name of a split."""


def check_shares(shares: Mapping[str, float]) -> dict[str, float]:
    """The shares, scaled to sum to 1. Raises UsageError for bad names, for shares that are not positive and for
    sums other than 1 (within 0.01)."""
    if not shares:
        raise UsageError("export.splits is empty.", "Give at least one split, e.g. {train: 1.0}.")
    for name, share in shares.items():
        if not SPLIT_NAME.fullmatch(name):
            raise UsageError(
                f"export.splits: {name!r} cannot name a split.", "Use letters, digits and underscores, e.g. train."
            )
        if not share > 0:
            raise UsageError(f"export.splits.{name} is {share}.", "Shares are above 0; leave out a split of share 0.")
    total = sum(shares.values())
    if abs(total - 1) > 0.01:
        raise UsageError(f"export.splits sum to {total:g}.", "Make the shares sum to 1, e.g. {train: 0.9, val: 0.1}.")
    return {name: share / total for name, share in shares.items()}


def rank(identity: str, seed: int) -> bytes:
    """A fixed pseudo-random place of `identity`, which no other identity changes."""
    return hashlib.sha256(f"{seed}\0{identity}".encode("utf-8", "surrogatepass")).digest()


def assign(pairs: Mapping[str, int], shares: Mapping[str, float], seed: int = 0) -> dict[str, str]:
    """Identity -> split, given the number of pairs of each identity and the share of pairs asked of each split.

    Identities go from the largest to the smallest, equal ones in the order of their hash with `seed`, each to the
    split that lacks most pairs (longest-processing-time rule, Graham 1969). A split therefore exceeds its share by
    less than one identity. While there are at least as many identities as splits, no split stays empty: it then
    gets the smallest identity of a split that has several. Depends on nothing but its arguments.
    """
    shares = check_shares(shares)
    order = sorted(pairs, key=lambda identity: (-pairs[identity], rank(identity, seed)))
    lacking = {split: share * sum(pairs.values()) for split, share in shares.items()}
    members: dict[str, list[str]] = {split: [] for split in shares}
    for identity in order:
        split = max(lacking, key=lambda name: (lacking[name], shares[name]))
        members[split].append(identity)
        lacking[split] -= pairs[identity]
    for split in sorted(shares, key=lambda name: -shares[name]):
        donors = [other for other in members if len(members[other]) > 1]
        if not members[split] and donors:
            donor = max(donors, key=lambda name: (len(members[name]), shares[name]))
            members[split].append(members[donor].pop())
    return {identity: split for split, names in members.items() for identity in names}
