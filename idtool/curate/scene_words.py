"""A photo of several people in words: the question to a captioner, and the prompt made of its answer or, without one,
of where faces were found. People are numbered from left to right, as the references of step `requests` are.

IdGlow (section 3.2) writes such prompts for pictures to be made; here one is written for a photo that is there, so that
the photo is the best answer to it. Schema and composition are those of `idtool.generate.dynamic_prompt`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

from idtool.curate.template_caption import background
from idtool.generate.dynamic_prompt import MAX_TOKENS, composed, schema_of
from idtool.models.ask import Ask

NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
QUESTION = """This photograph shows {count} people. Number them from left to right: {people}
Describe the photograph so that it could be made anew from your words by somebody who has a portrait of each of them:
- For each person, by number (field `picture`): how they look (hair, apparent age and build, marks that tell them from
  the others), what they wear, where they are. A colour, a garment or an accessory belongs to one person and is named
  with that person only.
- The scene, the light, what the people do with each other, and how the picture is laid out, from left to right and from
  front to back.
Do not describe the shape of faces, and do not name or guess anybody: say "the person"."""
WORDING = hashlib.sha256(QUESTION.encode()).hexdigest()[:12]
HEIGHT = 0.5
"""Heads are level when their middles differ by less than this share of a face's height."""
NEAR = 1.6
"""Somebody is nearer when the face is so many times as high."""

Box = Sequence[float]


def question(image: Any, boxes: Sequence[Box], size: Sequence[int], more: str = "") -> Ask:
    """What a captioner is asked about a photo. `boxes`: of the faces, px; `size`: height and width."""
    order = left_to_right(boxes)
    width = float(size[1]) or 1.0
    middles = [(boxes[k][0] + boxes[k][2]) / 2 / width for k in order]
    people = " ".join(f"{n}: face at {at:.0%} of the width." for n, at in enumerate(middles, 1))
    text = QUESTION.format(count=number_word(len(boxes)), people=people)
    return Ask(f"{text} {more}".rstrip(), (image,), schema=schema_of(len(boxes)), max_tokens=MAX_TOKENS)


def from_answer(told: Mapping[str, Any], count: int) -> str | None:
    """The prompt of a description by the schema; None where it does not speak of every person once."""
    if sorted(one["picture"] for one in told["people"]) != list(range(1, count + 1)):
        return None
    return composed(opening(count), told)


def from_boxes(boxes: Sequence[Box], size: Sequence[int], facts: Mapping[str, Any]) -> str:
    """The prompt of what was measured, and nothing else: who is where, how near, and the light."""
    order = [boxes[k] for k in left_to_right(boxes)]
    height, width = (float(value) or 1.0 for value in size)
    tall = [box[3] - box[1] for box in order]
    parts = [opening(len(order))]
    for n, box in enumerate(order, 1):
        share = (box[2] - box[0]) * (box[3] - box[1]) / (width * height)
        parts.append(f"The person of Picture {n}: {_place(n, len(order))}, {_distance(share)}.")
    near = max(range(len(order)), key=lambda k: tall[k])
    far = min(range(len(order)), key=lambda k: tall[k])
    if tall[near] >= NEAR * max(tall[far], 1.0):
        parts.append(
            f"Layout: the person of Picture {near + 1} is nearest to the camera, that of Picture {far + 1} farthest."
        )
    else:
        middles = [(box[1] + box[3]) / 2 for box in order]
        level = max(middles) - min(middles) < HEIGHT * sum(tall) / len(tall)
        parts.append(f"Layout: side by side, {'heads at one height' if level else 'heads at different heights'}.")
    return " ".join([*parts, background(facts)])


def opening(count: int) -> str:
    return f"A photo of {number_word(count)} people."


def number_word(count: int) -> str:
    return NUMBERS[count] if count < len(NUMBERS) else str(count)


def left_to_right(boxes: Sequence[Box]) -> list[int]:
    """Numbers of boxes in order of their middles."""
    return sorted(range(len(boxes)), key=lambda k: (boxes[k][0] + boxes[k][2], k))


def _place(n: int, count: int) -> str:
    if n == 1:
        return "on the left"
    if n == count:
        return "on the right"
    return "in the middle" if count == 3 else f"number {n} from the left"


def _distance(share: float) -> str:
    """From the share of the frame that the face's box takes."""
    if share >= 0.08:
        return "close to the camera"
    return "at a middle distance" if share >= 0.01 else "far from the camera"
