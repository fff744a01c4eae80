"""Which images of one person make a training pair: numbers in, numbers out, no tables.

All pairs of an identity are judged, exactly, in blocks of a similarity matrix (DMID App. A.4.2: "a high threshold to
the facial feature similarity matrix"), with an upper bound and a copy test against near-copies (A.4 names duplication
as the risk of too similar pairs), a minimum difference, and a choice of at most so many pairs for diversity.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from idtool.curate.cluster import normalise

Floats = npt.NDArray[np.float32]
Bools = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]

BLOCK = 512
"""Rows and columns judged at once: the masks of a block stay in the processor's cache."""
SPARSE = 1 / 32
"""Share of a block below which copy tests are made pair by pair instead of by a matrix product."""

LOW, HIGH, LOW2 = "pair.similarity.low", "pair.similarity.high", "pair.similarity2.low"
FACE_COPY, COPY, DIFFERENCE = "pair.copy.face_correlation", "pair.copy.copy_similarity", "pair.difference"
REASONS = (LOW, HIGH, LOW2, FACE_COPY, COPY, DIFFERENCE)
"""In the order in which they are judged; the first that applies is a pair's reason."""
CANDIDATE = len(REASONS)


@dataclass(frozen=True)
class Limits:
    """What a pair must satisfy. None switches a test off."""

    low: float
    """Least cosine of the two identity embeddings."""
    high: float | None = None
    low2: float | None = None
    """Least cosine of a second network."""
    face_correlation: float | None = None
    """Largest correlation of the two aligned faces, either of them mirrored or not."""
    copy_similarity: float | None = None
    """Largest cosine of the copy-detection descriptors."""
    copy_above: float = -1.0
    """Identity similarity from which the two copy tests apply: a copy of a picture keeps its embedding."""
    yaw: float | None = None
    """Least difference in degrees; of this, pitch, expression and time at least one must be reached."""
    pitch: float | None = None
    expression: float | None = None
    """Least half L1 distance of the expression probabilities, [0, 1]."""
    time_ms: float | None = None


@dataclass(frozen=True)
class Rules:
    """How pairs of one identity are found."""

    frames: Limits
    """For images of one family: frames of one video, edits of one picture."""
    photos: Limits
    """For all others."""
    per_identity: int = 20
    keep_rejects: int = 50
    neighbours: int = 64
    """Candidates kept in memory per image: of those with images of later ids, the ones that differ most."""


