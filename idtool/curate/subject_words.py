"""Words that subjects are drawn from where nobody lists them, and scenes that they are shown in. All of it is ours: the
paper names the four classes (Instruct Identity, "Datasets") and prints neither descriptors nor scenes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np

SubjectClass = Literal["human", "animal", "anthropomorphic", "object"]
CLASSES: tuple[SubjectClass, ...] = ("human", "animal", "anthropomorphic", "object")

PATTERNS: Mapping[SubjectClass, str] = {
    "human": "{age} {person} with {hair}, wearing {clothes} and {extra}",
    "animal": "{build} {animal} with {coat} and {mark}",
    "anthropomorphic": "anthropomorphic {animal} {job} with {coat}, wearing {clothes}",
    "object": "animated {thing} character with a {colour} body, cartoon arms and legs, and {extra}",
}
"""How a descriptor is put together. Colours and clothes are said, since a subject is known by them."""
WORDS: Mapping[str, tuple[str, ...]] = {
    "age": ("a ten-year-old", "a teenage", "a young", "a middle-aged", "an elderly"),
    "person": (
        "East Asian woman",
        "East Asian man",
        "Black woman",
        "Black man",
        "white woman",
        "white man",
        "South Asian woman",
        "South Asian man",
        "Latina woman",
        "Latino man",
        "Middle Eastern woman",
        "Middle Eastern man",
    ),
    "hair": (
        "short curly black hair",
        "shoulder-length brown hair",
        "a blond bob",
        "long red hair in a plait",
        "grey hair tied back",
        "a shaved head",
        "wavy chestnut hair",
        "tight silver curls",
    ),
    "clothes": (
        "a green raincoat",
        "a red checked shirt and jeans",
        "a navy suit",
        "a yellow jumper and black trousers",
        "a white chef's jacket",
        "blue dungarees over a striped top",
        "a brown leather jacket",
        "an orange tracksuit",
    ),
    "extra": (
        "round glasses",
        "a purple scarf",
        "a straw hat",
        "a silver wristwatch",
        "a red bow tie",
        "white trainers",
        "a canvas bag",
        "a flat cap",
    ),
    "build": ("a small", "a sturdy", "a lean", "a fluffy", "an old", "a young"),
    "animal": (
        "golden retriever",
        "tabby cat",
        "red panda",
        "grey rabbit",
        "brown bear",
        "fox",
        "barn owl",
        "pig",
        "hedgehog",
        "otter",
        "donkey",
        "tortoise",
    ),
    "coat": ("pale cream fur", "dark brown fur", "orange and white fur", "grey fur with a white belly", "black fur"),
    "mark": ("a blue collar", "one white paw", "a torn ear", "a star on the forehead", "a red bandana", "green eyes"),
    "job": ("police officer", "baker", "astronaut", "gardener", "postman", "doctor", "painter", "sailor"),
    "thing": ("teapot", "telephone", "taco", "lamp", "alarm clock", "suitcase", "pencil", "cactus", "radio", "cup"),
    "colour": ("pink", "turquoise", "mustard-yellow", "bright red", "mint-green", "dark-blue", "white and gold"),
}
"""Blank of a pattern -> what may stand there."""

_ACTING = (
    "walking towards the camera on a busy street, seen from head to foot",
    "sitting at a desk and writing, seen from the side, a library in the background",
    "jumping in the air with both arms up, a park in the background",
    "seen from behind, looking back over one shoulder, a harbour in the background",
    "kneeling to tie a shoe, a railway platform in the background",
    "laughing, a close view of head and shoulders, a café in the background",
    "holding a basket of vegetables beside a market stall",
    "sitting cross-legged and reading on a lawn, seen from above",
    "running along a beach at sunset, in profile",
    "standing with folded arms, looking up, seen from below, tall buildings in the background",
    "dancing in a living room, one hand on the hip",
    "riding a bicycle along a forest path",
)
SCENES: Mapping[SubjectClass, tuple[str, ...]] = {
    "human": _ACTING,
    "anthropomorphic": _ACTING,
    "animal": (
        "running across a meadow towards the camera",
        "asleep on a rug, curled up, seen from above",
        "lying on its back with its paws in the air, a garden in the background",
        "drinking from a stream, in profile, a forest in the background",
        "sitting on a wall and looking back over its shoulder, a town in the background",
        "a close view of the head, looking up, snow in the background",
        "leaping over a fallen trunk",
        "standing on its hind legs at a kitchen table",
        "shaking off water at a lake",
        "walking away from the camera along a sandy path",
        "peeping out of a cardboard box",
        "in a car, looking out of the window",
    ),
    "object": (
        "running along a garden path, in profile",
        "waving from a shelf, seen from below",
        "sitting on a swing, a playground in the background",
        "leaning against a wall, arms folded, a city at night in the background",
        "jumping between two rooftops",
        "lying in a hammock, seen from above",
        "playing the drums on a stage",
        "seen from behind, looking at the sea",
        "a close view of its face, surprised",
        "carrying a parcel through the rain",
        "dancing in a kitchen",
        "building a sandcastle on a beach",
    ),
}
"""Poses, views and places, without a word on the subject: what is to change from cell to cell."""


def descriptor(subject_class: SubjectClass, number: int, seed: int) -> str:
    """The subject of that number: every word drawn for itself, the same for the same seed."""
    rng = np.random.default_rng([seed, CLASSES.index(subject_class), number])
    return PATTERNS[subject_class].format_map({blank: _pick(rng, words) for blank, words in WORDS.items()})


def _pick(rng: np.random.Generator, words: Sequence[str]) -> str:
    return words[int(rng.integers(len(words)))]
