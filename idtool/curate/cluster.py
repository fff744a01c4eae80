"""Grouping of identity embeddings: exact average linkage without an n x n matrix, and tracks of video frames.

On unit vectors the mean similarity of two clusters, which average linkage merges by, is the dot product of their mean
vectors. So a cluster is one vector, and neighbours are found by block-wise matrix products: n x d numbers, in the
`room` that is given. Single
linkage would chain two people through one pair of look-alike photos; a mean over all pairs does not.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from idtool.curate.scratch import BLOCK_ROWS, Room, gathered, in_memory
from idtool.curate.scratch import Floats as Floats
from idtool.curate.scratch import Ints as Ints

Bools = npt.NDArray[np.bool_]

BLOCK_VALUES = 1 << 24
"""Similarities held at once (64 MiB)."""
NOTHING = np.float32(-2.0)
"""Below every cosine."""


def normalise(vectors: npt.ArrayLike) -> tuple[Floats, Bools]:
    """Rows (n, d) at unit length, and which of them have a direction (finite, not zero); the others become zero."""
    array = np.array(vectors, np.float32, ndmin=2)
    length = np.linalg.norm(array, axis=1)
    usable = np.isfinite(length) & (length > 1e-6)
    array[~usable] = 0.0
    array /= np.where(usable, length, np.float32(1.0))[:, None]
    return array, usable


def average_linkage(vectors: Floats, threshold: float, named: Bools | None = None, room: Room = in_memory) -> Ints:
    """Clusters of vectors by mean pairwise dot product: two clusters are merged while it is at least `threshold`.

    `vectors` (n, d): unit embeddings, or means of some; each row counts once. `named` (n,): rows that must not come
    together with one another, such as people known to be different. Returns (n,) the lowest row of each row's
    cluster. The result is that of merging the closest two clusters again and again; here all clusters that are each
    other's nearest are merged at once, which for average linkage (it is reducible) leads to the same tree. Exact;
    time is about one n x n x d product and a half; up to two more arrays like `vectors` are made in `room`. Equal
    similarities go to the lower row.
    """
    named = np.zeros(len(vectors), np.bool_) if named is None else named
    state = _Linkage(vectors, named, np.float32(threshold), room)
    state.search(np.arange(len(vectors)))
    while state.merge():
        pass
    return state.root()


class _Linkage:
    def __init__(self, vectors: Floats, named: Bools, threshold: np.float32, room: Room) -> None:
        n = len(vectors)
        self.room = room
        self.means = room(*vectors.shape)
        self.means[:] = vectors
        self.named = named.copy()
        self.threshold = threshold
        self.size = np.ones(n, np.int64)
        self.into = np.arange(n)
        self.active = np.ones(n, np.bool_)
        self.best = np.full(n, NOTHING, np.float32)
        self.nearest = np.zeros(n, np.int64)
        # No cluster but the nearest is closer than this; merges elsewhere cannot raise it, so it stays true.
        self.second = np.full(n, NOTHING, np.float32)

    def search(self, rows: Ints) -> None:
        """Find the nearest active cluster of each of `rows`."""
        columns = np.flatnonzero(self.active)
        if not len(rows) or not len(columns):
            return
        everything = len(columns) == len(self.means)
        others = self.means if everything else gathered(self.means, columns, self.room)
        taken = self.named[columns]
        step = max(1, BLOCK_VALUES // len(columns))
        for start in range(0, len(rows), step):
            block = rows[start : start + step]
            similar = self.means[block] @ others.T
            line = np.arange(len(block))
            position = np.searchsorted(columns, block)
            similar[line, np.minimum(position, len(columns) - 1)] = NOTHING
            if taken.any():
                similar[np.ix_(self.named[block], taken)] = NOTHING
            place = similar.argmax(axis=1)
            self.nearest[block] = columns[place]
            self.best[block] = similar[line, place]
            similar[line, place] = NOTHING
            self.second[block] = similar.max(axis=1)

    def merge(self) -> bool:
        """Merge every two clusters that are each other's nearest; False when none is close enough."""
        # A cluster without a close one will never have one: the mean with a union is at most the better part's.
        self.active &= self.best >= self.threshold
        rows = np.flatnonzero(self.active)
        if not len(rows):
            return False
        other = self.nearest[rows]
        mutual = (self.nearest[other] == rows) & (rows < other) & self.active[other]
        a, b = rows[mutual], other[mutual]
        if not len(a):
            # Only rounding can leave no mutual pair; the closest pair is right in any case.
            first = rows[np.argmax(self.best[rows])]
            pair = sorted((int(first), int(self.nearest[first])))
            a, b = np.array(pair[:1]), np.array(pair[1:])
        weight = (self.size[a] / (self.size[a] + self.size[b])).astype(np.float32)[:, None]
        self.means[a] = weight * self.means[a] + (1 - weight) * self.means[b]
        self.size[a] += self.size[b]
        self.named[a] |= self.named[b]
        self.into[b] = a
        self.active[b], self.active[a] = False, True
        self._follow(a, b)
        return True

    def _follow(self, a: Ints, b: Ints) -> None:
        """Put neighbours right after clusters `b` went into `a`."""
        moved = np.full(len(self.means), -1, np.int64)
        moved[a], moved[b] = a, a
        rows = np.flatnonzero(self.active)
        rows = rows[moved[self.nearest[rows]] >= 0]
        fresh = np.isin(rows, a)
        self.search(rows[fresh])
        rows = rows[~fresh]
        target = moved[self.nearest[rows]]
        similar = np.einsum("ij,ij->i", self.means[rows], self.means[target])
        similar[self.named[rows] & self.named[target]] = NOTHING
        still = similar >= self.second[rows]
        self.nearest[rows], self.best[rows] = target, similar
        self.search(rows[~still])

    def root(self) -> Ints:
        """The lowest row of each row's cluster: clusters always go into the lower one."""
        root = self.into
        while not np.array_equal(root, root[root]):
            root = root[root]
        return root