@dataclass
class Faces:
    """Images of one identity in id order, n rows. NaN or a row of zeros stands for a missing value."""

    embedding: Floats
    """(n, d) unit length."""
    family: Ints
    """(n,) equal numbers: frames of one video, or edits of one picture and the picture."""
    embedding2: Floats | None = None
    thumb: npt.NDArray[np.uint8] | None = None
    """(n, h, w) grey aligned faces."""
    copy: Floats | None = None
    """(n, d) unit length."""
    yaw: Floats | None = None
    """(n,) degrees."""
    pitch: Floats | None = None
    expressions: Floats | None = None
    """(n, c) probabilities."""
    time_ms: npt.NDArray[np.float64] | None = None
    halves: tuple[Floats, Floats] | None = field(default=None, init=False)

    def __len__(self) -> int:
        return len(self.embedding)

    def faces(self) -> tuple[Floats, Floats]:
        """Mirror-symmetric and -antisymmetric part of each normalised thumb, (n, h * ceil(w / 2)) each.

        With t = s + m, <t, t'> = <s, s'> + <m, m'> and <t, mirror(t')> = <s, s'> - <m, m'>: so the larger of both
        correlations is <s, s'> + |<m, m'>|, for the cost of one.
        """
        if self.halves is None:
            if self.thumb is None:
                raise ValueError("there are no face thumbs")
            n, height, width = self.thumb.shape
            flat = self.thumb.reshape(n, -1).astype(np.float32)
            unit = normalise(flat - flat.mean(axis=1, keepdims=True))[0].reshape(n, height, width)
            half = (width + 1) // 2
            # A column and its mirror image count together; the middle one of an odd width is its own.
            weight = np.full(half, np.sqrt(0.5), np.float32)
            weight[width // 2 :] = 0.5
            mirrored = unit[:, :, ::-1]
            symmetric: Floats = ((unit + mirrored)[:, :, :half] * weight).reshape(n, -1)
            skew: Floats = ((unit - mirrored)[:, :, :half] * weight).reshape(n, -1)
            self.halves = (symmetric, skew)
        return self.halves

    def descriptors(self, rules: Rules) -> Floats:
        """(n, k) pose and expression in units of the least difference asked for (10 degrees, 0.5 where none is):
        distances between these are what diversity means."""
        limits = rules.photos
        parts = []
        for values, unit in ((self.yaw, limits.yaw or 10.0), (self.pitch, limits.pitch or 10.0)):
            if values is not None:
                parts.append(values[:, None] / np.float32(unit))
        if self.expressions is not None:
            parts.append(self.expressions / np.float32(np.sqrt(2) * (limits.expression or 0.5)))
        if not parts:
            return np.zeros((len(self), 1), np.float32)
        return np.nan_to_num(np.concatenate(parts, axis=1).astype(np.float32))


@dataclass
class Found:
    """Result for one identity. Indices are rows of `Faces`, a < b."""

    a: Ints
    b: Ints
    """(k,) the pairs chosen, by a, then b."""
    rejected_a: Ints
    rejected_b: Ints
    rejected_reason: Ints
    """Examples of pairs that are not allowed, with the index into REASONS."""
    counts: Ints
    """(len(REASONS) + 1,) exact number of pairs by reason; the last is that of allowed pairs."""
    furthest: Ints
    """(n,) for each image the furthest that any of its pairs got: index into REASONS, CANDIDATE, or -1 (alone)."""


def pair(faces: Faces, rules: Rules) -> Found:
    """Judge every pair of an identity and choose at most `rules.per_identity`. Memory: n x neighbours and a block.

    Deterministic; does not depend on anything but the rows and the rules. Equal claims go to the lower rows."""
    n = len(faces)
    search = _Search(faces, rules)
    for start in range(0, n, BLOCK):
        rows = slice(start, min(start + BLOCK, n))
        best = _Best(rows.stop - start, rules.neighbours)
        for first in range(start, n, BLOCK):
            search.block(rows, slice(first, min(first + BLOCK, n)), best)
        search.candidates.append(best.result(start))
    a, b, distance = (np.concatenate(parts) for parts in zip(*search.candidates, strict=True)) if n else _NOTHING
    chosen = choose(search.descriptors, a, b, distance, rules.per_identity)
    chosen = chosen[np.lexsort((b[chosen], a[chosen]))]
    rejects = [np.concatenate([_NOTHING[0], *(part[k] for part in search.rejects)]) for k in range(3)]
    return Found(a[chosen], b[chosen], rejects[0], rejects[1], rejects[2], search.counts, search.furthest)


_NOTHING = (np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.float32))


def choose(descriptors: Floats, a: Ints, b: Ints, distance: Floats, count: int) -> Ints:
    """Greedy choice of at most `count` of the pairs (a, b), farthest first: (k,) indices in the order of choice.

    A pair's claim is the lesser of its own `distance` and of that to the nearest pair chosen before, divided by one
    plus the times that its images were chosen before. So the first pair differs most, and the next are unlike those
    before and share few images with them. Equal claims: fewer such times, then the lower index. The distance of two
    pairs is that of their images, matched the better way round.
    """
    uses = np.zeros(len(descriptors), np.int64)
    nearest = distance.astype(np.float32)
    chosen: list[int] = []
    for _ in range(min(count, len(a))):
        used = uses[a] + uses[b]
        claim = nearest / (1 + used).astype(np.float32)
        claim[chosen] = -1.0
        tied = np.flatnonzero(claim == claim.max())
        pick = int(tied[np.argmin(used[tied])])
        chosen.append(pick)
        uses[a[pick]] += 1
        uses[b[pick]] += 1
        to_a = np.linalg.norm(descriptors - descriptors[a[pick]], axis=1)
        to_b = np.linalg.norm(descriptors - descriptors[b[pick]], axis=1)
        nearest = np.minimum(nearest, np.minimum(to_a[a] + to_b[b], to_b[a] + to_a[b]))
    return np.array(chosen, np.int64)


