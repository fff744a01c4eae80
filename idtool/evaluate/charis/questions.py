"""What judges are asked. The wordings are ours (neither CHARIS' nor DSD's prompts are published; DreamBench++'s are not
copied) and lie in `prompts/`, a file each; a changed word is another measure, so their hash is beside every score."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

import numpy as np
import numpy.typing as npt

from idtool.models.ask import Ask
from idtool.models.judge import SCORE_SCHEMA

Image = npt.NDArray[np.uint8]

# Reasons first: answers are written in the order of the schema, and a score should follow from its reasons.
_REASONS, _SCORE = ({name: SCORE_SCHEMA["properties"][name]} for name in ("reasons", "score"))
SCORE: Mapping[str, Any] = {**SCORE_SCHEMA, "properties": {**_REASONS, **_SCORE}, "required": ["reasons", "score"]}
"""A whole score from 0 to 4, after the reasons for it."""
ASKED: Mapping[str, Any] = {
    **SCORE_SCHEMA,
    "properties": {**_REASONS, "asked": {"type": "boolean"}, **_SCORE},
    "required": ["reasons", "asked", "score"],
}
"""As `SCORE`, with whether the text asks for a change of this kind at all."""
PARTS: Mapping[str, Any] = {
    "type": "object",
    "properties": {"subject": {"type": "string"}, "parts": {"type": "array", "items": {"type": "string"}}},
    "required": ["subject", "parts"],
    "additionalProperties": False,
}
"""The subject of a picture and its parts."""
MAX_TOKENS = 800


@dataclass(frozen=True)
class Question:
    """One question to a judge."""

    name: str
    template: str
    """With `{pictures}`, which says what the pictures are, and `{text}`, the prompt of the generated one."""
    system: str
    schema: Mapping[str, Any]

    @property
    def hash(self) -> str:
        """First 16 hexadecimal digits of the SHA-256 of wording, system text and schema."""
        content = json.dumps([self.template, self.system, self.schema])
        return hashlib.sha256(content.encode()).hexdigest()[:16]

    @property
    def needs_text(self) -> bool:
        return "{text}" in self.template

    def ask(self, references: Sequence[Image], image: Image | None = None, text: str = "") -> Ask:
        """The question on RGB uint8 pictures (H, W, 3): references first, then the generated image, if any."""
        prompt = self.template.replace("{pictures}", _pictures(len(references), image is not None))
        # The text last: whatever stands in it is not taken for a placeholder.
        prompt = prompt.replace("{text}", text)
        pictures = (*references, *([image] if image is not None else ()))
        return Ask(prompt, pictures, system=self.system, schema=self.schema, max_tokens=MAX_TOKENS)


def _pictures(references: int, generated: bool) -> str:
    if not references:
        return "The picture was made by an image generator." if generated else ""
    if references == 1:
        return "The first picture is the reference: it shows the subject. The second was made by an image generator."
    return (
        f"The first {references} pictures are the references: each shows one subject, and all of them together are "
        "what is called the subject below. The last picture was made by an image generator."
    )


_SCHEMAS: Mapping[str, Mapping[str, Any]] = {
    "identity": SCORE,
    "prompt": SCORE,
    "diversity_pose": ASKED,
    "diversity_scene": ASKED,
    "diversity_framing": ASKED,
    "concept": SCORE,
    "following": SCORE,
    "concept_debiased": SCORE,
    "following_debiased": SCORE,
    "parts": PARTS,
}


@cache
def question(name: str) -> Question:
    """The question in `prompts/<name>.md`. KeyError for an unknown name."""
    folder = resources.files("idtool.evaluate.charis") / "prompts"
    schema = _SCHEMAS[name]
    text, system = ((folder / f"{file}.md").read_text("utf-8").strip() for file in (name, "system"))
    return Question(name, text, system, schema)
