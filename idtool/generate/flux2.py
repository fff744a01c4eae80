"""FLUX.2-klein and FLUX.2-dev (Black Forest Labs, 2025): a prompt and a list of reference pictures.

A call of the pipeline shows its references to every prompt of the batch, so requests go together only where they name
the same pictures.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any, ClassVar

from pydantic import Field

from idtool.engine.operator import Rejected
from idtool.generate.diffusion import DiffusionSettings
from idtool.generate.layouts import resized, within_area
from idtool.generate.method import MethodSettings, Request
from idtool.generate.stock import StockMethod

SMALLEST, LONGEST = 64, 8
"""Pixels of a reference's shorter side, and how many times as long the longer may be: diffusers' own limits."""


class Flux2Settings(DiffusionSettings):
    """What klein and dev have in common."""

    width: int = Field(default=1024, ge=8, le=8192)
    height: int = Field(default=1024, ge=8, le=8192)
    text_length: int = Field(default=512, ge=16, le=512)
    """Tokens of the prompt with its template; what is longer is cut and noted in the image's facts."""
    reference_area: int = Field(default=1024**2, ge=LONGEST * SMALLEST**2, le=1024**2)
    """Pixels of a reference as the model sees it, at most."""


class KleinSettings(Flux2Settings):
    """Defaults are those of the distilled models; `-base-` models take 50 steps and guidance 4."""

    steps: int = Field(default=4, ge=1, le=1000)
    guidance: float = Field(default=1.0, ge=0)
    """Classifier-free, where above 1: twice the work. Distilled models ignore it."""


class DevSettings(Flux2Settings):
    """Defaults are those of diffusers; the authors name guidance from 2.5 to 4."""

    steps: int = Field(default=50, ge=1, le=1000)
    guidance: float = Field(default=4.0, ge=0)
    """The model's own input."""


class Flux2(StockMethod):
    """References as tokens of further pictures."""

    people = (1, 4)

    def check(self, request: Request) -> None:
        super().check(request)
        for number, person in enumerate(request.people, start=1):
            height, width = person.image.shape[:2]
            short, long = min(height, width), max(height, width)
            if short < SMALLEST or long > LONGEST * short:
                raise Rejected(
                    "reference.shape",
                    f"reference {number} is {width} x {height} px; FLUX.2 takes sides of {SMALLEST} px or more, the "
                    f"longer at most {LONGEST} times the shorter",
                    value=float(short),
                    threshold=f">= {SMALLEST}",
                )

    def alike(self, request: Request) -> Hashable:
        return tuple(person.uri for person in request.people)

    def arguments(self, requests: Sequence[Request]) -> dict[str, Any]:
        from PIL import Image as Pillow

        settings = _settings(requests[0])
        images = []
        for person in requests[0].people:
            size = within_area((person.image.shape[1], person.image.shape[0]), settings.reference_area)
            images.append(Pillow.fromarray(resized(person.image, size)))
        return {"image": images, "max_sequence_length": settings.text_length}

    def unheeded(self, request: Request) -> str | None:
        return "FLUX.2 takes none"

    def facts(self, request: Request) -> Mapping[str, Any]:
        cut = len(prompt_tokens(self.pipe, request.prompt)) - _settings(request).text_length
        return {"prompt_cut": {"tokenizer": cut}} if cut > 0 else {}

    def preprocessing(self) -> Mapping[str, Any]:
        return {"references": "Lanczos to the area at most, the middle in multiples of 16 px, VAE mode"}


class Klein(Flux2):
    """The small models."""

    summary = "FLUX.2-klein: a prompt and up to four references"
    pipeline = "Flux2KleinPipeline"
    slots: ClassVar[Mapping[str, str]] = {"base": "FLUX.2-klein, a diffusers folder"}
    Settings: ClassVar[type[MethodSettings]] = KleinSettings
    vram_gib = 13.0


class Dev(Flux2):
    """The large model."""

    summary = "FLUX.2-dev: a prompt and up to four references"
    pipeline = "Flux2Pipeline"
    slots: ClassVar[Mapping[str, str]] = {"base": "FLUX.2-dev, a diffusers folder"}
    Settings: ClassVar[type[MethodSettings]] = DevSettings


def prompt_tokens(pipe: Any, prompt: str) -> Sequence[int]:
    """A prompt's tokens with the template that the pipeline puts about it."""
    if type(pipe).__name__ == "Flux2KleinPipeline":
        turns = [{"role": "user", "content": prompt}]
        text = pipe.tokenizer.apply_chat_template(
            turns, tokenize=False, add_generation_prompt=True, enable_thinking=False
        )
        found: Sequence[int] = pipe.tokenizer(text, verbose=False).input_ids
        return found
    from diffusers.pipelines.flux2.pipeline_flux2 import format_input

    turns = format_input(prompts=[prompt], system_message=pipe.system_message)
    tokens = pipe.tokenizer.apply_chat_template(turns, add_generation_prompt=False, tokenize=True, return_dict=True)
    whole: Sequence[int] = tokens["input_ids"][0]
    return whole


def _settings(request: Request) -> Flux2Settings:
    assert isinstance(request.settings, Flux2Settings)  # noqa: S101 - the registry pairs class and settings
    return request.settings
