"""A set of row keys in 16 bytes each."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

Digests = npt.NDArray[np.uint64]


class KeySet:
    """Holds 128-bit digests, which stand for the keys: that two of 10^9 keys share one has a chance of 10^-21. It is
    filled once, from batches; while it is put in order it takes three times as much."""

    def __init__(self, batches: Iterable[Sequence[str]] = ()) -> None:
        parts = [_digests(keys) for keys in batches if keys]
        held = np.concatenate(parts) if parts else np.empty((0, 2), np.uint64)
        parts.clear()
        held = held[np.lexsort((held[:, 1], held[:, 0]))]
        if len(held):
            held = held[np.r_[True, np.any(held[1:] != held[:-1], axis=1)]]
        self._high, self._low = (np.ascontiguousarray(held[:, side]) for side in (0, 1))

    def __len__(self) -> int:
        return len(self._high)

    def has(self, keys: Sequence[str]) -> npt.NDArray[np.bool_]:
        """(n,) which of `keys` are in here."""
        if not len(self) or not keys:
            return np.zeros(len(keys), np.bool_)
        asked = _digests(keys)
        place = np.searchsorted(self._high, asked[:, 0])
        last = len(self) - 1
        found: npt.NDArray[np.bool_] = np.zeros(len(keys), np.bool_)
        # Digests that share their first half stand side by side; there are hardly ever two.
        open_ = np.arange(len(keys))
        while len(open_):
            here = place[open_]
            same = (here <= last) & (self._high[np.minimum(here, last)] == asked[open_, 0])
            open_, here = open_[same], here[same]
            found[open_] |= self._low[here] == asked[open_, 1]
            place[open_] += 1
        return found


def _digests(keys: Sequence[str]) -> Digests:
    data = b"".join(hashlib.blake2b(key.encode("utf-8", "surrogatepass"), digest_size=16).digest() for key in keys)
    return np.frombuffer(data, np.uint64).reshape(-1, 2)
