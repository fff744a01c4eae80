"""Expr: whether people show the expression that was asked for, by an expression network.

A person who is missing among others that are there shows nothing, and counts as 0; an image without any face is not
scored (`face_found` tells how often that is).
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from idtool.engine.step import Env
from idtool.errors import MissingError
from idtool.evaluate.measures.people import PeopleIdentity
from idtool.evaluate.measures.people_expression import EXPRESSION_MEASURES, PeopleExpression
from idtool.evaluate.measures.people_pose import PeopleMesh
from idtool.evaluate.metrics.asked import asked
from idtool.evaluate.metrics.base import Metric, SampleMetric, Unscored
from idtool.evaluate.samples import Sample
from idtool.models.emotions import word as in_our_words
from idtool.models.expression import EXPRESSIONS


def needed(measure: type[PeopleExpression], env: Env) -> tuple[str, ...]:
    """Measures that an expression network's probabilities are made with. Blendshapes always where the profile has
    them: probabilities must not depend on which other metrics were asked for."""
    mesh = (PeopleMesh.name,) if PeopleMesh.why_not(env) is None else ()
    return ("people", *mesh, measure.name)


class OnExpression(SampleMetric):
    """A metric of the expressions that were asked for, on one network of role `expression`."""

    bounds: ClassVar[Any] = (0.0, 1.0)
    axis: ClassVar[Any] = "editability"

    def __init__(self, measure: type[PeopleExpression], needs: Sequence[str]) -> None:
        self.column = measure.writes.names[0]
        self.image = (PeopleIdentity.name, *needs)
        self.reference = ("people", PeopleIdentity.name)
        self.network = measure.name

    @classmethod
    def instances(cls, env: Env) -> Sequence[Metric]:
        found = [cls(measure, needed(measure, env)) for measure in EXPRESSION_MEASURES if measure.bound(env)]
        if not found:
            raise Unscored(PeopleExpression.why_not(env) or "")
        return found

    def __call__(self, sample: Sample) -> float:
        wishes = asked(sample, "expression", PeopleIdentity.writes.names[0])
        faces = np.asarray(sample.image[self.column], np.float64)
        return float(np.mean([0.0 if w.face is None else self.of(faces[w.face], class_of(w.word)) for w in wishes]))

    @abstractmethod
    def of(self, probabilities: npt.NDArray[np.float64], wanted: int) -> float:
        """[0, 1] of one face: its probabilities (7,), and which of them was asked for."""


class Expr(OnExpression):
    """Probability of the expression."""

    family = "expr"
    summary = "probability of the expression that was asked for, averaged over people"
    paper = "DynamicID §4.1 and App. 7.4 (ResEmoteNet); people from left to right, and missing ones as 0, are ours"
    unit = "probability"

    def of(self, probabilities: npt.NDArray[np.float64], wanted: int) -> float:
        return float(probabilities[wanted])


class ExprAccuracy(OnExpression):
    """Whether it is the most probable one: steadier than probabilities of networks that are always sure."""

    family = "expr_accuracy"
    summary = "share of people whose most probable expression is the one that was asked for"
    unit = "share"

    def of(self, probabilities: npt.NDArray[np.float64], wanted: int) -> float:
        return float(int(np.argmax(probabilities)) == wanted)


def class_of(text: str) -> int:
    """Place of a target's word (`happy`, `afraid`, `fear` …) in `EXPRESSIONS`. Unscored for any other word."""
    try:
        return EXPRESSIONS.index(in_our_words(text))
    except (MissingError, ValueError):
        raise Unscored(f"{text!r} is none of the expressions {', '.join(EXPRESSIONS)}") from None