def tracks(video: Ints, shot: Ints, time: Ints, embeddings: Floats, threshold: float) -> Ints:
    """Runs of consecutive frames of one shot that show one person: (n,) a track number per row, counted in the order
    of video, shot and time. Rows of a negative `video` (photos) are a track each.

    A frame goes on with the track of the frame before it when its mean similarity to the frames of that track is at
    least `threshold`. So one shot that changes to somebody else unseen gives two tracks.
    """
    order = np.lexsort((time, shot, video))
    track = np.zeros(len(video), np.int64)
    total, count, number, before = np.zeros(embeddings.shape[1], np.float32), 0, -1, (-1, -1)
    for row in order:
        place = (int(video[row]), int(shot[row]))
        same = place == before and place[0] >= 0 and float(embeddings[row] @ total) >= threshold * count
        if not same:
            number, count = number + 1, 0
            total[:] = 0.0
        total += embeddings[row]
        count += 1
        track[row], before = number, place
    return track


def means(embeddings: Floats, group: Ints, count: int, room: Room = in_memory) -> Floats:
    """Mean vector (count, d) of each group's rows; `group` (n,) numbers 0 to count - 1, negative: in no group."""
    total = room(count, embeddings.shape[1])
    order = np.argsort(group, kind="stable")
    present, starts = np.unique(group[order], return_index=True)
    bounds = [*starts.tolist(), len(order)]
    for number, start, end in zip(present.tolist(), bounds[:-1], bounds[1:], strict=True):
        # Rows are gathered group by group, so that a million embeddings are never copied at once.
        if number >= 0:
            total[number] = embeddings[order[start:end]].mean(axis=0)
    return total


@dataclass(frozen=True)
class Separation:
    """How cleanly groups lie apart, judged without labels."""

    share: float
    """[0, 1] rows whose mean similarity to the others of their group reaches the threshold and is at least `margin`
    above that to any other group. An estimate of purity, not a measurement: two people whom the network cannot tell
    apart count as one, cleanly."""
    rows: int
    """How many rows were looked at: those of groups of two or more, or an evenly spaced sample of them."""
    margin: float


def separation(
    embeddings: Floats,
    group: Ints,
    threshold: float,
    *,
    margin: float = 0.1,
    sample: int = 20_000,
    room: Room = in_memory,
) -> Separation | None:
    """Label-free estimate of purity; None when no group has two rows. `group` (n,), negative: in no group."""
    present, number = np.unique(group, return_inverse=True)
    number = number.reshape(-1) - np.count_nonzero(present < 0)
    size = np.bincount(number[number >= 0])
    rows = np.flatnonzero((number >= 0) & (np.append(size, 0)[number] > 1))
    if not len(rows):
        return None
    if len(rows) > sample:
        rows = rows[np.linspace(0, len(rows) - 1, sample).astype(np.int64)]
    centre = means(embeddings, number, len(size), room)
    sound = 0
    step = min(BLOCK_ROWS, max(1, BLOCK_VALUES // len(size)))
    for start in range(0, len(rows), step):
        block = rows[start : start + step]
        similar = embeddings[block] @ centre.T
        line, own = np.arange(len(block)), number[block]
        n = size[own]
        inside = (similar[line, own] * n - 1.0) / (n - 1)
        similar[line, own] = NOTHING
        sound += int(np.count_nonzero((inside >= threshold) & (inside >= similar.max(axis=1) + margin)))
    return Separation(sound / len(rows), len(rows), margin)
