"""A generation method as a plug-in: the reference, mirrored, with noise of the request's seed."""

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
from pydantic import Field

from idtool.engine.operator import Context, Rejected
from idtool.generate.baselines import fitted
from idtool.generate.method import Made, Method, MethodSettings, Request


class MirrorSettings(MethodSettings):
    """Every setting can be changed per request, and is checked."""

    noise: float = Field(default=4.0, ge=0, le=255)
    """Standard deviation, of 255."""


class Mirror(Method):
    """Not worth running, but complete."""

    summary = "the reference, mirrored and noisy: an example of a plug-in"
    version = 1  # raise it whenever the images change for the same request
    people = (1, 1)
    needs_prompt = False
    Settings: ClassVar[type[MethodSettings]] = MirrorSettings

    def load(self, context: Context) -> None:
        """Get models ready on `context.device`. Heavy imports belong here, so that listing methods stays quick."""

    def generate(self, requests: Sequence[Request]) -> Sequence[Made | Exception]:
        """One outcome for each request; all agree in size and settings."""
        return [self._one(request) for request in requests]

    def _one(self, request: Request) -> Made | Exception:
        if "nobody" in request.prompt:
            return Rejected("mirror.nobody", "the prompt asks for nobody")
        draw = np.random.default_rng(request.seed)  # one generator per image: neighbours change nothing
        image = fitted(request.people[0].image, request.width, request.height)[:, ::-1].astype(np.float64)
        image += draw.normal(0.0, getattr(request.settings, "noise", 0.0), image.shape)
        return Made(np.clip(image, 0, 255).astype(np.uint8), {"mirrored": True})
