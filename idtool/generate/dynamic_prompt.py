"""Prompts written for the pictures at hand (IdGlow, paper 003, section 3.2): a vision-language model looks at the
references, says who is to stand where in what light, and that becomes the prompt.

The authors fine-tuned a model of their own for it and published neither weights nor prompts. Ours asks the profile's
captioner for a description by a schema; the wording aims at the three faults of the paper's taxonomy: what belongs to
one person going over to another, light that does not fit together, details left out.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from idtool.engine.operator import Rejected
from idtool.generate.method import Person, Request
from idtool.models.ask import Answer, Ask, Model
from idtool.models.caption_checks import MACHINE, NAMED, mentions

UNBOUND = "not_bound"
"""Reason of ours: the profile binds no captioner."""
PICTURES = "invalid_pictures"
"""Reason of ours: the description does not speak of every picture exactly once."""
MAX_TOKENS = 1024

SYSTEM = (
    "You plan photographs for an image generator that is given portraits and a text. It copies faces from the "
    "portraits; everything else it has to learn from the text."
)
QUESTION = """There {are} {count}: {pictures}. Each shows one person, and all of them are to be in the new photograph.

The new photograph as it is wished for: {wish}
{places}
Describe the new photograph so that nothing is left to guess:
- For each person, by the number of the picture: how they look (hair, apparent age and build as the wish demands, marks
  that tell them from the others), what they wear, and where they are. Keep people apart: a colour, a garment or an
  accessory belongs to one person and is named with that person only.
- The scene, one light for all of them (where it comes from, warm or cold, soft or hard), what they do with each other,
  and how the picture is laid out, from left to right and from front to back.
What the wish says goes before what the pictures show. Do not describe the shape of faces, and do not name or guess
anybody: say "the person"."""
FIELDS = {
    "appearance": "hair, apparent age and build in the new photograph, marks",
    "clothing": "every garment and accessory with its colour",
    "position": "where the person is in the frame, posture, which way they look",
}
WHOLE = {
    "scene": "place, background, objects",
    "light": "direction, colour and hardness of the one light",
    "interaction": "what the people do with each other or with things",
    "layout": "order from left to right, front to back, distance of the camera",
}
_LONGEST = 600
"""Characters of one field."""
WORDING = hashlib.sha256(repr((SYSTEM, QUESTION, FIELDS, WHOLE)).encode()).hexdigest()[:12]
"""Of the question; for fingerprints."""


@dataclass(frozen=True)
class Rewritten:
    """The prompt for one request."""

    prompt: str
    """The written one, or the request's own where there is none."""
    reason: str | None = None
    """Why there is none: one of `idtool.models.ask.REASONS`, `names_identity`, `invalid_pictures`, `not_bound`."""
    detail: str = ""
    description: Mapping[str, Any] | None = None
    """What the model said, by `schema_of`."""

    def facts(self) -> dict[str, Any]:
        """For the image's record."""
        told: dict[str, Any] = {"dynamic_prompt": self.reason or "used", "final_prompt": self.prompt}
        if self.reason:
            told["dynamic_prompt_detail"] = self.detail
        if self.description is not None:
            told["description"] = dict(self.description)
        return told

    def required(self) -> Rewritten:
        """Itself, where there is a written prompt. Rejected where the model would not or could not write one;
        RuntimeError where it could not be asked, which is no fault of the request."""
        if self.reason in MACHINE:
            raise RuntimeError(f"no prompt could be written: {self.detail or self.reason}")
        if self.reason is not None:
            raise Rejected(f"dynamic_prompt.{self.reason}", f"no prompt could be written: {self.detail or self.reason}")
        return self


def rewrite(model: Model, requests: Sequence[Request]) -> list[Rewritten]:
    """A prompt for each request, from its references and its own prompt. What goes wrong with one stays with it."""
    answers = model.ask([question(request) for request in requests])
    return [read(answer, request) for answer, request in zip(answers, requests, strict=True)]


