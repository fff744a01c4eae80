"""The questions that captions are answers to. A changed text is another caption: its hash is in every fingerprint."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Prompt:
    """One question to a vision-language model about one image."""

    text: str
    source: str
    """Where the wording comes from."""

    @property
    def version(self) -> str:
        """First 12 hexadecimal digits of the SHA-256 of the text."""
        return hashlib.sha256(self.text.encode()).hexdigest()[:12]

    def facts(self) -> dict[str, Any]:
        """For fingerprints and manifests."""
        return {"version": self.version, "text": self.text, "source": self.source}


PERSON = Prompt(
    "Describe the person in this picture in one or two sentences: apparent age, hair, clothing, expression, pose, and "
    "what they are doing. Do not say or guess who it is. Leave the background out.",
    "ours; DMID, section 4.1.2, asks for a description of the person and prints no prompt",
)
BACKGROUND = Prompt(
    "Describe in one sentence what is around and behind the person in this picture: place, objects, light, colours. "
    "Do not mention the person. If the background is plain, say which colour it has.",
    "ours; DMID, section 4.1.2, asks for a description of the background and prints no prompt",
)
FGID_PERSON = Prompt(
    "Please describe the people in the image, including their gender, age, clothing, facial expressions, and any other "
    "distinguishing features.",
    "ConsistentID, section 3.4.1, word for word",
)
FGID_FEATURES = Prompt(
    "Describe this person's facial features, including the face, ears, eyes, nose, and mouth.",
    "ConsistentID, section 3.1, word for word",
)
NO_NAMES = Prompt(
    "Do not use anybody's name: write 'the person' instead.",
    "ours; added when the first answer named the person",
)


def replaced(defaults: Mapping[str, Prompt], own: Mapping[Any, str]) -> dict[str, Prompt]:
    """The questions, those in `own` in the user's words."""
    return {name: Prompt(own[name], "the recipe") if name in own else prompt for name, prompt in defaults.items()}
