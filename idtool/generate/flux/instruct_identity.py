"""Instruct Identity (paper 004): target and reference side by side on one canvas of latents, H x 2W, the reference's
half clean at every step; a LoRA on the whole of FLUX.1-dev (rank 512, attention and feed-forward layers and the image
embedder in the authors' best configuration).

The order of tokens does not matter to attention, their positions do: the reference's tokens come after those of the
target, with columns W, W + 1, …, and what the transformer says of them is left out. The stock transformer does the
rest. Its weights are not public: it runs from a checkpoint of yours (`idtool.generate.flux.checkpoint`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

from idtool.engine.operator import Context
from idtool.generate.baselines import fitted
from idtool.generate.flux.checkpoint import Card, check_base, check_ranks, read_card
from idtool.generate.flux.method import FluxMethod
from idtool.generate.method import Request
from idtool.models import torch_runtime


class InstructIdentity(FluxMethod):
    """The reference as the clean right half of the canvas."""

    summary = "Instruct Identity: the reference as the clean half of FLUX's canvas; from your checkpoint"
    slots: ClassVar[Mapping[str, str]] = {
        "base": "FLUX.1-dev, a diffusers folder",
        "adapter": "your LoRA with its card, one .safetensors file (its authors published none)",
    }
    people = (1, 1)
    seen: ClassVar[int] = 2

    def look(self) -> None:
        path, what = self.file("adapter")
        self.card = read_card(path, "instruct-identity", what, Card)
        check_base(self.card, self.spec.bindings["base"], what)

    def prepare(self, pipe: Any, context: Context) -> None:
        path, what = self.file("adapter")
        self.loras = self.lora(torch_runtime.read_tensors(path), pipe, what, self.card.alpha)
        check_ranks(self.card, self.loras[0].ranks, what)

    def changes(self, requests: Sequence[Request]) -> Callable[[Any], Mapping[str, Any]] | None:
        import torch

        from idtool.generate.flux.latents import encode_images, pack, positions
        from idtool.generate.flux.transformer import Additions

        pictures = [fitted(one.people[0].image, one.width, one.height) for one in requests]
        reference = pack(self.pipe, encode_images(self.pipe, pictures))
        rows, columns = requests[0].height // 16, requests[0].width // 16

        def changes(step: Any) -> Mapping[str, Any]:
            beside = positions(rows, columns, step.ids, shift=(0, columns))
            return {
                "hidden_states": torch.cat([step.latents, reference.to(step.latents.dtype)], dim=1),
                "img_ids": torch.cat([step.ids, beside]),
                "additions": Additions(loras=self.loras),
            }

        return changes

    def preprocessing(self) -> Mapping[str, Any]:
        return {"reference": "the middle of the picture in the size of the image, VAE mode, right half of the canvas"}
