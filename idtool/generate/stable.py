"""What methods on stock Stable Diffusion 1.5 and XL pipelines share."""

from __future__ import annotations

import json
from typing import Any, ClassVar

from idtool.generate.diffusion import DiffusionSettings
from idtool.generate.method import Request
from idtool.generate.stock import StockMethod

SD, SDXL = "StableDiffusionPipeline", "StableDiffusionXLPipeline"


class StableMethod(StockMethod):
    """A method on SD1.5 or SDXL, with a VAE of its own where one is bound.

    The base's safety checker, which paints pictures black, and SDXL's invisible watermark, which depends on what is
    installed, are left out: a run judges its images itself.
    """

    multiple: ClassVar[int] = 8

    def components(self) -> dict[str, Any]:
        from diffusers import AutoencoderKL

        from idtool.generate.flux.method import loaded

        found: dict[str, Any] = {}
        if "vae" in self.spec.bindings:
            found["vae"] = loaded(AutoencoderKL, self.weights("vae"), self.precision)
        index = json.loads((self.weights("base").path / "model_index.json").read_text("utf-8"))
        if index["_class_name"] == SD:
            return {**found, "safety_checker": None, "requires_safety_checker": False}
        return {**found, "add_watermarker": False}

    def unheeded(self, request: Request) -> str | None:
        settings = request.settings
        assert isinstance(settings, DiffusionSettings)  # noqa: S101 - the registry pairs class and settings
        asked = request.negative != settings.negative_prompt
        return "set guidance above 1" if asked and settings.guidance <= 1 else None
