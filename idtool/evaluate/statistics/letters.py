"""Compact letter display: methods that share a letter do not differ."""

from __future__ import annotations

import string
from collections.abc import Collection, Iterable, Sequence

ALPHABET = string.ascii_lowercase + string.ascii_uppercase


def compact_letters(names: Sequence[str], different: Iterable[Collection[str]]) -> dict[str, str]:
    """Name -> letters. `names`: best first, so that `a` is among the best. `different`: pairs that differ.

    Two names share a letter if and only if they do not differ. Insert and absorb (Piepho 2004): start with one letter
    for all; each pair that differs splits every letter that both have; a letter whose names another has too goes.
    """
    place = {name: k for k, name in enumerate(names)}
    groups: list[frozenset[str]] = [frozenset(names)] if names else []
    for one, other in (tuple(pair) for pair in different):
        split = [
            part
            for group in groups
            for part in ([group - {one}, group - {other}] if {one, other} <= group else [group])
        ]
        distinct = list(dict.fromkeys(split))
        groups = [group for group in distinct if not any(group < larger for larger in distinct)]
    groups.sort(key=lambda group: sorted(place[name] for name in group))
    return {name: "".join(_letter(k) for k, group in enumerate(groups) if name in group) for name in names}


def _letter(k: int) -> str:
    # Past z and Z come the letters of Latin Extended-A: each must stay one character.
    return ALPHABET[k] if k < len(ALPHABET) else chr(0x100 + k - len(ALPHABET))
