"""Copy-paste: how much of its reference an image repeats that the person does not need: pose, expression, framing and
background. An identity score of a method that pastes the reference is worth little; 0 repeats nothing, 1 everything.

    pose        1 - d / 30, at least 0; d the angle in degrees of the rotation from one head to the other
    expression  1 - total variation distance of the two distributions over seven expressions
    framing     intersection over union of the face boxes, each as shares of its own picture: place and size
    background  cosine of copy-detection descriptors of the whole pictures, at least 0

Faces are matched with references as in `facesim`, and the first three averaged over the pairs. A picture has one
background: the most alike reference counts. Where a face fills the frame its descriptor is largely the face's: on 40
fixture photos .60 with another background behind the person, .70 with another face on it. `copy_paste` is the mean of
the components that the profile has networks for; its name tells when these are not all four.

What to expect: a copy of the reference has 1. Two fixture photos of one person have .59 in the middle (.29 to .78 from
the tenth to the ninetieth percentile), of two people .40 (.16 to .70), since portraits are alike by themselves. A
prompt that asks for what the reference shows is not told apart from copying: compare methods on the same prompts.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from idtool.engine.step import Env
from idtool.evaluate.measures.copy import CopyEmbedding
from idtool.evaluate.measures.people import PeopleIdentity
from idtool.evaluate.measures.people_expression import PeopleExpression
from idtool.evaluate.metrics.base import Metric, SampleMetric, Unscored
from idtool.evaluate.metrics.expression import needed
from idtool.evaluate.metrics.facesim import matched
from idtool.evaluate.metrics.networks import cosine, known
from idtool.evaluate.metrics.pose import POSES, Measured
from idtool.evaluate.samples import Sample

FAR = 30.0
"""Degrees between two heads from which on nothing of the pose is repeated."""
Columns = Mapping[str, Any]


class Copying(SampleMetric):
    """What the index and its components share."""

    unit = "share"
    bounds: ClassVar[Any] = (0.0, 1.0)
    better: ClassVar[Any] = "lower"
    axis: ClassVar[Any] = "copying"
    paper = "ours; DSD's debiased CP and CHARIS's diversity axis mean the same by a judge"


class OfFaces(Copying):
    """A component that compares faces: the mean over the people who are found."""

    part: ClassVar[str]

    def __init__(self, needs: Sequence[str], network: str | None) -> None:
        self.image = self.reference = (PeopleIdentity.name, *needs)
        self.network = network

    def __call__(self, sample: Sample) -> float:
        found = matched(sample, PeopleIdentity.writes.names[0])
        if not found.pairs:
            raise Unscored("no face in the image")
        pairs = [self.of(sample.image, face, sample.references[person]) for person, face in found.pairs]
        return float(np.mean(pairs))

    @abstractmethod
    def of(self, image: Columns, face: int, reference: Columns) -> float:
        """[0, 1] of one face of the image and the largest one of its reference."""


class PoseCopied(OfFaces):
    """By the network of role `pose`, or else of role `landmarks`."""

    family = "copy_paste_pose"
    part = "pose"
    summary = "how close the heads' poses are to those of the references; 0 from 30 degrees on"

    def __init__(self, measure: Measured) -> None:
        super().__init__(("people", measure.name), measure.name)
        self.column = measure.writes.names[0]

    @classmethod
    def instances(cls, env: Env) -> Sequence[Metric]:
        found = [cls(measure) for measure in POSES if measure.bound(env)]
        if not found:
            raise Unscored(f"needs role pose or landmarks; profile {env.profile} binds neither")
        return found[:1]

    def settings(self) -> dict[str, Any]:
        return {"far": FAR}

    def of(self, image: Columns, face: int, reference: Columns) -> float:
        return max(0.0, 1 - angle(image[self.column][face], reference[self.column][0]) / FAR)


class ExpressionCopied(OfFaces):
    """By the main network of role `expression`."""

    family = "copy_paste_expression"
    part = "expression"
    summary = "overlap of the people's expressions with those of the references"

    def __init__(self, needs: Sequence[str]) -> None:
        super().__init__(needs, PeopleExpression.name)

    @classmethod
    def instances(cls, env: Env) -> Sequence[Metric]:
        why = PeopleExpression.why_not(env)
        if why:
            raise Unscored(why)
        return [cls(needed(PeopleExpression, env))]

    def of(self, image: Columns, face: int, reference: Columns) -> float:
        column = PeopleExpression.writes.names[0]
        one, other = (np.asarray(row, np.float64) for row in (image[column][face], reference[column][0]))
        return float(np.clip(1 - np.abs(one - other).sum() / 2, 0, 1))


class FramingCopied(OfFaces):
    """By the boxes of the detector."""

    family = "copy_paste_framing"
    part = "framing"
    summary = "overlap of the face boxes, as shares of their pictures"

    def __init__(self) -> None:
        super().__init__(("people",), None)

    def of(self, image: Columns, face: int, reference: Columns) -> float:
        return overlap(shares(image, face), shares(reference, 0))


class BackgroundCopied(Copying):
    """By the network of role `copy`."""

    family = "copy_paste_background"
    part = "background"
    summary = "cosine of copy-detection descriptors with the most alike reference"

    def __init__(self) -> None:
        self.image = self.reference = (CopyEmbedding.name,)
        self.network = CopyEmbedding.name

    @classmethod
    def instances(cls, env: Env) -> Sequence[Metric]:
        why = CopyEmbedding.why_not(env)
        if why:
            raise Unscored(why)
        return [cls()]

    def __call__(self, sample: Sample) -> float:
        if not sample.references:
            raise Unscored("no reference: nothing to copy from")
        column = CopyEmbedding.writes.names[0]
        own = known(sample.image, column, "the image")
        return max(0.0, *(cosine(own, known(one, column, "a reference")) for one in sample.references))


Component = PoseCopied | ExpressionCopied | FramingCopied | BackgroundCopied
COMPONENTS: tuple[type[Component], ...] = (PoseCopied, ExpressionCopied, FramingCopied, BackgroundCopied)


class CopyPaste(Copying):
    """The index: mean of the components. An image without a face is not scored."""

    family = "copy_paste"
    summary = "how much of the references' pose, expression, framing and background the image repeats"

    def __init__(self, components: Sequence[Component]) -> None:
        self.components = components
        self.image = self.reference = measures_of(components)
        self.network = next((one.network for one in components if isinstance(one, BackgroundCopied)), None)
        if len(components) < len(COMPONENTS):
            self.variant = "@" + "+".join(one.part for one in components)

    @classmethod
    def instances(cls, env: Env) -> Sequence[Metric]:
        return [cls(components(env))]

    def settings(self) -> dict[str, Any]:
        return {one.part: one.settings() for one in self.components}

    def __call__(self, sample: Sample) -> float:
        return float(np.mean([one(sample) for one in self.components]))


def components(env: Env) -> list[Component]:
    """The components that the profile has networks for. Unscored where faces cannot be found or matched."""
    why = PeopleIdentity.why_not(env)
    if why:
        raise Unscored(why)
    found: list[Component] = []
    for cls in COMPONENTS:
        try:
            found += cls.instances(env)  # type: ignore[arg-type]
        except Unscored:
            continue  # the name of the index says so
    return found


def measures_of(components: Sequence[Component]) -> tuple[str, ...]:
    """Every measure that the components read, once."""
    return tuple(dict.fromkeys(name for one in components for name in one.image))


def angle(one: Sequence[float], other: Sequence[float]) -> float:
    """Degrees [0, 180] of the rotation between two heads, each given by yaw, pitch and roll in degrees (applied in the
    order pitch, yaw, roll, as `face_geometry.euler` reads them)."""
    from scipy.spatial.transform import Rotation

    first, second = (Rotation.from_euler("ZYX", [roll, yaw, -pitch], degrees=True) for yaw, pitch, roll in (one, other))
    return float(np.degrees((first.inv() * second).magnitude()))


def shares(columns: Columns, face: int) -> tuple[float, float, float, float]:
    """A face's left, top, right and bottom as shares of the picture's width and height."""
    height, width = columns["image_size"]
    left, top, right, bottom = columns["people_boxes"][face]
    return left / width, top / height, right / width, bottom / height


def overlap(one: Sequence[float], other: Sequence[float]) -> float:
    """Intersection over union [0, 1] of two boxes (left, top, right, bottom); 0 where neither has an area."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    both = max(0.0, width) * max(0.0, height)
    whole = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (one, other)) - both
    return both / whole if whole > 0 else 0.0
