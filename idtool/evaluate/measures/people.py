"""Measures `people` and `people_identity`: every face of a picture, for what compares people with references.

The measures of curation look at the largest face. Benchmarks show groups, and a generated picture may show more people
than were asked for.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import pyarrow as pa

from idtool.evaluate.measures.base import Floats, Item, Measure, Values, column
from idtool.evaluate.measures.identity import CACHED
from idtool.models.faces import Face

MOST = 32
"""Faces of one picture that are looked at, largest first."""
ROWS = pa.list_(pa.list_(pa.float32()))
OF_PEOPLE = ("people_boxes", "people_kps", "people_scores")
"""Columns of measure `people` that tell where the faces are."""


class People(Measure):
    """Boxes, points and scores of up to `MOST` faces, largest first."""

    name = "people"
    role = "faces"
    summary = "every face: box, five points, score"
    writes = pa.schema(
        [
            column("people_boxes", ROWS, "left, top, right, bottom of every face, largest first", "px"),
            column("people_kps", ROWS, "x and y of eyes, nose tip and mouth corners of every face", "px"),
            column("people_scores", pa.list_(pa.float32()), "detector's confidence in each face", "[0, 1]"),
            column("image_size", pa.list_(pa.int32()), "height and width of the picture", "px"),
        ]
    )

    def __call__(self, items: Sequence[Item]) -> Sequence[Values | Exception]:
        found = self.model.detect([item.image for item in items])
        return [
            {
                "people_boxes": [np.asarray(face.box, np.float32).tolist() for face in faces[:MOST]],
                "people_kps": [np.asarray(face.kps, np.float32).reshape(-1).tolist() for face in faces[:MOST]],
                "people_scores": [float(face.score) for face in faces[:MOST]],
                "image_size": list(item.image.shape[:2]),
            }
            for faces, item in zip(found, items, strict=True)
        ]


def faces_of(item: Item) -> list[Face]:
    """The faces that measure `people` found, as the model wrappers take them."""
    columns = (item.get(name) or () for name in OF_PEOPLE)
    return [
        Face(np.asarray(box, np.float32), float(score), np.asarray(kps, np.float32).reshape(5, 2))
        for box, kps, score in zip(*columns, strict=True)
    ]


class PeopleMeasure(Measure):
    """A measure of every face in one column. Images without a face get an empty list."""

    reads: ClassVar[tuple[str, ...]] = OF_PEOPLE

    def __call__(self, items: Sequence[Item]) -> Sequence[Values | Exception]:
        faces = [(k, face) for k, item in enumerate(items) for face in faces_of(item)]
        rows = self.of_faces([items[k] for k, _ in faces], [face for _, face in faces]) if faces else []
        found: list[list[list[float]]] = [[] for _ in items]
        for (k, _), row in zip(faces, rows, strict=True):
            found[k].append([float(value) for value in row])
        return [
            {self.writes.names[0]: rows}
            if all(np.isfinite(row).all() for row in rows)
            else ValueError(f"{self.name} is not a finite number")
            for rows in found
        ]

    @abstractmethod
    def of_faces(self, items: Sequence[Item], faces: Sequence[Face]) -> Sequence[Sequence[float]] | Floats:
        """One row of numbers for each face; `items[k]` is the picture of `faces[k]`."""


class PeopleIdentity(PeopleMeasure):
    """Embeddings of every face by the main network of role `identity`."""

    name = "people_identity"
    role = "identity"
    summary = "identity embedding of every face"
    writes = pa.schema([column("people_embeddings", ROWS, "identity embedding of every face, of length 1")])

    def of_faces(self, items: Sequence[Item], faces: Sequence[Face]) -> Floats:
        rows = np.asarray(self.model.embed(np.stack(self._crops(items, faces))), np.float32)
        norms = np.linalg.norm(rows, axis=1, keepdims=True)
        unit: Floats = np.divide(rows, norms, out=np.full_like(rows, np.nan), where=norms > 0)
        return unit

    def _crops(self, items: Sequence[Item], faces: Sequence[Face]) -> list[Floats]:
        """Crops as the network wants them; networks of the usual alignment share them."""
        if getattr(self.model, "alignment", CACHED) != CACHED:
            crops: list[Floats] = self.model.crops([item.image for item in items], list(faces))
            return crops
        from idtool.models.identity import align

        out = []
        for item, face in zip(items, faces, strict=True):
            key = f"aligned {face.kps.tobytes()!r}"
            if key not in item.memo:
                item.memo[key] = align(item.image, face.kps)[0]
            out.append(item.memo[key])
        return out


class PeopleIdentity2(PeopleIdentity):
    """By the second network: another judge's view, for methods that condition on the first."""

    name = "people_identity2"
    rank = 1
    summary = "identity embedding of every face by the second network"
    writes = pa.schema([column("people_embeddings2", ROWS, "second network's embeddings, of length 1")])


class PeopleIdentity3(PeopleIdentity):
    """By the third network."""

    name = "people_identity3"
    rank = 2
    summary = "identity embedding of every face by the third network"
    writes = pa.schema([column("people_embeddings3", ROWS, "third network's embeddings, of length 1")])


IDENTITIES = (PeopleIdentity, PeopleIdentity2, PeopleIdentity3)
