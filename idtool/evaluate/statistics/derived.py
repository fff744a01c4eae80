"""Metrics whose number for a whole set is made of the means of others, as CHARIS is of its axes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from idtool.evaluate.statistics.bootstrap import Floats, Statistic, itself


class Rule(Protocol):
    """How the number of a set follows, such as `idtool.evaluate.charis.aggregate.Derived`."""

    @property
    def families(self) -> Sequence[str]:
        """Families of the metrics that it is made of."""

    def __call__(self, means: Sequence[npt.ArrayLike | None]) -> npt.NDArray[np.float64]:
        """Means of the families, arrays of one shape -> the number, of that shape."""


Derived = Mapping[str, Rule]
"""Family -> rule."""


def known() -> Derived:
    """The rules of the metrics that come with idtool."""
    from idtool.evaluate.metrics import charis, judged

    return {**charis.DERIVED, **judged.DERIVED}


@dataclass(frozen=True)
class Parts:
    """The metrics that a metric's number is made of: the metric itself, then those of its rule."""

    metrics: tuple[str, ...]
    statistic: Statistic
    lacking: tuple[str, ...] = ()
    """Families of the rule that were not scored; there can be no number then."""

    @property
    def note(self) -> str:
        if self.lacking:
            return f"no number of the whole set: it is made of the means of {', '.join(self.lacking)}; score them too"
        of = ", ".join(self.metrics[1:])
        return f"mean, interval and tests: from the means of {of}; spread and wins: of single samples" if of else ""


def parts_of(name: str, metrics: Mapping[str, Mapping[str, Any]], derived: Derived) -> Parts:
    """What the number of a metric is made of. `metrics`: name -> at least its `family`."""
    rule = derived.get(metrics[name]["family"])
    if rule is None:
        return Parts((name,), itself)
    first: dict[str, str] = {}
    for key, metric in metrics.items():
        first.setdefault(metric["family"], key)
    lacking = tuple(family for family in rule.families if family not in first)
    if lacking:
        return Parts((name,), nothing, lacking)
    return Parts((name, *(first[family] for family in rule.families)), _by(rule))


def nothing(means: Floats) -> Floats:
    """The statistic of a metric that cannot be derived."""
    return np.full(means.shape[1:], np.nan)


def _by(rule: Rule) -> Statistic:
    def statistic(means: Floats) -> Floats:
        # Rounding, and the small steps that a slope is taken with, go below a mean of 0 by a hair.
        above = np.where((means[1:] < 0) & (means[1:] > -1e-3), 0.0, means[1:])
        return np.asarray(rule(list(above)), np.float64)

    return statistic
