"""The IR-SE-50 face network that InfiniteYou conditions on: facexlib's `recognition_arcface_ir_se50.pth`.

ArcFace (Deng et al., CVPR 2019) with squeeze-and-excitation (Hu et al., CVPR 2018), under the file's names.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from idtool.generate.method import Image
from idtool.models import torch_runtime
from idtool.models.identity import checked_crops
from idtool.models.networks.iresnet import BLOCKS, CHANNELS
from idtool.models.sources import Weights

REDUCTION = 16


class Squeeze(nn.Module):
    """Channels weighed by what all of them are on average."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.fc1 = nn.Conv2d(channels, max(1, channels // REDUCTION), 1, bias=False)
        self.fc2 = nn.Conv2d(max(1, channels // REDUCTION), channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        gate = torch.sigmoid(self.fc2(torch.relu(self.fc1(x.mean(dim=(2, 3), keepdim=True)))))
        out: Tensor = x * gate
        return out


class Block(nn.Module):
    """A residual block; the first of each stage halves the size."""

    def __init__(self, inner: int, outer: int, stride: int) -> None:
        super().__init__()
        self.shortcut_layer: nn.Module = (
            nn.MaxPool2d(1, stride)
            if inner == outer
            else nn.Sequential(nn.Conv2d(inner, outer, 1, stride, bias=False), nn.BatchNorm2d(outer))
        )
        self.res_layer = nn.Sequential(
            nn.BatchNorm2d(inner),
            nn.Conv2d(inner, outer, 3, 1, 1, bias=False),
            nn.PReLU(outer),
            nn.Conv2d(outer, outer, 3, stride, 1, bias=False),
            nn.BatchNorm2d(outer),
            Squeeze(outer),
        )

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.res_layer(x) + self.shortcut_layer(x)
        return out


class IrSe50(nn.Module):
    """Faces (N, 3, 112, 112) in [-1, 1], BGR, to embeddings (N, 512) of length one. `width` scales the channels, the
    public weights have 1."""

    def __init__(self, width: float = 1.0, dim: int = 512) -> None:
        super().__init__()
        channels = [max(1, round(number * width)) for number in CHANNELS]
        first, last = channels[0], channels[-1]
        self.input_layer = nn.Sequential(
            nn.Conv2d(3, first, 3, 1, 1, bias=False), nn.BatchNorm2d(first), nn.PReLU(first)
        )
        blocks, inner = [], first
        for number, outer in zip(BLOCKS[50], channels, strict=True):
            blocks += [Block(inner if k == 0 else outer, outer, 2 if k == 0 else 1) for k in range(number)]
            inner = outer
        self.body = nn.Sequential(*blocks)
        self.output_layer = nn.Sequential(
            nn.BatchNorm2d(last), nn.Dropout(0.6), nn.Flatten(), nn.Linear(last * 7 * 7, dim), nn.BatchNorm1d(dim)
        )

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.normalize(self.output_layer(self.body(self.input_layer(x))))


class FaceNetwork:
    """Aligned crops to embeddings, in float32."""

    def __init__(self, weights: Weights, device: Any) -> None:
        path = torch_runtime.file_of(weights)
        state: Mapping[str, Any] = torch_runtime.read_tensors(path)
        first = state.get("input_layer.0.weight")
        network = IrSe50(1.0 if first is None else first.shape[0] / CHANNELS[0])
        torch_runtime.fill(network, state, f"Model {weights.model} ({path})", ignore=("num_batches_tracked",))
        self._network, self._device = torch_runtime.ready(network, device), device

    def embed(self, crops: Sequence[Image]) -> Tensor:
        """Aligned RGB uint8 crops (N, 112, 112, 3) to (N, 512) of length one."""
        pixels: npt.NDArray[np.uint8] = np.ascontiguousarray(checked_crops(crops)[..., ::-1])
        batch = torch.from_numpy(pixels).to(self._device).permute(0, 3, 1, 2).float() / 127.5 - 1
        out: Tensor = self._network(batch)
        return out
