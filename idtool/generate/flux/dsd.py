"""Diffusion Self-Distillation (Cai et al., CVPR 2025) on FLUX.1-dev: a canvas of two halves, the answer on the right.

The condition, latents of the reference beside black, goes through an embedder of its own, `c_embedder`, and is added to
the image tokens. Its authors do not aim at faces. Weights: `primecai/dsd_model`, folder `transformer` and
`pytorch_lora_weights.safetensors`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from idtool.engine.operator import Context
from idtool.errors import MissingError
from idtool.generate.baselines import fitted
from idtool.generate.flux.method import FluxMethod, loaded
from idtool.generate.method import Request
from idtool.models import torch_runtime

LORA_FILE = "pytorch_lora_weights.safetensors"


class Dsd(FluxMethod):
    """The right half of a canvas whose left half repeats the reference."""

    summary = "Diffusion Self-Distillation: FLUX.1-dev with a second embedder for the reference"
    slots: ClassVar[Mapping[str, str]] = {
        "base": "FLUX.1-dev, a diffusers folder",
        "adapter": "the folder of primecai/dsd_model: its transformer and its LoRA",
    }
    stretch: ClassVar[int] = 2

    def components(self) -> dict[str, Any]:
        from idtool.generate.flux.dsd_transformer import DsdTransformer

        weights = self.weights("adapter")
        for needed in ("transformer/config.json", LORA_FILE):
            if not (weights.path / needed).is_file():
                raise MissingError(
                    f"Model {weights.model} ({weights.path}) has no {needed}.", "Bind hf:primecai/dsd_model."
                )
        return {"transformer": loaded(DsdTransformer, weights, self.precision, subfolder="transformer")}

    def prepare(self, pipe: Any, context: Context) -> None:
        weights = self.weights("adapter")
        path = weights.path / LORA_FILE
        self.loras = self.lora(torch_runtime.read_tensors(path), pipe, f"Model {weights.model} ({path})")

    def changes(self, requests: Sequence[Request]) -> Callable[[Any], Mapping[str, Any]] | None:
        from idtool.generate.flux.latents import encode_images, pack
        from idtool.generate.flux.transformer import Additions

        canvases = [canvas(fitted(one.people[0].image, one.width, one.height)) for one in requests]
        tokens = pack(self.pipe, encode_images(self.pipe, canvases))

        def changes(step: Any) -> Mapping[str, Any]:
            return {"additions": Additions(loras=self.loras, beside=tokens)}

        return changes

    def finished(self, images: Sequence[Any], request: Request) -> Sequence[Any]:
        return [image[:, request.width :] for image in images]

    def preprocessing(self) -> Mapping[str, Any]:
        return {"reference": "the middle of the picture in the size of the image, black beside it, VAE mode"}


def canvas(image: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """The picture with as much black to its right."""
    return np.concatenate([image, np.zeros_like(image)], axis=1)
