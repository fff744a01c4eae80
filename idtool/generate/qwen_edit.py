"""Qwen-Image-Edit (Wu et al., 2025), and -2509 and -2511 ("Plus"), which take several pictures.

Both pipelines take one prompt a call. References come to a megapixel each, as their code does it; the image has the
size that was asked for.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any, ClassVar

from pydantic import Field

from idtool.engine.operator import Rejected
from idtool.generate.diffusion import LEFT_OUT, DiffusionSettings
from idtool.generate.method import MethodSettings, Request
from idtool.generate.stock import StockMethod

ONE, SEVERAL = "QwenImageEditPipeline", "QwenImageEditPlusPipeline"


class QwenEditSettings(DiffusionSettings):
    """Defaults are those of the authors' demonstration of Plus."""

    width: int = Field(default=1024, ge=8, le=8192)
    height: int = Field(default=1024, ge=8, le=8192)
    steps: int = Field(default=40, ge=2, le=1000)
    """One step has no place in the schedule, which ends above 0."""
    guidance: float = Field(default=1.0, ge=0)
    """Read by models that were distilled on it, which those published are not."""
    true_guidance: float = Field(default=4.0, ge=1)
    """Classifier-free guidance with the negative prompt, where above 1: twice the work."""
    negative_prompt: str | None = " "
    """A blank, as the authors have it."""


class QwenEdit(StockMethod):
    """References to the language model and as latents."""

    summary = "Qwen-Image-Edit: a prompt and one reference, or up to four (Plus; its authors advise three at most)"
    bases: ClassVar[tuple[str, ...]] = (SEVERAL, ONE)
    slots: ClassVar[Mapping[str, str]] = {"base": "Qwen-Image-Edit, -2509 or -2511, a diffusers folder"}
    Settings: ClassVar[type[MethodSettings]] = QwenEditSettings
    people = (1, 4)
    vram_gib = 60.0

    def check(self, request: Request) -> None:
        super().check(request)
        if len(request.people) > 1 and type(self.pipe).__name__ == ONE:
            raise Rejected(
                "request.people",
                "Qwen-Image-Edit takes one reference; -2509 and -2511 take several",
                value=float(len(request.people)),
                threshold="1",
            )

    def alike(self, request: Request) -> Hashable:
        return request.id

    def arguments(self, requests: Sequence[Request]) -> dict[str, Any]:
        from PIL import Image as Pillow

        [request] = requests
        settings = _settings(request)
        images = [Pillow.fromarray(person.image) for person in request.people]
        distilled = bool(self.pipe.transformer.config.guidance_embeds)
        guided = settings.true_guidance > 1
        return {
            "image": images[0] if type(self.pipe).__name__ == ONE else images,
            "true_cfg_scale": settings.true_guidance,
            "negative_prompt": [request.negative or " "] if guided else LEFT_OUT,
            "guidance_scale": settings.guidance if distilled else LEFT_OUT,
        }

    def unheeded(self, request: Request) -> str | None:
        return None if _settings(request).true_guidance > 1 else "set true_guidance above 1"

    def preprocessing(self) -> Mapping[str, Any]:
        return {"references": "to about 1024^2 px (Plus: 384^2 for the language model), multiples of 32, VAE mode"}


def _settings(request: Request) -> QwenEditSettings:
    assert isinstance(request.settings, QwenEditSettings)  # noqa: S101 - the registry pairs class and settings
    return request.settings
