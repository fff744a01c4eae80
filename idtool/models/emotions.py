"""What expression networks of other origins share: their class names in this package's seven words, and the crop."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from idtool.errors import MissingError
from idtool.models import crops
from idtool.models.expression import EXPRESSIONS

Image = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]

CONTEMPT = "contempt"
"""The eighth class of AffectNet, for which this package has no word."""
_WORDS = {
    "happy": ("happy", "happiness", "joy"),
    "surprise": ("surprise", "surprised"),
    "sad": ("sad", "sadness"),
    "anger": ("anger", "angry"),
    "disgust": ("disgust", "disgusted"),
    "fear": ("fear", "fearful", "afraid", "scared"),
    "neutral": ("neutral", "neutrality", "calm"),
    CONTEMPT: ("contempt", "contemptuous"),
}
_MEANING = {name: word for word, names in _WORDS.items() for name in names}


@dataclass(frozen=True, eq=False)
class Seven:
    """Probabilities of the seven expressions of N faces."""

    probabilities: Floats
    """(N, 7) in the order of `EXPRESSIONS`, rows of sum 1."""
    contempt: Floats
    """(N,) [0, 1] probability that the network gave to contempt, and that the seven were raised to make up for; near
    1 the seven mean little. 0 for networks without that class."""


def word(name: str) -> str:
    """One of `EXPRESSIONS`, or `contempt`, for a network's class name. MissingError for a name of anything else."""
    found = _MEANING.get(re.sub(r"[^a-z]", "", name.lower()))
    if found is None:
        raise MissingError(
            f"{name!r} is no expression that is known here.",
            f"Known: {', '.join(sorted(_MEANING))}. Use another model.",
        )
    return found


def words(names: Sequence[str]) -> tuple[str, ...]:
    """`word` of every class of a network. MissingError unless they are the seven, once each, with or without
    contempt."""
    found = tuple(word(name) for name in names)
    if sorted(set(found) - {CONTEMPT}) != sorted(EXPRESSIONS) or len(set(found)) != len(found):
        raise MissingError(
            f"The classes {', '.join(names)} are not the seven basic expressions.",
            f"A network must have {', '.join(EXPRESSIONS)}, once each; contempt may be added.",
        )
    return found


def seven(logits: npt.ArrayLike, order: Sequence[str]) -> Seven:
    """Logits (N, C) of classes `order` (of `words`) as probabilities of the seven.

    Contempt is left out of the softmax: what remains is the probability of each of the seven, given that the face
    shows one of them. Adding it to disgust, the nearest word, would call smirks disgust. ValueError for a logit that
    is not finite.
    """
    table = np.asarray(logits, np.float64).reshape(-1, len(order))
    if not np.isfinite(table).all():
        raise ValueError("the expression network gave a value that is not finite")
    kept = _softmax(table[:, [order.index(name) for name in EXPRESSIONS]])
    contempt = _softmax(table)[:, order.index(CONTEMPT)] if CONTEMPT in order else np.zeros(len(table))
    return Seven(kept.astype(np.float32), contempt.astype(np.float32))


def _softmax(logits: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    odds = np.exp(logits - logits.max(axis=1, keepdims=True, initial=-np.inf))
    return np.asarray(odds / odds.sum(axis=1, keepdims=True))


def face_square(image: Image, box: npt.ArrayLike, scale: float, size: int) -> Image:
    """The square about a detector's `box` (4, xyxy, px), `scale` times its longer side, as (size, size, 3).

    Whole pixels are cut out, edges repeated beyond the image, and scaled as torchvision's `Resize` scales photos
    (bilinear, averaging when it shrinks), by which these networks were trained. ValueError for another kind of
    `image`, or a box that is not finite.
    """
    from PIL import Image as Pillow

    crops.check(image)
    left, top, right, bottom = np.asarray(box, np.float64)
    if not np.isfinite([left, top, right, bottom]).all():
        raise ValueError(f"Expected a box of four finite numbers. Got {[left, top, right, bottom]}")
    side = max(1, round(max(right - left, bottom - top) * scale))
    rows, columns = (
        np.clip(round((low + high - side) / 2) + np.arange(side), 0, limit - 1)
        for low, high, limit in ((top, bottom, image.shape[0]), (left, right, image.shape[1]))
    )
    cut = np.ascontiguousarray(image[rows][:, columns])
    return np.asarray(Pillow.fromarray(cut).resize((size, size), Pillow.Resampling.BILINEAR))
