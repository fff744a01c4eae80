"""The face vectors of a request's people, by the identity network that a method was trained with (slot `face`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from idtool.engine.operator import Context
from idtool.engine.step import Binding
from idtool.errors import MissingError
from idtool.generate.method import Image, Person
from idtool.models import load
from idtool.models.faces import Face
from idtool.models.identity import align

Floats = npt.NDArray[np.float32]

SLOT = "the identity network that it was trained with"


class FaceVectors:
    """A network of role `identity` on the faces of references."""

    def __init__(self, binding: Binding, context: Context) -> None:
        self.binding = binding
        self.model = load(replace(binding, role="identity"), device=context.device, threads=context.threads)
        self.dim = int(self.model.dim)

    def must_give(self, dim: int, what: str) -> None:
        """MissingError when the network gives vectors of another width than `what` takes."""
        if self.dim != dim:
            raise MissingError(
                f"{self.binding.model} gives face vectors of {self.dim} numbers; {what} takes {dim}.",
                "Bind the network that it was trained with to slot `face`.",
            )

    def raw(self, people: Sequence[Person]) -> Floats:
        """(N, dim) as the network gives them: their lengths differ. ValueError for a person without a face."""
        faces = [face_of(person) for person in people]
        images = [person.image for person in people]
        return np.asarray(self.model.embed(self.model.crops(images, faces)), np.float32)

    def unit(self, people: Sequence[Person]) -> Floats:
        """(N, dim) of length 1. ValueError for a vector of zeros."""
        vectors = self.raw(people)
        lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
        if not np.all(lengths > 0):
            raise ValueError("the identity network gave a vector of zeros")
        return np.asarray(vectors / lengths, np.float32)

    def crops(self, people: Sequence[Person], size: int) -> list[Image]:
        """The faces by their five points on the ArcFace template, `size` px, RGB uint8."""
        return [align(person.image, face_of(person).kps, size)[0] for person in people]

    def told(self, vector: str) -> Mapping[str, Any]:
        """For the record: the network and what is done with its vector."""
        return {**self.model.fingerprint(), "vector": vector}


def face_of(person: Person) -> Face:
    """A person's face. ValueError when there is none."""
    if person.face is None:
        raise ValueError("a reference came without its face")
    return person.face
