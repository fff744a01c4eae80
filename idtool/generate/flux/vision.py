"""EVA02-CLIP's image tower through timm, with the features that PuLID looks at (Sun et al., "EVA-CLIP", 2023)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from idtool.errors import MissingError
from idtool.models import torch_runtime
from idtool.models.sources import Weights

ARCHITECTURE = "eva02_large_patch14_clip_336"
MEAN, DEVIATION = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
SCALES = 5


class EvaTower:
    """Pictures to the pooled vector and to the tokens that enter five of its blocks (4, 8, 12, 16, 20 of 24)."""

    def __init__(self, weights: Weights, device: Any, dtype: str) -> None:
        network = _network(weights)
        self._network = torch_runtime.ready(network, device, dtype)
        self._device, self._dtype = device, torch_runtime.dtype_of(dtype)
        self.size = int(network.patch_embed.img_size[0])
        depth = len(network.blocks)
        self._after = [depth * k // (SCALES + 1) - 1 for k in range(1, SCALES + 1)]

    def __call__(self, pictures: Sequence[npt.NDArray[np.float32]]) -> tuple[Tensor, list[Tensor]]:
        """RGB pictures (H, W, 3) of one size in [0, 1]; returns vectors (B, dim) of length one and five tensors
        (B, 1 + patches, width), the class token first."""
        batch = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float().to(self._device)
        # The authors' pinned torchvision does not smooth tensors when it shrinks them.
        batch = torch.nn.functional.interpolate(batch, (self.size, self.size), mode="bicubic", align_corners=False)
        mean, deviation = (batch.new_tensor(values)[None, :, None, None] for values in (MEAN, DEVIATION))
        batch = ((batch - mean) / deviation).to(self._dtype)
        last, between = self._network.forward_intermediates(
            batch, indices=self._after, return_prefix_tokens=True, output_fmt="NLC"
        )
        features = [torch.cat([prefix, patches], dim=1) for patches, prefix in between]
        pooled = self._network.forward_head(last)
        return pooled / pooled.norm(dim=-1, keepdim=True), features


def _network(weights: Weights) -> Any:
    """The tower of a timm folder (`config.json`, `model.safetensors`), or of one file of timm, open_clip or EVA-CLIP,
    which is then taken to be EVA02-CLIP-L at 336 px. MissingError when names or shapes do not fit."""
    import timm
    from timm.models.eva import checkpoint_filter_fn

    what = f"Model {weights.model} ({weights.path})"
    architecture, classes, path = ARCHITECTURE, 768, weights.path
    arguments: dict[str, Any] = {}
    if path.is_dir():
        config, path = path / "config.json", path / "model.safetensors"
        if not config.is_file() or not path.is_file():
            raise MissingError(f"{what} is no timm model: it needs config.json and model.safetensors.", _HINT)
        told = json.loads(config.read_text("utf-8"))
        architecture, classes = told.get("architecture", architecture), told.get("num_classes", classes)
        arguments = told.get("model_args") or {}
    with torch_runtime.as_missing(what):
        network = timm.create_model(architecture, pretrained=False, num_classes=classes, **arguments)
        state = checkpoint_filter_fn(torch_runtime.read_tensors(path, inside="state_dict"), network)
    if not hasattr(network, "forward_intermediates"):
        raise MissingError(f"{what} is a {architecture}, which is no EVA tower.", _HINT)
    torch_runtime.fill(network, state, what, ignore=("rope.freqs",))
    return network


_HINT = "Bind hf:timm/eva02_large_patch14_clip_336.merged2b to slot `vision`."
