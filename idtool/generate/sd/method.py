"""What methods on the SD runtime share: a stock pipeline with a scheduler of theirs, networks of their own beside it,
and what changes from step to step."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from pydantic import Field

from idtool.engine.operator import Context
from idtool.errors import MissingError
from idtool.generate.diffusion import DiffusionMethod, DiffusionSettings
from idtool.generate.method import Made, MethodSettings, Request
from idtool.models import torch_runtime

Step = Callable[[Any, int, Any, dict[str, Any]], dict[str, Any]]
"""`callback_on_step_end` of diffusers: pipeline, step, timestep, tensors; it returns the tensors that change."""


class SdSettings(DiffusionSettings):
    """Defaults of all papers' demonstrations here."""

    steps: int = Field(default=50, ge=1, le=1000)
    guidance: float = Field(default=5.0, ge=0)


class SdMethod(DiffusionMethod):
    """A method on Stable Diffusion. Its images are judged by the profile's `nsfw`, not by the pipeline's own checker,
    which would black them out."""

    pipeline: ClassVar[str] = "StableDiffusionPipeline"
    scheduler: ClassVar[str | None] = None
    """Name of the class in diffusers; None: the base model's own."""
    slots: ClassVar[Mapping[str, str]] = {"base": "Stable Diffusion 1.5 or a model made from it, a diffusers folder"}
    multiple: ClassVar[int] = 8
    Settings: ClassVar[type[MethodSettings]] = SdSettings

    def components(self) -> dict[str, Any]:
        return {"safety_checker": None, "requires_safety_checker": False}

    def prepare(self, pipe: Any, context: Context) -> None:
        import diffusers

        is_xl = pipe.unet.config.addition_embed_type == "text_time"
        if is_xl != ("XL" in self.pipeline):
            it, method = self.spec.bindings["base"].model, f"method {self.spec.name!r}"
            said = f"is SDXL, and {method} is not for it" if is_xl else f"is no SDXL, and {method} is for that alone"
            raise MissingError(f"Model {it} {said}.", f"Bind {self.slots['base']}.")
        if self.scheduler is not None:
            pipe.scheduler = getattr(diffusers, self.scheduler).from_config(pipe.scheduler.config)
        self.threads = context.threads

    def generate(self, requests: Sequence[Request]) -> Sequence[Made | Exception]:
        # What the UNet is conditioned on is state of the pipeline, as the scheduler's steps are.
        with self.turn:
            return self.make(requests)

    def make(self, requests: Sequence[Request]) -> Sequence[Made | Exception]:
        """As `generate`, by one thread at a time."""
        raise NotImplementedError

    def file(self, slot: str) -> tuple[Path, str]:
        """The one file that a slot is bound to, and its name for errors."""
        weights = self.weights(slot)
        path = torch_runtime.file_of(weights)
        return path, f"Model {weights.model} ({path})"

    def model(self, slot: str, role: str, context: Context) -> Any:
        """The wrapper of a slot's model in a role of the model layer."""
        from idtool.models import load

        return load(replace(self.spec.bindings[slot], role=role), device=context.device, threads=context.threads)

    def filled(self, like: Callable[[Mapping[str, Any]], Any], state: Mapping[str, Any], what: str) -> Any:
        """A network in the widths of a state dict, filled, ready on the device; every name accounted for."""
        try:
            network = like(state)
        except KeyError as error:
            raise MissingError(
                f"{what} is no checkpoint of {self.spec.kind}: it has no {error}.",
                "Bind the file that the method names.",
            ) from None
        torch_runtime.fill(network, state, what)
        return torch_runtime.ready(network, self.device, self.precision)

    def is_guided(self, requests: Sequence[Request]) -> bool:
        """Whether the pipeline runs the UNet on negative prompts, too."""
        settings = requests[0].settings
        assert isinstance(settings, DiffusionSettings)  # noqa: S101 - the registry pairs class and settings
        return settings.guidance > 1 and self.pipe.unet.config.time_cond_proj_dim is None

    def vectors(self, requests: Sequence[Request], person: int) -> Any:
        """Face vectors (B, dim) of length one of a person of each request, on the device; by slot `face`."""
        import torch

        people = [request.people[person] for request in requests]
        raw = self.face.embed(self.face.crops([one.image for one in people], [one.face for one in people]))
        unit = np.asarray(raw, np.float32)
        unit = unit / np.maximum(np.linalg.norm(unit, axis=1, keepdims=True), 1e-12)
        return torch.from_numpy(unit).to(self.device, torch_runtime.dtype_of(self.precision))

    face: Any
    """The identity network, where a family has slot `face`."""


def switched(after: int, tensors: Mapping[str, Any]) -> Step:
    """A callback that hands the pipeline other tensors once step `after` is done (counted from 0)."""

    def callback(_: Any, step: int, __: Any, ___: Any) -> dict[str, Any]:
        return dict(tensors) if step == after else {}

    return callback


def needs_width(what: str, found: int, wanted: int, slot: str) -> None:
    """MissingError when the model of a slot gives features of another width than the checkpoint takes."""
    if found != wanted:
        raise MissingError(
            f"{what} takes {wanted} numbers of slot {slot!r}, the model bound to it gives {found}.",
            "Bind the model that the checkpoint was trained with.",
        )
