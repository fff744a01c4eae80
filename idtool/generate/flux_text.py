"""FLUX.1-dev and -schnell (Black Forest Labs) from the prompt alone: references are not looked at, and the record says
so. What other methods on FLUX.1 add is measured against it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from pydantic import Field

from idtool.generate import diffusion
from idtool.generate.flux.method import FluxSettings
from idtool.generate.method import MethodSettings, Request
from idtool.generate.stock import StockMethod


class FluxTextSettings(FluxSettings):
    """Defaults are those of FLUX.1-dev; schnell takes 4 steps, guidance 0 and 256 tokens."""

    width: int = Field(default=1024, ge=8, le=8192)
    height: int = Field(default=1024, ge=8, le=8192)


class FluxText(StockMethod):
    """Text to image by the stock pipeline."""

    summary = "FLUX.1 from the prompt alone; references are not looked at"
    pipeline = "FluxPipeline"
    slots: ClassVar[Mapping[str, str]] = {"base": "FLUX.1-dev or -schnell, a diffusers folder"}
    Settings: ClassVar[type[MethodSettings]] = FluxTextSettings
    people = (0, 8)
    vram_gib = 33.0

    def arguments(self, requests: Sequence[Request]) -> dict[str, Any]:
        return prompt_arguments(requests[0])

    def unheeded(self, request: Request) -> str | None:
        return without_guidance(request)

    def facts(self, request: Request) -> Mapping[str, Any]:
        facts = prompt_facts(self.pipe, request)
        return {**facts, "references": "not looked at"} if request.people else facts

    def preprocessing(self) -> Mapping[str, Any]:
        return {"references": "not looked at"}


def prompt_arguments(request: Request) -> dict[str, Any]:
    """What FLUX.1 pipelines are told of the prompt."""
    settings = flux_settings(request)
    return {"max_sequence_length": settings.text_length, "true_cfg_scale": settings.true_guidance}


def prompt_facts(pipe: Any, request: Request) -> dict[str, Any]:
    """Tokens of the prompt that were cut off."""
    return diffusion.prompt_facts(pipe, request.prompt, flux_settings(request).text_length)


def without_guidance(request: Request) -> str | None:
    """Why FLUX.1 would ignore a negative prompt: `StockMethod.unheeded`."""
    return None if flux_settings(request).true_guidance > 1 else "set true_guidance above 1"


def flux_settings(request: Request) -> FluxSettings:
    assert isinstance(request.settings, FluxSettings)  # noqa: S101 - the registry pairs class and settings
    return request.settings
