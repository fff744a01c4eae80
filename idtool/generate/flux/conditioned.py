"""Methods that show the reference to FLUX as condition tokens: OminiControl, and DMID on top of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
from pydantic import Field, model_validator

from idtool.generate.flux.method import FluxMethod, FluxSettings
from idtool.generate.method import Image, Person, Request

PATCH = 16
"""Pixels along the side of a token."""
NEVER = -3e4
"""Added to a logit, no attention is left; it fits every dtype."""


class ConditionSettings(FluxSettings):
    """Settings of methods with condition tokens."""

    condition_size: int | None = Field(default=None, ge=PATCH, le=4096, multiple_of=PATCH)
    """Longer side of the condition picture in pixels; null: as in training."""
    condition_fit: Literal["square", "whole"] = "square"
    """square: the largest square, about the face where it is known; whole: nothing cut off, sides multiples of 16."""
    alpha: float | None = None
    """How strongly condition and other tokens look at each other; null: as learned."""
    alpha_form: Literal["log", "additive"] = "log"
    """log: log(alpha) is added to the logits, so that 1 is neutral and 0 hides the condition (OminiControl's code, and
    the values of DMID's table 2); additive: alpha itself, 0 is neutral (as DMID's equation 3 is printed)."""
    explicit_mask: bool = False
    """Biases of the attention as full masks, in place of further dimensions of queries and keys: slower, the same."""

    @model_validator(mode="after")
    def _positive(self) -> ConditionSettings:
        if self.alpha is not None and self.alpha_form == "log" and self.alpha < 0:
            raise ValueError("alpha is 0 or more in the log form")
        return self

    def strength(self) -> float:
        """What is added to the logits."""
        if self.alpha is None:
            return 0.0
        if self.alpha_form == "additive":
            return self.alpha
        return max(math.log(self.alpha), NEVER) if self.alpha > 0 else NEVER


class ConditionMethod(FluxMethod):
    """References as condition tokens; `prepare` of a family sets `loras`, `position_delta` and `trained_size`."""

    loras: tuple[Any, ...] = ()
    position_delta: tuple[int, int] = (0, 0)
    """Rows and columns in tokens; the k-th reference is moved k times as far (ours)."""
    trained_size: int = 512
    independent: bool = False

    def alike(self, request: Request) -> Hashable:
        return tuple(self.grid(person, request) for person in request.people)

    def grid(self, person: Person, request: Request) -> tuple[int, int]:
        """Rows and columns of a reference's tokens."""
        settings = _settings(request)
        side = (settings.condition_size or self.trained_size) // PATCH
        if settings.condition_fit == "square":
            return side, side
        rows, columns = person.image.shape[:2]
        long = max(rows, columns)
        return max(1, round(side * rows / long)), max(1, round(side * columns / long))

    def picture(self, person: Person, request: Request) -> Image:
        """The condition picture of a reference, RGB uint8 in the size of its grid."""
        rows, columns = self.grid(person, request)
        image = self.retouched(person, request)
        if _settings(request).condition_fit == "square":
            image = square(image, None if person.face is None else np.asarray(person.face.box))
        return resized(image, columns * PATCH, rows * PATCH)

    def retouched(self, person: Person, request: Request) -> Image:
        """The reference's picture before it is cut."""
        return person.image

    def conditions(self, requests: Sequence[Request]) -> list[Any]:
        """A `Condition` for each person of the requests, which have grids in common."""
        from idtool.generate.flux.latents import encode_images, pack, positions
        from idtool.generate.flux.transformer import Condition

        found = []
        for k in range(len(requests[0].people)):
            rows, columns = self.grid(requests[0].people[k], requests[0])
            pictures = [self.picture(request.people[k], request) for request in requests]
            tokens = pack(self.pipe, encode_images(self.pipe, pictures))
            shift = (self.position_delta[0] * (k + 1), self.position_delta[1] * (k + 1))
            ids = positions(rows, columns, tokens, shift)
            found.append(Condition(tokens, ids, (rows, columns), loras=self.loras))
        return found

    def bias(self, conditions: Sequence[Any], settings: ConditionSettings) -> Callable[..., Any] | None:
        """The additive bias of the blocks (`Additions.bias`); None where the strength is neutral."""
        from idtool.generate.flux import attention

        strength = settings.strength()
        if strength == 0:
            return None

        def bias(site: Any, queries: Mapping[str, Any]) -> Any:
            main, others = parted(queries)
            return attention.between(strength, main, others, queries)

        return bias

    def changes(self, requests: Sequence[Request]) -> Callable[[Any], Mapping[str, Any]] | None:
        from idtool.generate.flux.transformer import Additions

        settings = _settings(requests[0])
        conditions = self.conditions(requests)
        bias = self.bias(conditions, settings)
        # The negative prompt's condition has another pooled text in its time embedding, so keys and values of its own.
        stores: dict[bool, Any] = {True: {}, False: {}}

        def changes(step: Any) -> Mapping[str, Any]:
            kept = stores[step.negative] if self.independent else None
            return {
                "additions": Additions(
                    conditions=conditions,
                    bias=bias,
                    explicit=settings.explicit_mask,
                    independent=self.independent,
                    kept=kept,
                )
            }

        return changes

    def preprocessing(self) -> Mapping[str, Any]:
        return {
            "condition": f"VAE mode, {self.trained_size} px unless set otherwise, RGB / 127.5 - 1",
            "position_delta": list(self.position_delta),
        }


def parted(names: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    """Names of the text and image branches, and of the conditions."""
    others = [name for name in names if name.startswith("condition.")]
    return [name for name in names if name not in others], others


def square(image: Image, box: Any = None) -> Image:
    """The largest square of a picture, its middle as near to the middle of `box` (4, xyxy) as the frame allows."""
    rows, columns = image.shape[:2]
    side = min(rows, columns)
    middle = (columns / 2, rows / 2) if box is None else ((box[0] + box[2]) / 2, (box[1] + box[3]) / 2)
    left = int(np.clip(round(middle[0] - side / 2), 0, columns - side))
    top = int(np.clip(round(middle[1] - side / 2), 0, rows - side))
    return image[top : top + side, left : left + side]


def resized(image: Image, width: int, height: int) -> Image:
    """A picture in another size: area means where it shrinks, cubic where it grows."""
    import cv2

    if image.shape[:2] == (height, width):
        return np.ascontiguousarray(image)
    shrinks = image.shape[0] * image.shape[1] > width * height
    method = cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC
    return np.ascontiguousarray(cv2.resize(np.ascontiguousarray(image), (width, height), interpolation=method))


def _settings(request: Request) -> ConditionSettings:
    assert isinstance(request.settings, ConditionSettings)  # noqa: S101 - the registry pairs class and settings
    return request.settings
