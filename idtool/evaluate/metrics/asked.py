"""What a sample's targets ask of each person, and which face is to show it."""

from __future__ import annotations

from dataclasses import dataclass

from idtool.evaluate.metrics.base import Unscored
from idtool.evaluate.metrics.facesim import matched
from idtool.evaluate.samples import Sample


@dataclass(frozen=True)
class Wish:
    """Something that one person was to show."""

    word: str
    face: int | None
    """Which face of the image (0 is the largest) shows that person; None where there are fewer faces than people."""


def asked(sample: Sample, key: str, column: str) -> list[Wish]:
    """Targets `key` (`expression`, `orientation`) of a sample with the faces that they are looked for in; people of
    whom nothing was asked are left out. `column`: embeddings that faces are matched with references by.

    One person: the face most alike the reference, whoever else is in the picture. Several: DynamicID's prompts place
    what they ask for ("the person on the left has a happy expression …, and the person on the right …", App. 7.4) and
    do not say who that is, so the faces that are matched with references (Hungarian, as in `facesim`) count from left
    to right, by the middles of their boxes, whichever reference they are like. Where fewer people are found than were
    asked for, those that are found take the targets of the references that they are matched with, from left to right.

    Raises Unscored where nothing was asked for, where there is no face at all, or as `facesim.matched`.
    """
    words = sample.targets.get(key)
    if not words or not any(words):
        raise Unscored(f"the prompt asks for no {key}")
    if len(words) != len(sample.references):
        raise Unscored(f"there are {len(words)} targets of {key} for {len(sample.references)} references")
    found = matched(sample, column)
    if not found.pairs:
        raise Unscored("no face in the image")
    boxes = sample.image["people_boxes"]
    people = sorted(person for person, _ in found.pairs)
    faces = sorted((face for _, face in found.pairs), key=lambda face: float(boxes[face][0] + boxes[face][2]))
    place = dict(zip(people, faces, strict=True))
    return [Wish(str(word), place.get(person)) for person, word in enumerate(words) if word]
