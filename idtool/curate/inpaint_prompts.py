"""The regions that step `inpaint` draws anew, and what it draws there unless it is told otherwise."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

Kind = Literal["face", "head", "hair", "all-but-face"]
KINDS: tuple[Kind, ...] = ("face", "head", "hair", "all-but-face")
PROMPTS: Mapping[Kind, tuple[str, ...]] = {
    "face": (
        "a photo of the person looking into the camera with a slight smile",
        "a photo of the person laughing",
        "a photo of the person looking serious",
        "a photo of the person looking surprised, the mouth a little open",
    ),
    "head": (
        "a photo of the person, the head turned to the left",
        "a photo of the person, the head turned to the right, smiling",
        "a photo of the person looking up",
        "a photo of the person looking down, thoughtful",
    ),
    "hair": (
        "a photo of the person with long wavy hair",
        "a photo of the person with short hair",
        "a photo of the person with curly hair",
        "a photo of the person with the hair tied back",
    ),
    "all-but-face": (
        "a photo of the person in a dark suit in a bright office",
        "a photo of the person in a winter coat on a snowy street",
        "a photo of the person in a T-shirt at the beach in the evening sun",
        "a photo of the person in a knitted sweater in front of bookshelves",
        "a photo of the person in sportswear in a green park",
        "a photo of the person in evening dress on a stage under warm light",
    ),
}
"""Ours: the papers print none."""
