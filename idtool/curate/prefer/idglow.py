"""Rule `idglow`: group photos and good generations against poorer generations and worse copies (IdGlow, section 3.4).

Four parts: identity, objects, semantics, aesthetics; a pair's Delta of each is the chosen image's value less the
rejected one's (Eq. 8). Filter `paper` keeps a pair when any Delta is above its threshold (Eq. 9). As printed that also
keeps a pair that is far worse in another part, so `guarded` wants no Delta below minus its threshold, too. The paper
prints no thresholds; ours are starting values.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import PurePosixPath
from typing import Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field, field_validator

from idtool.curate.prefer.candidates import Candidates, Rows, Values
from idtool.curate.prefer.pairs import GENERATED, PERTURBED, PHOTO, Dropped, Found, Pair
from idtool.engine.step import Settings

Filter = Literal["paper", "guarded"]
TAU: Mapping[str, float] = {"id": 0.05, "obj": 0.05, "sem": 0.02, "aes": 0.3}
SOURCES = (f"{PHOTO}/{GENERATED}", f"{PHOTO}/{PERTURBED}", f"{GENERATED}/{GENERATED}", f"{GENERATED}/{PERTURBED}")


class IdGlowSettings(Settings):
    use: tuple[str, ...] = ("id", "obj", "sem", "aes")
    """Parts that count."""
    tau: Mapping[str, float] = Field(default_factory=dict)
    """Thresholds other than `TAU`, by part."""
    filter: Filter = "guarded"
    floor: float | None = 0.5
    """Identity that a generation must have to be chosen."""
    photo_floor: float | None = 0.3
    """Identity that a group photo must have to be chosen: below it the references show other people."""
    people: tuple[int, ...] = (2, 3)
    """Numbers of references that a group may have."""
    most: int | None = Field(default=1, ge=1)
    """Pairs of each source that a group gives, the largest margins first; None: all."""
    photos: tuple[str, ...] = ()
    """Methods of the benchmark whose images are authentic photos."""
    perturbed: tuple[str, ...] = ()
    """Methods of the benchmark whose images are worse copies."""

    @field_validator("tau")
    @classmethod
    def _above_zero(cls, value: Mapping[str, float]) -> Mapping[str, float]:
        for part, limit in value.items():
            if part not in TAU or limit <= 0:
                raise ValueError(f"tau is above 0, of {', '.join(TAU)}. Got {part}={limit:g}")
        return value

    @field_validator("use")
    @classmethod
    def _some(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if "id" not in value or len(set(value)) != len(value) or not set(value) <= set(TAU):
            raise ValueError(f"use lists some of {', '.join(TAU)}, each once, and id among them")
        return value

    @property
    def parts(self) -> tuple[str, ...]:
        return self.use

    @property
    def thresholds(self) -> dict[str, float]:
        return {part: self.tau.get(part, TAU[part]) for part in self.use}

    def kind(self, method: str) -> str:
        return PHOTO if method in self.photos else PERTURBED if method in self.perturbed else GENERATED


def passes(deltas: Values, tau: Values, rule: Filter = "paper") -> npt.NDArray[np.bool_]:
    """Whether pairs pass. `deltas` (…, parts), NaN where one of both images has no value: that speaks neither for nor
    against the pair. `tau` (parts,)."""
    with np.errstate(invalid="ignore"):
        better = (deltas > tau).any(axis=-1)
        worse = (deltas < -tau).any(axis=-1)
    return np.asarray(better & ~worse if rule == "guarded" else better, np.bool_)


def margins(deltas: Values, tau: Values) -> Values:
    """Mean of Delta / tau over the parts that are known; NaN where none is."""
    known = np.isfinite(deltas)
    total = np.where(known, deltas / tau, 0.0).sum(axis=-1)
    with np.errstate(invalid="ignore"):
        return np.asarray(np.where(known.any(axis=-1), total / known.sum(axis=-1), np.nan), np.float64)


def mine(candidates: Candidates, settings: IdGlowSettings) -> Found:
    """The pairs of each group, or why one kind of them, or the group, has none. `margin` is a mean of Delta / tau."""
    for group, rows in candidates.by_group():
        number = candidates.people[int(rows[0])]
        if number not in settings.people:
            wanted = " or ".join(map(str, settings.people))
            yield Dropped(group, "people.count", f"{number} references", float(number), f"{wanted} references")
            continue
        found = list(_of_group(candidates, group, rows, settings))
        if not found:
            lost = candidates.unscored(rows)
            kinds = ", ".join(sorted({settings.kind(candidates.methods[row]) for row in rows.tolist()}))
            told = f"{len(rows)} images ({kinds}) give no pair of a good and a worse one" + (
                f": {lost}" if lost else ""
            )
            yield Dropped(group, "no_pair", told, float(len(rows)))
        yield from found


def _of_group(candidates: Candidates, group: int, rows: Rows, settings: IdGlowSettings) -> Found:
    kinds = {row: settings.kind(candidates.methods[row]) for row in rows.tolist() if candidates.media[row] is not None}
    of_kind: dict[str, list[int]] = {GENERATED: [], PHOTO: [], PERTURBED: []}
    for row, kind in kinds.items():
        of_kind[kind].append(row)
    good: dict[str, list[int]] = {}
    for kind, floor in ((PHOTO, settings.photo_floor), (GENERATED, settings.floor)):
        good[kind] = []
        for row in of_kind[kind]:
            likeness = float(candidates.values["id"][row])
            if floor is None or likeness >= floor:  # an image that is not scored is no winner, either
                good[kind].append(row)
            elif kind == PHOTO:
                told = f"the photo does not show the people of the references: identity {likeness:.3f}"
                told = told if np.isfinite(likeness) else candidates.unscored(np.array([row], np.int64))
                value = likeness if np.isfinite(likeness) else None
                yield Dropped(group, "photo.other_people", told, value, f">= {floor:g}", row, source=PHOTO)
    if of_kind[GENERATED] and not good[GENERATED] and not good[PHOTO]:
        best = max((float(candidates.values["id"][row]) for row in of_kind[GENERATED]), key=lambda v: (v == v, v))
        value = best if np.isfinite(best) else None
        told = f"no generation is good enough to be chosen; the best has identity {best:.3f}"
        told = told if value is not None else f"no generation is scored: {candidates.unscored(rows)}"
        yield Dropped(group, "floor.id", told, value, f">= {settings.floor}")
    originals = _originals(candidates, of_kind[PERTURBED], [*of_kind[PHOTO], *of_kind[GENERATED]])
    for source in SOURCES:
        winners, losers = source.split("/")
        raw = [
            (w, loser)
            for w, loser in product(good[winners], of_kind[losers])
            if w != loser and (losers != PERTURBED or originals[loser] in (None, w))
        ]
        if raw:
            yield from _of_source(candidates, group, source, raw, settings)


def _of_source(
    candidates: Candidates, group: int, source: str, raw: Sequence[tuple[int, int]], settings: IdGlowSettings
) -> Found:
    """The pairs of one source that pass, or the one that came nearest."""
    tau = np.array(list(settings.thresholds.values()))
    values = np.stack([candidates.values[part] for part in settings.use], axis=-1)
    chosen, rejected = (np.array(one) for one in zip(*raw, strict=True))
    deltas = values[chosen] - values[rejected]
    margin = margins(deltas, tau)
    kept = passes(deltas, tau, settings.filter)
    if source == f"{GENERATED}/{GENERATED}":
        # Which of two generations is the good one is for the margin to say: any other way, both orders could pass.
        kept &= margin > 0
    order = sorted(range(len(raw)), key=lambda k: (-_or_least(float(margin[k])), _name(candidates, raw[k])))
    passing = [k for k in order if kept[k]][: settings.most]
    for k in passing:
        said = ", ".join(
            f"{part} {delta:+.3f}" for part, delta in zip(settings.use, deltas[k], strict=True) if np.isfinite(delta)
        )
        yield Pair(group, *raw[k], float(margin[k]), f"{source}, passes {settings.filter}: {said}", source)
    if not passing:
        nearest = order[0]
        value = float(np.nanmax(deltas[nearest] / tau)) if np.isfinite(deltas[nearest]).any() else None
        told = f"none of {len(raw)} pairs {source} passes filter {settings.filter}"
        told = told if value is not None else f"{told}: no part of both images is scored"
        limit = "a Delta / tau > 1" + (", none < -1" if settings.filter == "guarded" else "")
        yield Dropped(group, f"filter.{settings.filter}", told, value, limit, *raw[nearest], source)


def _or_least(value: float) -> float:
    return value if np.isfinite(value) else -np.inf


def _name(candidates: Candidates, pair: tuple[int, int]) -> tuple[str, ...]:
    return tuple(text for row in pair for text in (candidates.ids[row], candidates.methods[row]))


def _originals(candidates: Candidates, copies: Sequence[int], others: Sequence[int]) -> dict[int, int | None]:
    """Copy -> the row that it was made of; None where its table does not say. A parent is named by its sample's id, its
    path, its file's name or that name without ending; one that is not in the group is no row (-1)."""
    names: dict[str, int] = {}
    for row in others:
        media = str(candidates.media[row])
        path = PurePosixPath(media)
        for name in (candidates.ids[row], media, path.name, path.stem):
            names.setdefault(name, row)
    told = candidates.parents
    return {copy: names.get(told[copy], -1) if copy in told else None for copy in copies}
