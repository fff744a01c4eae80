"""ACE++ (Mao et al., 2025), its portrait LoRA on FLUX.1-Fill-dev: reference and image side by side on one canvas, the
image's part painted anew."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any, ClassVar

from pydantic import Field

from idtool.engine.operator import Context, Rejected
from idtool.generate import diffusion
from idtool.generate.diffusion import DiffusionSettings
from idtool.generate.layouts import SideBySide, canvas, not_longer, right_part, side_by_side
from idtool.generate.method import Image, MethodSettings, Request
from idtool.generate.stock import StockMethod
from idtool.models import torch_runtime

MARK = "{image}"
"""A token of its own in the authors' tokenizer, for pictures that an instruction speaks of."""


class AcePlusSettings(DiffusionSettings):
    """Defaults are the authors'."""

    width: int = Field(default=1024, ge=8, le=8192)
    height: int = Field(default=1024, ge=8, le=8192)
    steps: int = Field(default=28, ge=1, le=1000)
    guidance: float = Field(default=50.0, ge=0)
    text_length: int = Field(default=512, ge=16, le=512)
    """Tokens of the prompt for T5; what is longer is cut and noted in the image's facts."""
    instruction: str = "Keep the person's face as in the picture on the left."
    """Put before the prompt; the portrait LoRA was trained with such a sentence."""
    tokens: int = Field(default=4096, ge=64, le=16384)
    """Of the whole canvas, at most: larger ones are shrunk, and the image enlarged again."""
    bleed: int = Field(default=30, ge=0, le=256)
    """Pixels at the seam that are left out of the image."""


class AcePlus(StockMethod):
    """The portrait LoRA on FLUX Fill."""

    summary = "ACE++ portrait: reference and image side by side on a canvas of FLUX.1-Fill"
    pipeline = "FluxFillPipeline"
    slots: ClassVar[Mapping[str, str]] = {
        "base": "FLUX.1-Fill-dev, a diffusers folder",
        "adapter": "ACE++'s portrait LoRA, one .safetensors file (option `file`)",
    }
    Settings: ClassVar[type[MethodSettings]] = AcePlusSettings
    vram_gib = 33.0

    def prepare(self, pipe: Any, context: Context) -> None:
        from idtool.generate.flux_loras import flux_lora

        lora = flux_lora(self.weights("adapter"), pipe.transformer)
        lora.attach(pipe.transformer)
        lora.mask = 1.0
        self.lora = torch_runtime.ready(lora, self.device, self.precision)
        with_mark(pipe.tokenizer_2, int(pipe.text_encoder_2.config.vocab_size))

    def layout(self, request: Request) -> SideBySide:
        """The canvas of a request."""
        height, width = not_longer(request.people[0].image).shape[:2]
        return side_by_side((width, height), (request.width, request.height), _settings(request).tokens)

    def check(self, request: Request) -> None:
        super().check(request)
        layout = self.layout(request)
        part = layout.width - layout.split - _settings(request).bleed
        if layout.split < 16 or layout.height < 16 or part < 16:
            raise Rejected(
                "request.layout",
                f"on a canvas of {layout.width} x {layout.height} px {max(part, 0)} are left for the image",
                value=float(part),
                threshold=">= 16",
            )

    def alike(self, request: Request) -> Hashable:
        return self.layout(request)

    def arguments(self, requests: Sequence[Request]) -> dict[str, Any]:
        from PIL import Image as Pillow

        layout = self.layout(requests[0])
        pairs = [canvas(not_longer(request.people[0].image), layout) for request in requests]
        return {
            "prompt": [self.told(request) for request in requests],
            "image": [Pillow.fromarray(picture) for picture, _ in pairs],
            "mask_image": [Pillow.fromarray(mask) for _, mask in pairs],
            "width": layout.width,
            "height": layout.height,
            "max_sequence_length": _settings(requests[0]).text_length,
        }

    def told(self, request: Request) -> str:
        """The prompt with its instruction."""
        return f"{_settings(request).instruction} {request.prompt}".strip()

    def finished(self, image: Image, request: Request) -> Image:
        size = (request.width, request.height)
        return right_part(image, self.layout(request), size, _settings(request).bleed)

    def unheeded(self, request: Request) -> str | None:
        return "FLUX.1-Fill takes none"

    def facts(self, request: Request) -> Mapping[str, Any]:
        layout = self.layout(request)
        return {
            **diffusion.prompt_facts(self.pipe, self.told(request), _settings(request).text_length),
            "canvas": [layout.width, layout.height],
            "split": layout.split,
        }

    def preprocessing(self) -> Mapping[str, Any]:
        return {"reference": "bilinear to the canvas's height, left of the image; at most four times as long as wide"}


def with_mark(tokenizer: Any, rows: int) -> None:
    """Teach T5's tokenizer the token `{image}`, where the text encoder has a row left for it (it has 32,128 rows for
    32,100 tokens). Instructions for portraits do without it."""
    if MARK not in tokenizer.get_vocab() and len(tokenizer) < rows:
        tokenizer.add_tokens([MARK], special_tokens=True)


def _settings(request: Request) -> AcePlusSettings:
    assert isinstance(request.settings, AcePlusSettings)  # noqa: S101 - the registry pairs class and settings
    return request.settings
