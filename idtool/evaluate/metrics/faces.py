"""How many of the people that were asked for are there, and how many more: what averages over found faces hide."""

from __future__ import annotations

from typing import Any, ClassVar

from idtool.evaluate.metrics.base import SampleMetric, Unscored
from idtool.evaluate.samples import Sample


class FaceFound(SampleMetric):
    """min(k, m) / k of k references and m faces, whoever they are."""

    family = "face_found"
    summary = "share of the references that the image has a face for"
    paper = "ours; DynamicID Fig. 12 counts valid faces"
    unit = "share"
    bounds: ClassVar[Any] = (0.0, 1.0)
    axis: ClassVar[Any] = "identity"
    image = ("people",)

    def __call__(self, sample: Sample) -> float:
        asked, found = counts(sample)
        return min(asked, found) / asked


class ExtraFaces(SampleMetric):
    """max(0, m - k): a person shown twice, or passers-by. Prompts that ask for a crowd have them rightly."""

    family = "extra_faces"
    summary = "faces beyond the number of references"
    paper = "ours"
    unit = "faces"
    bounds: ClassVar[Any] = (0.0, None)
    better: ClassVar[Any] = "lower"
    axis: ClassVar[Any] = "identity"
    image = ("people",)

    def __call__(self, sample: Sample) -> float:
        asked, found = counts(sample)
        return float(max(0, found - asked))


def counts(sample: Sample) -> tuple[int, int]:
    """References, and faces of the image. Unscored without references."""
    if not sample.references:
        raise Unscored("no reference: nobody was asked for")
    return len(sample.references), len(sample.image["people_boxes"] or ())
