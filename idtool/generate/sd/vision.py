"""The image tower of CLIP with the features that identity methods look at."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig, CLIPVisionModelWithProjection

from idtool.errors import MissingError
from idtool.generate.method import Image
from idtool.models import preprocess, torch_runtime
from idtool.models.sources import Weights


class _Tower(CLIPVisionModelWithProjection):
    """The image half of a checkpoint that may hold both."""

    _keys_to_ignore_on_load_unexpected = (r"^text_model\.", r"^text_projection\.", r"^logit_scale$")


class ClipTower:
    """RGB uint8 pictures of any size, prepared as the checkpoint's own files say, to features."""

    def __init__(self, weights: Weights, device: Any, dtype: str, threads: int = 1) -> None:
        self._weights, self._device, self._dtype = weights, device, torch_runtime.dtype_of(dtype)
        self._pictures = preprocess.of_checkpoint(weights, threads)
        config = torch_runtime.processor(AutoConfig, weights, "configuration")
        if config.model_type == "clip":
            # Both towers: the width of the projection is said once, for both.
            both, config = config, config.vision_config
            config.projection_dim = both.projection_dim
        if config.model_type != "clip_vision_model":
            raise MissingError(
                f"Model {weights.model} ({weights.path}) is of type {config.model_type!r}, not CLIP.",
                "Bind a CLIP to slot `vision`.",
            )
        network = torch_runtime.pretrained(_Tower, weights, config=config)
        self.width = int(network.config.hidden_size)
        self.dim = int(network.config.projection_dim)
        self._side = int(network.config.image_size)
        self._network = torch_runtime.ready(network, device, dtype)

    def hidden(self, pictures: Sequence[Image]) -> Tensor:
        """(N, patches + 1, width): what enters the last block (`hidden_states[-2]`)."""
        return self._hidden(self._pixels(pictures))

    def nothing(self) -> Tensor:
        """`hidden` of one picture of noughts, after the preparation: (1, patches + 1, width)."""
        return self._hidden(torch.zeros(1, 3, self._side, self._side, device=self._device, dtype=self._dtype))

    def embeddings(self, pictures: Sequence[Image]) -> Tensor:
        """(N, dim): pooled and projected, not normalised."""
        found: Tensor = self._network(pixel_values=self._pixels(pictures)).image_embeds
        return found

    def facts(self) -> dict[str, Any]:
        """For records."""
        return {**self._weights.facts(), "preprocessing": self._pictures.words}

    def _pixels(self, pictures: Sequence[Image]) -> Tensor:
        pixels: Tensor = self._pictures(pictures)["pixel_values"].to(self._device, self._dtype)
        return pixels

    def _hidden(self, pixels: Tensor) -> Tensor:
        found: Tensor = self._network(pixel_values=pixels, output_hidden_states=True).hidden_states[-2]
        return found
