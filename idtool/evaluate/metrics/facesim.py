"""FaceSim: how alike the people of an image are to those of its references, by a face recognition network.

One reference: the most alike face counts. Several: faces and references are matched one to one so that the sum of
cosines is largest (Hungarian method; IdGlow's metric sentence leaves the matching open, its loss, Eq. 2, does it so).
References that no face is left for count as 0; faces beyond the references are told by `extra_faces`, not punished.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from idtool.engine.step import Env
from idtool.evaluate.measures.people import IDENTITIES, PeopleIdentity
from idtool.evaluate.metrics.base import Metric, SampleMetric, Unscored
from idtool.evaluate.samples import Sample

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Match:
    """Faces of an image against the people of its references."""

    cosines: Floats
    """(references, faces)."""
    pairs: tuple[tuple[int, int], ...]
    """(reference, face), one to one."""

    @property
    def matched(self) -> Floats:
        """(references,) cosine of each reference with its face; 0 where there is no face left."""
        out = np.zeros(len(self.cosines))
        for reference, face in self.pairs:
            out[reference] = self.cosines[reference, face]
        return out


def match(references: Sequence[Sequence[float]], faces: Sequence[Sequence[float]]) -> Match:
    """Match embeddings (k, D) of references with those (m, D) of faces, all of length 1, by the Hungarian method."""
    from scipy.optimize import linear_sum_assignment

    if not len(references) or not len(faces):
        return Match(np.zeros((len(references), len(faces))), ())
    rows, columns = np.asarray(references, np.float64), np.asarray(faces, np.float64)
    cosines = rows @ columns.T
    pairs = tuple((int(a), int(b)) for a, b in zip(*linear_sum_assignment(-cosines), strict=True))
    return Match(cosines, pairs)


def matched(sample: Sample, column: str) -> Match:
    """`match` for a sample by an embedding column; the largest face of each reference is the person. Unscored when a
    reference has none."""
    people = [reference.get(column) or [] for reference in sample.references]
    if not people:
        raise Unscored("no reference: nobody to be alike to")
    for k, faces in enumerate(people):
        if not faces:
            raise Unscored(f"no face in reference {k + 1}")
    return match([faces[0] for faces in people], sample.image[column] or [])


class OnIdentity(SampleMetric):
    """A metric on one network of role `identity`."""

    measure: ClassVar[type[PeopleIdentity]] = PeopleIdentity

    def __init__(self, measure: type[PeopleIdentity] = PeopleIdentity) -> None:
        self.column = measure.writes.names[0]
        self.image = self.reference = ("people", measure.name)
        self.network = measure.name

    @classmethod
    def instances(cls, env: Env) -> Sequence[Metric]:
        found = [cls(measure) for measure in IDENTITIES if measure.bound(env)]
        if not found:
            raise Unscored(PeopleIdentity.why_not(env) or "")
        return found


class FaceSim(OnIdentity):
    """Cosine over the samples in which a face was found."""

    family = "facesim"
    summary = "cosine of the face with the reference, where a face is found"
    paper = "IdGlow Eq. 2-3 (Hungarian, buffalo_l); DMID CosSim; ConsistentID and DynamicID use FaceNet"
    unit = "cosine"
    bounds: ClassVar[Any] = (-1.0, 1.0)
    axis: ClassVar[Any] = "identity"

    def __call__(self, sample: Sample) -> float:
        found = matched(sample, self.column)
        if not found.cosines.shape[1]:
            raise Unscored("no face in the image")
        return float(found.matched.mean())


class FaceSimZero(FaceSim):
    """As `facesim`, with images that show no face counted as 0, as FastComposer's protocol does."""

    family = "facesim0"
    summary = "cosine of the face with the reference; 0 where no face is found"

    def __call__(self, sample: Sample) -> float:
        found = matched(sample, self.column)
        return float(found.matched.mean()) if found.cosines.shape[1] else 0.0