class _Best:
    """For each row of a stripe, the candidates farthest from it. Blocks of columns must come in rising order."""

    def __init__(self, rows: int, keep: int) -> None:
        self.keep = keep
        self.cutoff = np.full(rows, -1.0, np.float32)
        self.held = _NOTHING
        self.new: list[tuple[Ints, Ints, Floats]] = []
        self.waiting = 0

    def add(self, allowed: Bools, distance: Floats, first: int) -> None:
        """The pairs `allowed` of a block (rows, columns from `first` on), with their distances."""
        distance[~allowed] = -1.0
        limit = self.cutoff
        if allowed.shape[1] > self.keep and np.count_nonzero(allowed) > self.keep * len(limit):
            least = np.partition(distance, -self.keep, axis=1)[:, -self.keep]
            # Ties with the last to be kept stay for now: which of them goes is decided by column, later.
            limit = np.maximum(limit, np.nextafter(least, np.float32(-2.0)))
        r, c = np.nonzero(distance > limit[:, None])
        self.new.append((r, c + first, distance[r, c]))
        self.waiting += len(r)
        if self.waiting > 2 * self.keep * len(limit):
            self._compress()

    def _compress(self) -> None:
        rows, columns, distance = (np.concatenate(parts) for parts in zip(self.held, *self.new, strict=True))
        # By row, then falling distance. The sort is stable and columns come in rising order, so of equal ones the
        # lower column is first. The bits of floats that are not negative order like the floats.
        order = np.argsort((rows << 32) - distance.view(np.uint32), kind="stable")
        rows, columns, distance = rows[order], columns[order], distance[order]
        rank = np.arange(len(rows)) - np.searchsorted(rows, np.arange(len(self.cutoff)))[rows]
        last = rank == self.keep - 1
        # Later columns must beat the last one held: equal ones lose to the lower column, which came first.
        self.cutoff[rows[last]] = distance[last]
        stay = rank < self.keep
        self.held = (rows[stay], columns[stay], distance[stay])
        self.new, self.waiting = [], 0

    def result(self, start: int) -> tuple[Ints, Ints, Floats]:
        if self.new:
            self._compress()
        rows, columns, distance = self.held
        order = np.lexsort((columns, rows))
        return rows[order] + start, columns[order], distance[order]


