"""ResEmoteNet (Roy et al., "ResEmoteNet: Bridging Accuracy and Loss Reduction in Facial Emotion Recognition", IEEE
Signal Processing Letters 2025) under the public names of its state dict, for inference: dropout is left out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional


@dataclass(frozen=True)
class Widths:
    """Channels of every part; those of the published network are 64-128-256, 16, 512-1024-2048, 1024-512-256, 7."""

    stem: tuple[int, int, int]
    squeeze: int
    blocks: tuple[int, int, int]
    head: tuple[int, int, int]
    classes: int

    @classmethod
    def of(cls, state: Mapping[str, Any]) -> Widths:
        """Read off the shapes of a state dict. KeyError when it is one of another network."""

        def out(name: str) -> int:
            return int(state[f"{name}.weight"].shape[0])

        return cls(
            (out("conv1"), out("conv2"), out("conv3")),
            out("se.fc.0"),
            (out("res_block1.conv1"), out("res_block2.conv1"), out("res_block3.conv1")),
            (out("fc1"), out("fc2"), out("fc3")),
            out("fc4"),
        )


class ResEmoteNet(nn.Module):
    """Images (N, 3, 64, 64) to logits (N, classes)."""

    def __init__(self, widths: Widths) -> None:
        super().__init__()
        a, b, c = widths.stem
        self.conv1, self.bn1 = nn.Conv2d(3, a, 3, padding=1), nn.BatchNorm2d(a)
        self.conv2, self.bn2 = nn.Conv2d(a, b, 3, padding=1), nn.BatchNorm2d(b)
        self.conv3, self.bn3 = nn.Conv2d(b, c, 3, padding=1), nn.BatchNorm2d(c)
        self.se = _SqueezeExcite(c, widths.squeeze)
        self.res_block1 = _Residual(c, widths.blocks[0])
        self.res_block2 = _Residual(widths.blocks[0], widths.blocks[1])
        self.res_block3 = _Residual(widths.blocks[1], widths.blocks[2])
        self.fc1 = nn.Linear(widths.blocks[2], widths.head[0])
        self.fc2 = nn.Linear(widths.head[0], widths.head[1])
        self.fc3 = nn.Linear(widths.head[1], widths.head[2])
        self.fc4 = nn.Linear(widths.head[2], widths.classes)

    def forward(self, x: Tensor) -> Tensor:
        for conv, norm in ((self.conv1, self.bn1), (self.conv2, self.bn2), (self.conv3, self.bn3)):
            x = functional.max_pool2d(functional.relu(norm(conv(x))), 2)
        x = self.res_block3(self.res_block2(self.res_block1(self.se(x))))
        x = x.mean((2, 3))
        for layer in (self.fc1, self.fc2, self.fc3):
            x = functional.relu(layer(x))
        logits: Tensor = self.fc4(x)
        return logits


class _SqueezeExcite(nn.Module):
    """Channels weighed by a sigmoid of their means (Hu et al., CVPR 2018)."""

    def __init__(self, width: int, squeeze: int) -> None:
        super().__init__()
        # The activations between them have no weights, but they count in the names: 0 and 2.
        self.fc = nn.Sequential(
            nn.Linear(width, squeeze, bias=False), nn.ReLU(), nn.Linear(squeeze, width, bias=False), nn.Sigmoid()
        )

    def forward(self, x: Tensor) -> Tensor:
        gains: Tensor = self.fc(x.mean((2, 3)))
        return x * gains[:, :, None, None]


class _Residual(nn.Module):
    """Two 3 x 3 convolutions beside a 1 x 1 one, at half the size."""

    def __init__(self, width: int, out: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(width, out, 3, stride=2, padding=1), nn.BatchNorm2d(out)
        self.conv2, self.bn2 = nn.Conv2d(out, out, 3, padding=1), nn.BatchNorm2d(out)
        self.shortcut = nn.Sequential(nn.Conv2d(width, out, 1, stride=2), nn.BatchNorm2d(out))

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(functional.relu(self.bn1(self.conv1(x)))))
        return torch.relu(y + self.shortcut(x))
