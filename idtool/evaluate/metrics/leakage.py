"""Leakage: how far the people of one image take on each other's looks.

For the face f that is matched with reference i, and each other reference j, the cosine of f with j beyond what i and j
have in common anyway; the largest of these, clipped at 0, averaged over the matched faces:

    mean over i of max(0, max over j != i of cos(f_i, r_j) - cos(r_i, r_j))

Exact copies of all references leak nothing. One person shown twice leaks 1 - cos(r_1, r_2) into the second face, so .5
of two strangers. Two faces half and half leak about .7 each.
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from idtool.evaluate.metrics.base import Unscored
from idtool.evaluate.metrics.facesim import OnIdentity, matched
from idtool.evaluate.samples import Sample


class Leakage(OnIdentity):
    """On one network of role `identity`."""

    family = "leakage"
    summary = "how much more alike the other references a face is than its own reference is"
    paper = "ours"
    unit = "cosine"
    bounds: ClassVar[Any] = (0.0, 2.0)
    better: ClassVar[Any] = "lower"
    axis: ClassVar[Any] = "identity"

    def __call__(self, sample: Sample) -> float:
        if len(sample.references) == 1:
            raise Unscored("one person: nobody to take looks from")
        found = matched(sample, self.column)
        if not found.pairs:
            raise Unscored("no face in the image")
        people = np.asarray([reference[self.column][0] for reference in sample.references], np.float64)
        excess = []
        for person, face in found.pairs:
            beyond = found.cosines[:, face] - people @ people[person]
            excess.append(max(0.0, float(np.delete(beyond, person).max())))
        return float(np.mean(excess))