class _Search:
    def __init__(self, faces: Faces, rules: Rules) -> None:
        self.faces, self.rules = faces, rules
        self.descriptors = faces.descriptors(rules)
        self.squares = np.einsum("ij,ij->i", self.descriptors, self.descriptors)
        self.counts = np.zeros(len(REASONS) + 1, np.int64)
        self.furthest = np.full(len(faces), -1, np.int64)
        self.candidates: list[tuple[Ints, Ints, Floats]] = []
        self.rejects: list[tuple[Ints, Ints, Ints]] = []
        self.room = np.full(len(REASONS), -(-rules.keep_rejects // len(REASONS)))
        self.left = rules.keep_rejects
        self.one_family = len(np.unique(faces.family)) == 1
        self.no_family = len(np.unique(faces.family)) == len(faces)

    def block(self, rows: slice, columns: slice, best: _Best) -> None:
        """Judge rows x columns; pairs on and below the diagonal are left out."""
        shape = (rows.stop - rows.start, columns.stop - columns.start)
        open_ = np.triu(np.ones(shape, np.bool_), 1) if rows.start == columns.start else np.ones(shape, np.bool_)
        similar = self.faces.embedding[rows] @ self.faces.embedding[columns].T
        allowed = np.zeros(shape, np.bool_)
        for limits, mask in self._windows(rows, columns, open_):
            alive = mask
            for code, fails in self._tests(limits, rows, columns, similar, alive):
                lost = alive & fails
                number = int(np.count_nonzero(lost))
                if number:
                    alive &= ~fails
                    self._note(code, lost, number, rows, columns)
                if not alive.any():
                    break
            allowed |= alive
        number = int(np.count_nonzero(allowed))
        if not number:
            return
        self._note(CANDIDATE, allowed, number, rows, columns)
        distance = self.squares[rows, None] + self.squares[columns]
        distance -= 2 * (self.descriptors[rows] @ self.descriptors[columns].T)
        np.sqrt(np.maximum(distance, 0, out=distance), out=distance)
        best.add(allowed, distance, columns.start)

    def _windows(self, rows: slice, columns: slice, open_: Bools) -> Iterator[tuple[Limits, Bools]]:
        if self.one_family or self.no_family:
            yield (self.rules.frames if self.one_family else self.rules.photos), open_
            return
        same = self.faces.family[rows, None] == self.faces.family[columns]
        for limits, mask in ((self.rules.frames, same), (self.rules.photos, ~same)):
            mask &= open_
            if mask.any():
                yield limits, mask

    def _tests(
        self, limits: Limits, rows: slice, columns: slice, similar: Floats, alive: Bools
    ) -> Iterator[tuple[int, Bools]]:
        """(reason, which pairs fail it), each worked out only when the one before has left pairs alive."""
        yield 0, similar < np.float32(limits.low)
        if limits.high is not None:
            yield 1, similar > np.float32(limits.high)
        faces = self.faces
        if limits.low2 is not None and faces.embedding2 is not None:
            yield 2, faces.embedding2[rows] @ faces.embedding2[columns].T < np.float32(limits.low2)
        copies = (
            (3, limits.face_correlation, None if faces.thumb is None else faces.faces()),
            (4, limits.copy_similarity, None if faces.copy is None else (faces.copy,)),
        )
        for code, limit, parts in copies:
            if limit is not None and parts is not None:
                judged = alive & (similar >= np.float32(limits.copy_above))
                if judged.any():
                    yield code, _above(parts, rows, columns, judged, limit)
        reached = self._reached(limits, rows, columns)
        if reached is not None:
            yield 5, ~reached

    def _reached(self, limits: Limits, rows: slice, columns: slice) -> Bools | None:
        """Which pairs differ enough in at least one way; None when nothing is asked for that could be compared."""
        reached: Bools | None = None
        for values, least in (
            (self.faces.yaw, limits.yaw),
            (self.faces.pitch, limits.pitch),
            (self.faces.time_ms, limits.time_ms),
        ):
            if values is not None and least is not None:
                far = np.abs(values[rows, None] - values[columns]) >= np.asarray(least, values.dtype)
                reached = far if reached is None else reached | far
        if self.faces.expressions is not None and limits.expression is not None:
            a, b = self.faces.expressions[rows], self.faces.expressions[columns]
            total, part = np.zeros((2, len(a), len(b)), np.float32)
            for k in range(a.shape[1]):
                np.subtract(a[:, k, None], b[:, k], out=part)
                total += np.abs(part, out=part)
            far = total >= np.float32(2 * limits.expression)
            reached = far if reached is None else reached | far
        return reached

    def _note(self, code: int, hit: Bools, number: int, rows: slice, columns: slice) -> None:
        self.counts[code] += number
        for part, axis in ((rows, 1), (columns, 0)):
            np.maximum(self.furthest[part], np.where(hit.any(axis=axis), code, -1), out=self.furthest[part])
        take = 0 if code == CANDIDATE else min(int(self.room[code]), self.left)
        if take > 0:
            r, c = np.nonzero(hit)
            r, c = r[:take], c[:take]
            self.room[code] -= len(r)
            self.left -= len(r)
            self.rejects.append((r + rows.start, c + columns.start, np.full(len(r), code)))


def _above(parts: tuple[Floats, ...], rows: slice, columns: slice, judged: Bools, limit: float) -> Bools:
    """Of the pairs `judged`, those whose likeness is above `limit`. One part: its dot product; two parts: that of
    the first plus the amount of that of the second (see `Faces.faces`)."""
    if np.count_nonzero(judged) < SPARSE * judged.size:
        r, c = np.nonzero(judged)
        result = np.zeros_like(judged)
        result[r, c] = likeness(parts, r + rows.start, c + columns.start) > np.float32(limit)
        return result
    like = parts[0][rows] @ parts[0][columns].T
    if len(parts) > 1:
        like += np.abs(parts[1][rows] @ parts[1][columns].T)
    return judged & (like > np.float32(limit))


def likeness(parts: tuple[Floats, ...], a: Ints, b: Ints) -> Floats:
    """(k,) the same for the pairs of rows a and b."""
    like = np.einsum("ij,ij->i", parts[0][a], parts[0][b])
    if len(parts) > 1:
        like = like + np.abs(np.einsum("ij,ij->i", parts[1][a], parts[1][b]))
    return np.asarray(like, np.float32)
