"""Subjects that are cut off at the border of a picture, and how much of a canvas is added there."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from idtool.curate import made
from idtool.engine.step import Env
from idtool.models import why_not

Pixels = npt.NDArray[np.uint8]

MULTIPLE = 16
"""Pixels that extended sides are a multiple of: what the networks draw in."""
Side = Literal["left", "top", "right", "bottom"]
SIDES: tuple[Side, ...] = ("left", "top", "right", "bottom")
By = Literal["subject", "head", "box"]
ROLES: Mapping[By, tuple[str, ...]] = {
    "subject": ("segmenter", "grounder"),
    "head": ("parser", "faces"),
    "box": ("faces",),
}
"""How a subject can be told, the surest first, and the roles that it takes."""


@dataclass(frozen=True)
class Border:
    """When a subject is taken to touch the border."""

    phrases: tuple[str, ...]
    """What subjects are called."""
    min_subject: float
    """Least share of the picture that a subject's mask has."""
    edge: float
    """How near the border is the border, as a share of the picture's shorter side; one pixel at least."""
    touch: float
    """Least share of a side's length along which a mask touches it."""


class CutSubjects:
    """Says where subjects are cut off."""

    def __init__(self, by: By, models: Mapping[str, Any], border: Border) -> None:
        """`models`: those of `ROLES`, loaded; without `faces`, faces are told by the columns of the row."""
        from idtool.models.grounded import Grounded

        self._by, self._models, self._border = by, models, border
        if by == "subject":
            self._grounded = Grounded(models.get("grounder"), models["segmenter"], min_area=border.min_subject)

    def __call__(self, row: Mapping[str, Any], image: Pixels) -> tuple[Side, ...]:
        """The sides at which a subject of RGB uint8 `image` (H, W, 3) is cut off; none where there is no subject."""
        height, width = image.shape[:2]
        edge = max(1, round(self._border.edge * min(height, width)))
        if self._by == "subject":
            found = self._grounded.regions([image], [self._border.phrases])[0]
            masks = np.array([region.mask for region in found], np.bool_).reshape(-1, height, width)
            return touched(np.asarray(masks.any(axis=0), np.bool_), edge, self._border.touch)
        face = made.face_of(row, image, self._models.get("faces"))
        if face is None:
            return ()
        if self._by == "box":
            return box_touches(face.box, width, height, edge)
        from idtool.models.parts import inpainting_mask

        labels = self._models["parser"]([image], [face])[0].on(height, width)
        return touched(inpainting_mask(labels, "head"), edge, self._border.touch)


def roles_of(by: By, env: Env) -> tuple[str, ...]:
    """The roles that a way of telling takes under a profile: a segmenter that answers phrases needs no grounder."""
    if by != "subject" or not env.has("segmenter"):
        return ROLES[by]
    from idtool.models import WRAPPERS, format_of

    name = format_of(env.require("segmenter"))
    phrases = name is not None and name in WRAPPERS and hasattr(WRAPPERS.get(name), "regions")
    return ("segmenter",) if phrases else ROLES[by]


def lacking(by: By, env: Env) -> str | None:
    """Why the profile cannot tell subjects this way, or None."""
    return next((why for role in roles_of(by, env) if (why := why_not(env, role))), None)


def touched(mask: npt.NDArray[np.bool_], edge: int, least: float) -> tuple[Side, ...]:
    """Sides that a mask (H, W) touches: at least the share `least` of their length has it within `edge` pixels."""
    along: dict[Side, float] = {
        "left": float(mask[:, :edge].any(axis=1).mean()),
        "top": float(mask[:edge].any(axis=0).mean()),
        "right": float(mask[:, -edge:].any(axis=1).mean()),
        "bottom": float(mask[-edge:].any(axis=0).mean()),
    }
    return tuple(side for side in SIDES if along[side] >= least)


def box_touches(box: npt.ArrayLike, width: int, height: int, edge: int) -> tuple[Side, ...]:
    """Sides that a box (4, xyxy) reaches to within `edge` pixels, or over."""
    left, top, right, bottom = np.asarray(box, np.float64)
    reached: dict[Side, bool] = {
        "left": left <= edge,
        "top": top <= edge,
        "right": right >= width - edge,
        "bottom": bottom >= height - edge,
    }
    return tuple(side for side in SIDES if reached[side])


def margins(length: int, cut: Sequence[Side], share: float, axis: Literal[0, 1]) -> tuple[int, int]:
    """Pixels to add before and after along an axis (0: left and right, 1: top and bottom) of that length: `share` of it
    at each side that is cut, and as many more as make the new length a multiple of 16."""
    before, after = SIDES[axis] in cut, SIDES[axis + 2] in cut
    sides = before + after
    if not sides:
        return 0, 0
    added = math.ceil((length + sides * share * length) / MULTIPLE) * MULTIPLE - length
    return (added // sides if before else 0), (added - added // sides * before if after else 0)
