"""Looking for the references of a benchmark among pictures, by faces, hashes or descriptors: exact, batch by batch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from idtool.evaluate.identities import Identity
from idtool.evaluate.samples import key_of
from idtool.evaluate.scoring import Seen

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]
COLUMNS = {"identity": "people_embeddings", "perceptual": "phash", "copy": "copy_embedding"}
"""Way of finding -> the column that it compares."""
COMPARISONS = 1 << 24
"""In memory at once."""


@dataclass(frozen=True, eq=False)
class Search:
    """References to be found, of which something is known, sorted by person."""

    kind: str
    labels: list[str]
    """People."""
    starts: Ints
    """(people,) where the references of each begin."""
    uris: list[str]
    alike: Callable[[pa.Table], tuple[Ints, Floats]]
    """A batch of the training set -> row of each thing that is compared (N,), and how alike it is to every reference
    (N, references), the more the higher."""
    least: float
    """How alike something must be to be found."""

    @property
    def sign(self) -> int:
        """-1 where likeness is a distance, turned round."""
        return -1 if self.kind == "perceptual" else 1

    def hits(self, batch: pa.Table) -> dict[tuple[int, int], tuple[float, int]]:
        """(row, person) -> how alike, and the nearest reference of that person."""
        rows, values = self.alike(batch)
        found: dict[tuple[int, int], tuple[float, int]] = {}
        if not len(rows):
            return found
        best = np.maximum.reduceat(values, self.starts, axis=1)
        ends = [*self.starts[1:], len(self.uris)]
        for k, person in np.argwhere(best >= self.least).tolist():
            key, value = (int(rows[k]), person), float(best[k, person])
            if value > found.get(key, (-np.inf, 0))[0]:
                inside = values[k, self.starts[person] : ends[person]]
                found[key] = (value, int(self.starts[person]) + int(inside.argmax()))
        return found


def make_search(kind: str, identities: Sequence[Identity], seen: Seen, threshold: float) -> Search | None:
    """One way of finding people; None when nothing is known of any reference. `threshold`: least cosine, or most bits
    of hashes that differ."""
    column = COLUMNS[kind]
    labels: list[str] = []
    starts: list[int] = []
    uris: list[str] = []
    columns: list[Mapping[str, Any]] = []
    for one in identities:
        known = [(uri, seen.rows[key_of(uri)]) for uri in one.references]
        known = [(uri, row) for uri, row in known if row.get(column)]
        if known:
            labels.append(one.label)
            starts.append(len(uris))
            uris += [uri for uri, _ in known]
            columns += [row for _, row in known]
    if not uris:
        return None
    at = np.asarray(starts, np.int64)
    if kind == "perceptual":
        hashes = [np.asarray([int(row[name], 16) for row in columns], np.uint64) for name in ("phash", "phash_mirror")]
        return Search(kind, labels, at, uris, lambda batch: _hashes(batch, hashes), -threshold)
    if kind == "copy":
        wanted = np.asarray([row[column] for row in columns], np.float32)
        return Search(kind, labels, at, uris, lambda batch: _descriptors(batch, wanted), threshold)
    wanted = np.asarray([row[column][0] for row in columns], np.float32)  # the largest face is the person
    return Search(kind, labels, at, uris, lambda batch: _faces(batch, wanted), threshold)


def _faces(batch: pa.Table, wanted: Floats) -> tuple[Ints, Floats]:
    column = batch["people_embeddings"].combine_chunks()
    faces = column.flatten()
    values = faces.flatten().to_numpy(zero_copy_only=False).reshape(len(faces), -1) if len(faces) else wanted[:0]
    return np.asarray(pc.list_parent_indices(column), np.int64), np.asarray(values, np.float32) @ wanted.T


def _descriptors(batch: pa.Table, wanted: Floats) -> tuple[Ints, Floats]:
    column = batch["copy_embedding"].combine_chunks()
    rows = np.flatnonzero(np.asarray(column.is_valid()))
    values = column.drop_null().flatten().to_numpy(zero_copy_only=False).reshape(len(rows), wanted.shape[1])
    return rows, np.asarray(values, np.float32) @ wanted.T


def _hashes(batch: pa.Table, wanted: Sequence[npt.NDArray[np.uint64]]) -> tuple[Ints, Floats]:
    column = batch["phash"].combine_chunks()
    rows = np.flatnonzero(np.asarray(column.is_valid()))
    own = np.asarray([int(one, 16) for one in column.drop_null().to_pylist()], np.uint64)
    distances = [np.bitwise_count(own[:, None] ^ one[None, :]) for one in wanted]
    return rows, -np.minimum(*distances).astype(np.float32)
