"""The parts of a subject in two pictures, and which of them belong together (Instruct Identity, Algorithm 1, lines 1 to
3, by Grounded SAM as the paper says; what it leaves open is ours)."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from idtool.evaluate.charis.color_score import Area, Bools, Image

MIN_SCORE = 0.30
"""Of a box, as Grounded SAM takes it."""
ACCEPT = 0.6
"""Highest cost, 1 - cosine of features, at which two regions are the same part."""
MOST_PARTS, MOST_WORDS = 12, 4
MIN_CROP = 16
"""Pixels: a smaller crop shows a network nothing."""

FIXED: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "person": ("person", ("hair", "face", "top", "trousers", "skirt", "shoes", "hat", "glasses", "bag")),
    "animal": ("animal", ("head", "ears", "nose", "body", "legs", "tail", "collar")),
    "character": ("character", ("head", "ears", "face", "hands", "top", "trousers", "shoes", "hat")),
    "object": ("object", ("top", "body", "bottom", "handle", "lid", "label")),
}
"""Class of subject -> the phrase that finds it, and its parts."""
PERSON = frozenset(("man", "woman", "boy", "girl", "child", "baby", "mixed"))
"""Values of the slice `class` that are people; `mixed` stands for people of several classes in one picture."""


@dataclass(frozen=True)
class Labels:
    """What is looked for."""

    subject: str
    parts: tuple[str, ...]
    source: str
    """Who named them: `judge`, or `fixed list: <class>`."""


def fixed(slices: str | None) -> Labels:
    """The list for the sample's slice `class` (a JSON object): person where there is none. A subject that is none of
    the classes is looked for by its own name, and has the parts of an object."""
    given = str((json.loads(slices) if slices else {}).get("class") or "person").strip().lower()
    given = "person" if given in PERSON else given
    kind = given if given in FIXED else "object"
    phrase, parts = FIXED[kind]
    return Labels(phrase if given in FIXED else given, parts, f"fixed list: {kind}")


def named(answer: Mapping[str, Any]) -> Labels | None:
    """What a judge named (schema `questions.PARTS`), tidied; None where nothing is left of subject or parts."""
    subject = _phrase(answer["subject"])
    parts = dict.fromkeys(phrase for part in answer["parts"] if (phrase := _phrase(part)) and phrase != subject)
    return Labels(subject, tuple(parts)[:MOST_PARTS], "judge") if subject and parts else None


def _phrase(text: str) -> str:
    """In lower case, without marks; empty where there are too many words for a search."""
    words = re.findall(r"[^\W_]+(?:['’-][^\W_]+)*", text.lower())
    return " ".join(words) if len(words) <= MOST_WORDS else ""


@dataclass(frozen=True, eq=False)
class Part:
    """A region of a picture."""

    label: str | None
    """None: a region that nobody named."""
    area: Area

    def crop(self) -> Image:
        """The picture in the box around the mask, with what lies beside the region; at least 16 px where the picture
        has as many."""
        image, mask = self.area
        return image[_span(mask.any(axis=1)), _span(mask.any(axis=0))]


def _span(inside: npt.ArrayLike) -> slice:
    places, size = np.flatnonzero(inside), len(np.asarray(inside))
    low, high = int(places[0]), int(places[-1]) + 1
    length = max(high - low, min(MIN_CROP, size))
    low = min(max(0, (low + high - length) // 2), size - length)
    return slice(low, low + length)


@dataclass(frozen=True, eq=False)
class Outline:
    """A subject and its parts."""

    subject: Bools
    """(H, W)."""
    parts: tuple[Part, ...]


def outlines(
    grounded: Any, images: Sequence[Image], subjects: Sequence[Mapping[str, int]], parts: Sequence[Sequence[str]]
) -> list[Outline | None]:
    """Each RGB uint8 image's subject and parts by a `Grounded`; None where no subject is found.

    `subjects`: phrase -> how many; the surest ones are taken. All masks are cut to theirs, and parts under .5 % of
    them dropped (`Grounded.min_area`).
    """
    found = grounded.regions(images, [list(phrases) for phrases in subjects])
    whole = [_union(regions, phrases) for regions, phrases in zip(found, subjects, strict=True)]
    having = [(k, mask) for k, mask in enumerate(whole) if mask is not None]
    inner = grounded.regions(
        [images[k] for k, _ in having], [parts[k] for k, _ in having], [mask for _, mask in having]
    )
    made: list[Outline | None] = [None] * len(images)
    for (k, mask), regions in zip(having, inner, strict=True):
        sure = [Part(one.label, (images[k], one.mask)) for one in regions if one.score >= MIN_SCORE]
        made[k] = Outline(mask, tuple(sure))
    return made


def _union(regions: Sequence[Any], phrases: Mapping[str, int]) -> Bools | None:
    masks = []
    for phrase, count in phrases.items():
        masks += [one.mask for one in regions if one.label == phrase and one.score >= MIN_SCORE][:count]
    return np.logical_or.reduce(masks) if masks else None


def matched(
    first: Sequence[str | None], second: Sequence[str | None], cosines: npt.ArrayLike, accept: float = ACCEPT
) -> list[tuple[int, int]]:
    """Which regions belong together, as (index of first, index of second), by their labels and the cosines (N, M) of
    their features: one to one among those of one label so that the cosines add up to most (Hungarian method), those
    without a label among themselves; pairs that cost more than `accept` (1 - cosine) are none."""
    from scipy.optimize import linear_sum_assignment

    costs = 1 - np.asarray(cosines, np.float64).reshape(len(first), len(second))
    pairs = []
    for label in dict.fromkeys(first):
        rows = [k for k, one in enumerate(first) if one == label]
        columns = [k for k, one in enumerate(second) if one == label]
        for a, b in zip(*linear_sum_assignment(costs[np.ix_(rows, columns)]), strict=True):
            if costs[rows[a], columns[b]] <= accept:
                pairs.append((rows[a], columns[b]))
    return sorted(pairs)
