"""Rule `dmid`: the best against the worst of several generations of one request (DMID, section 3.3 and App. A.4.3).

R = CosSim + mu * CLIP (Eq. 10), mu = 4. Both terms are raw cosines: on the scale of 100 x cosine the second would drown
the first. The paper keeps every pair; a gap that is small beside the others, and a winner that is not the person, are
ours to drop.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from pydantic import Field

from idtool.curate.prefer.candidates import Candidates, Rows, Values
from idtool.curate.prefer.pairs import Dropped, Found, Pair
from idtool.curate.prefer.parts import Part
from idtool.engine.step import Settings
from idtool.errors import UsageError

MU, MU_Z = 4.0, 1.0


class DmidSettings(Settings):
    clip: bool = True
    """Whether CLIP counts; else R is CosSim alone."""
    zscore: bool = False
    """Both terms less their mean and over their deviation among the generations of one request."""
    mu: float | None = Field(default=None, ge=0)
    """Weight of the CLIP term. None: the paper's 4 on cosines; 1 on z-scores, where 4 would leave CosSim little say."""
    floor: float | None = 0.5
    """CosSim that the chosen image must have; None: any."""
    gap_quantile: float = Field(default=0.25, ge=0, lt=1)
    """Pairs whose gap is below this quantile of all gaps are dropped; 0 keeps them all."""
    fewest: int = Field(default=2, ge=2)
    """Scored generations that a request must have. The paper makes 8."""

    @property
    def weight(self) -> float:
        return self.mu if self.mu is not None else (MU_Z if self.zscore else MU)

    @property
    def parts(self) -> tuple[str, ...]:
        return ("id", "sem") if self.clip else ("id",)


@dataclass(frozen=True)
class _Best:
    """The best and the worst of a group."""

    group: int
    chosen: int
    rejected: int
    gap: float
    reason: str


def check_scales(parts: Mapping[str, Part], settings: DmidSettings) -> None:
    """UsageError where the terms of R are not both cosines, which mu = 4 is for."""
    if settings.zscore or not settings.clip:
        return
    for part in parts.values():
        if part.unit != "cosine":
            raise UsageError(
                f"R adds cosines, and {part.metric} is none (its unit is {part.unit}).",
                "Take clip_t (a raw cosine), or --zscore, which puts both terms on one scale.",
            )


def rewards(values: Mapping[str, Values], settings: DmidSettings) -> Values:
    """R of the generations of one request. `values`: part -> value of each; all finite."""
    terms = {part: standardised(one) if settings.zscore else one for part, one in values.items()}
    return terms["id"] + (settings.weight * terms["sem"] if settings.clip else 0.0)


def standardised(values: Values) -> Values:
    """Less their mean, over their (population) deviation; 0 where all are alike."""
    deviation = values.std()
    scale = max(float(np.abs(values).max(initial=0.0)), 1.0)
    return (values - values.mean()) / deviation if deviation > 1e-12 * scale else np.zeros_like(values)


def mine(candidates: Candidates, settings: DmidSettings) -> Found:
    """A pair, or the reason why there is none, for each group. `margin` is the gap of R."""
    found: list[_Best] = []
    for group, rows in candidates.by_group():
        best = _of_group(candidates, group, rows, settings)
        if isinstance(best, Dropped):
            yield best
        else:
            found.append(best)
    if not found:
        return
    limit = float(np.quantile([one.gap for one in found], settings.gap_quantile)) if settings.gap_quantile else 0.0
    for one in found:
        if one.gap < limit:
            yield Dropped(
                one.group,
                "gap.quantile",
                f"the best and the worst generation are closer than in most groups: {one.gap:.4f}",
                one.gap,
                f">= {limit:.6g} (quantile {settings.gap_quantile:g})",
                one.chosen,
                one.rejected,
            )
        else:
            yield Pair(one.group, one.chosen, one.rejected, one.gap, one.reason)


def _of_group(candidates: Candidates, group: int, rows: Rows, settings: DmidSettings) -> _Best | Dropped:
    made = np.array([candidates.media[row] is not None for row in rows.tolist()], bool)
    scored = made & np.all([np.isfinite(candidates.values[part][rows]) for part in settings.parts], axis=0)
    usable = rows[scored]
    if len(usable) < settings.fewest:
        lost = candidates.unscored(rows[~scored])
        told = f"{len(usable)} of {len(rows)} generations are scored" + (f" ({lost})" if lost else "")
        return Dropped(group, "too_few", told, float(len(usable)), f">= {settings.fewest}")
    reward = rewards({part: candidates.values[part][usable] for part in settings.parts}, settings)
    order = _order(candidates, usable, reward)
    worst, best = int(order[0]), int(order[-1])
    gap = float(reward[best] - reward[worst])
    chosen, rejected = int(usable[best]), int(usable[worst])
    if gap <= 0:
        return Dropped(group, "gap.none", "all generations have the same R", 0.0, "> 0", chosen, rejected)
    likeness = float(candidates.values["id"][chosen])
    if settings.floor is not None and likeness < settings.floor:
        told = f"CosSim of the best generation is {likeness:.3f}"
        return Dropped(group, "floor.id", told, likeness, f">= {settings.floor:g}", chosen, rejected)
    reason = f"best and worst of {len(usable)} by R: {reward[best]:.4f} against {reward[worst]:.4f}"
    return _Best(group, chosen, rejected, gap, reason)


def _order(candidates: Candidates, rows: Sequence[int] | Rows, reward: Values) -> Rows:
    """Positions from the worst to the best; equal ones by seed and id, so that the order of a table changes nothing."""
    tie = [(candidates.seeds[row] or 0, candidates.ids[row], candidates.methods[row]) for row in map(int, rows)]
    return np.array(sorted(range(len(tie)), key=lambda k: (reward[k], tie[k])), np.int64)
