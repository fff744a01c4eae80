"""FLUX.1-Kontext-dev (Black Forest Labs, 2025): an image from a reference and an instruction.

diffusers by default lets neither size alone: the image's is moved to a megapixel, the reference's to the first one's
nearest training size. Here the image has the size that was asked for, and every reference its own training size.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any, ClassVar

from pydantic import Field

from idtool.generate.flux_text import FluxTextSettings, prompt_arguments, prompt_facts, without_guidance
from idtool.generate.layouts import KONTEXT_AREA, Size, kontext_size, resized
from idtool.generate.method import MethodSettings, Request
from idtool.generate.stock import StockMethod


class KontextSettings(FluxTextSettings):
    guidance: float = Field(default=2.5, ge=0)
    """As its authors advise."""
    reference_area: int = Field(default=KONTEXT_AREA, ge=256, le=2048**2)
    """Pixels of the reference as the model sees it, about; the default is what it was trained on."""


class Kontext(StockMethod):
    """One reference as tokens of a second picture."""

    summary = "FLUX.1-Kontext: one reference and an instruction"
    pipeline = "FluxKontextPipeline"
    slots: ClassVar[Mapping[str, str]] = {"base": "FLUX.1-Kontext-dev, a diffusers folder"}
    Settings: ClassVar[type[MethodSettings]] = KontextSettings
    vram_gib = 33.0

    def size(self, request: Request) -> Size:
        """Of the reference as the model sees it."""
        settings = request.settings
        assert isinstance(settings, KontextSettings)  # noqa: S101 - the registry pairs class and settings
        height, width = request.people[0].image.shape[:2]
        return kontext_size((width, height), settings.reference_area)

    def alike(self, request: Request) -> Hashable:
        return self.size(request)

    def arguments(self, requests: Sequence[Request]) -> dict[str, Any]:
        from PIL import Image as Pillow

        first = requests[0]
        size = self.size(first)
        return {
            **prompt_arguments(first),
            "image": [Pillow.fromarray(resized(request.people[0].image, size)) for request in requests],
            "_auto_resize": False,
            "max_area": first.width * first.height,
        }

    def unheeded(self, request: Request) -> str | None:
        return without_guidance(request)

    def facts(self, request: Request) -> Mapping[str, Any]:
        return {**prompt_facts(self.pipe, request), "reference_size": list(self.size(request))}

    def preprocessing(self) -> Mapping[str, Any]:
        return {"reference": "Lanczos to the nearest of Kontext's training sizes, VAE mode"}