def unbound(request: Request) -> Rewritten:
    """The request's own prompt, for want of a captioner."""
    return Rewritten(request.prompt, UNBOUND, "the profile binds no captioner")


def question(request: Request) -> Ask:
    """What the model is asked about a request."""
    count = len(request.people)
    names = [f"Picture {k}" for k in range(1, count + 1)]
    places = [f"Picture {k}: {place_of(person)}." for k, person in enumerate(request.people, 1) if person.box]
    return Ask(
        QUESTION.format(
            are="is" if count == 1 else "are",
            count="one picture" if count == 1 else f"{count} pictures",
            pictures=", ".join(names),
            wish=" ".join(request.prompt.split()),
            places=f"Where they are to stand: {' '.join(places)}\n" if places else "",
        ),
        tuple(person.image for person in request.people),
        system=SYSTEM,
        schema=schema_of(count),
        max_tokens=MAX_TOKENS,
    )


def place_of(person: Person) -> str:
    """A box in words: shares of the frame from the left and from the top, in percent."""
    left, top, right, bottom = person.box or (0.0, 0.0, 1.0, 1.0)
    return f"{left:.0%} to {right:.0%} of the width from the left, {top:.0%} to {bottom:.0%} of the height from the top"


def schema_of(count: int) -> dict[str, Any]:
    """JSON schema of the description of a photograph of so many people."""
    person = _object({"picture": {"type": "integer", "minimum": 1, "maximum": count}, **_texts(FIELDS)})
    people = {"type": "array", "minItems": count, "maxItems": count, "items": person}
    return _object({"people": people, **_texts(WHOLE)})


def read(answer: Answer, request: Request) -> Rewritten:
    """The prompt that an answer makes; the request's own with the reason where it makes none."""
    if not answer.ok:
        return Rewritten(request.prompt, answer.reason, answer.detail)
    told: Mapping[str, Any] = answer.data
    pictures = sorted(person["picture"] for person in told["people"])
    if pictures != list(range(1, len(request.people) + 1)):
        return Rewritten(request.prompt, PICTURES, f"people are described for the pictures {pictures}", told)
    prompt = composed(request.prompt, told)
    labels = [person.label for person in request.people if person.label]
    # A name draws a known face whatever the references show; only the wish itself may have one.
    if any(mentions(prompt, [label]) and not mentions(request.prompt, [label]) for label in labels):
        return Rewritten(request.prompt, NAMED, "the description names a person", told)
    return Rewritten(prompt, description=told)


def composed(wish: str, told: Mapping[str, Any]) -> str:
    """The prompt: the wish in its own words, then people by picture, then what they share."""
    people = sorted(told["people"], key=lambda person: int(person["picture"]))
    parts = [_sentence(wish)]
    for person in people:
        looks = ", ".join(_phrase(person[name]) for name in ("appearance", "clothing", "position"))
        parts.append(f"The person of Picture {person['picture']}: {looks}.")
    parts += [f"{name.capitalize()}: {_phrase(told[name])}." for name in ("interaction", "scene", "light", "layout")]
    keep = "Keep the face of every person as in their picture" if len(people) > 1 else "Keep the face as in the picture"
    apart = "; nothing of one person goes over to another" if len(people) > 1 else ""
    return " ".join([*parts, f"{keep}{apart}."])


def _texts(fields: Mapping[str, str]) -> dict[str, Any]:
    return {
        name: {"type": "string", "minLength": 1, "maxLength": _LONGEST, "description": meaning}
        for name, meaning in fields.items()
    }


def _object(properties: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "additionalProperties": False,
        "required": list(properties),
        "properties": dict(properties),
    }


def _phrase(text: str) -> str:
    """On one line, without the stop at its end."""
    return " ".join(text.split()).rstrip(".;, ")


def _sentence(text: str) -> str:
    line = " ".join(text.split())
    return line if line.endswith((".", "!", "?")) else f"{line}."
