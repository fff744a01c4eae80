"""All pairs of 64-bit hashes within a Hamming distance, exactly, without comparing everything with everything.

Pigeonhole (Manku, Jain & Das Sarma, WWW 2007): cut the 64 bits into d + 1 bands; two hashes that differ in at most d
bits agree in at least one whole band. Only hashes that share a band are compared. For random hashes the work is about
(d + 1) n^2 / 2^(64 / (d + 1)) comparisons: 30 million for a million hashes at d = 3, against 5e11 pairs.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import numpy.typing as npt

Hashes = npt.NDArray[np.uint64]
Ints = npt.NDArray[np.int64]

BITS = 64
MAX_DISTANCE = 15
"""Beyond it bands are four bits wide and the search degenerates into comparing all pairs."""
BLOCK = 1 << 20
"""Candidate pairs held in memory at once (about 80 MB)."""


def close_pairs(hashes: Hashes, max_distance: int) -> tuple[Ints, Ints, Ints]:
    """Every pair i < j of `hashes` (n,) uint64 that differs in at most `max_distance` bits (0 to 15).

    Returns (i, j, distance), sorted by i, then j. Memory: O(n) and the pairs found.
    """
    if not 0 <= max_distance <= MAX_DISTANCE:
        raise ValueError(f"max_distance must be within 0..{MAX_DISTANCE}, got {max_distance}")
    found: list[tuple[Ints, Ints, Ints]] = []
    edges = np.linspace(0, BITS, max_distance + 2).astype(int)
    bands = [(np.uint64(low), np.uint64((1 << (high - low)) - 1)) for low, high in pairwise(edges.tolist())]
    for number, (low, mask) in enumerate(bands):
        band = (hashes >> low) & mask
        order = np.argsort(band, kind="stable")
        for left, right in _pairs_of_equals(band[order]):
            i, j = order[left], order[right]
            differ = hashes[i] ^ hashes[j]
            distance = np.bitwise_count(differ).astype(np.int64)
            new = distance <= max_distance
            # A pair that already met in an earlier band was reported there.
            for earlier, bits in bands[:number]:
                new &= (differ >> earlier) & bits != 0
            i, j, distance = i[new], j[new], distance[new]
            found.append((np.minimum(i, j), np.maximum(i, j), distance))
    if not found:
        return (np.empty(0, np.int64),) * 3
    i, j, distance = (np.concatenate(part) for part in zip(*found, strict=True))
    order = np.lexsort((j, i))
    return i[order], j[order], distance[order]


def _pairs_of_equals(ordered: Hashes) -> Iterator[tuple[Ints, Ints]]:
    """All pairs of positions that hold the same value in a sorted array, in blocks of bounded size."""
    if not len(ordered):
        return
    starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])
    sizes = np.diff(np.r_[starts, len(ordered)])
    # Position p of a group pairs with the positions after it: `later[p]` of them.
    later = np.repeat(starts + sizes, sizes) - np.arange(len(ordered)) - 1
    ends = np.cumsum(later)
    begin = 0
    while begin < len(ordered):
        done = ends[begin - 1] if begin else 0
        stop = max(begin + 1, int(np.searchsorted(ends, done + BLOCK, side="right")))
        counts = later[begin:stop]
        left = np.repeat(np.arange(begin, stop), counts)
        first = np.cumsum(counts) - counts
        right = left + 1 + np.arange(len(left)) - np.repeat(first, counts)
        if len(left):
            yield left, right
        begin = stop
