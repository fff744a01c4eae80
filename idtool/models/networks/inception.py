"""Inception v3 as the Fréchet inception distance uses it, under the names of its public PyTorch weights.

Szegedy et al., "Rethinking the Inception Architecture for Computer Vision", CVPR 2016, in the TensorFlow graph of
2015-12-05 that Heusel et al. (NeurIPS 2017) took. It is not torchvision's Inception v3: averages leave the border out,
and the last block takes the largest neighbour where the paper takes their average.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from idtool.models.networks.inception_resnet import ConvNormRelu, Kernel

Step = tuple[str, int, Kernel]
"""Name, channels out and kernel of a convolution."""
Path = Sequence[Sequence[Step]]
"""Convolutions one after the other; those of one place look at the same input, their channels side by side."""
Pool = Literal["average", "largest", "halve"]


class Mixed(nn.Module):
    """Paths of convolutions and one of pooling on the same input, their channels side by side.

    `pool`: `average` or `largest` of 3 x 3 neighbours, then a convolution `branch_pool` to `pooled` channels; or
    `halve`: the largest at half the size, where the last convolution of each path halves the size too.
    """

    def __init__(self, inner: int, width: float, paths: Sequence[Path], pool: Pool, pooled: int) -> None:
        super().__init__()
        self._pool = pool
        self._paths: list[list[list[str]]] = []
        self.channels = 0
        for path in paths:
            seen, names = inner, []
            for place, steps in enumerate(path):
                halved = pool == "halve" and place == len(path) - 1
                for name, outer, kernel in steps:
                    conv = ConvNormRelu(seen, scaled(outer, width), kernel, 2 if halved else 1, padded=not halved)
                    self.add_module(name, conv)
                seen = sum(scaled(outer, width) for _, outer, _ in steps)
                names.append([name for name, _, _ in steps])
            self._paths.append(names)
            self.channels += seen
        if pool == "halve":
            self.channels += inner
        else:
            self.branch_pool = ConvNormRelu(inner, scaled(pooled, width), 1)
            self.channels += scaled(pooled, width)

    def forward(self, x: Tensor) -> Tensor:
        found = []
        for path in self._paths:
            y = x
            for names in path:
                y = torch.cat([getattr(self, name)(y) for name in names], 1)
            found.append(y)
        if self._pool == "halve":
            found.append(functional.max_pool2d(x, 3, 2))
        elif self._pool == "largest":
            found.append(self.branch_pool(functional.max_pool2d(x, 3, 1, 1)))
        else:
            found.append(self.branch_pool(functional.avg_pool2d(x, 3, 1, 1, count_include_pad=False)))
        return torch.cat(found, 1)


class FidInceptionV3(nn.Module):
    """RGB images (N, 3, 299, 299), (value - 128) / 128, to the last average pool (N, 2048).

    `width` scales every number of channels; the public weights have 1. The classifier is left out.
    """

    def __init__(self, width: float = 1.0) -> None:
        super().__init__()

        def c(channels: int) -> int:
            return scaled(channels, width)

        self.Conv2d_1a_3x3 = ConvNormRelu(3, c(32), 3, 2)
        self.Conv2d_2a_3x3 = ConvNormRelu(c(32), c(32), 3)
        self.Conv2d_2b_3x3 = ConvNormRelu(c(32), c(64), 3, padded=True)
        self.Conv2d_3b_1x1 = ConvNormRelu(c(64), c(80), 1)
        self.Conv2d_4a_3x3 = ConvNormRelu(c(80), c(192), 3)
        inner = c(192)
        for name, paths, pool, pooled in _BLOCKS:
            block = Mixed(inner, width, paths, pool, pooled)
            self.add_module(name, block)
            inner = block.channels
        self.dim = inner

    def forward(self, x: Tensor) -> Tensor:
        x = self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(x)))
        x = self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(functional.max_pool2d(x, 3, 2)))
        x = functional.max_pool2d(x, 3, 2)
        for name, *_ in _BLOCKS:
            x = getattr(self, name)(x)
        return x.mean((2, 3))


def scaled(channels: int, width: float) -> int:
    return max(1, round(channels * width))


def _chain(stem: str, *steps: tuple[int, Kernel]) -> Path:
    """Convolutions `<stem>_1`, `<stem>_2`, …"""
    return [[(f"{stem}_{number}", outer, kernel)] for number, (outer, kernel) in enumerate(steps, 1)]


def _one(name: str, outer: int, kernel: Kernel) -> Path:
    return [[(name, outer, kernel)]]


def _fork(stem: str) -> Sequence[Step]:
    return [(f"{stem}a", 384, (1, 3)), (f"{stem}b", 384, (3, 1))]


def _narrow(n: int) -> list[Path]:
    """At 17 x 17, where `n` channels go through a 7 x 7 window in two halves."""
    wide, high = (1, 7), (7, 1)
    return [
        _one("branch1x1", 192, 1),
        _chain("branch7x7", (n, 1), (n, wide), (192, high)),
        _chain("branch7x7dbl", (n, 1), (n, high), (n, wide), (n, high), (192, wide)),
    ]


_LARGE = [
    _one("branch1x1", 64, 1),
    _chain("branch5x5", (48, 1), (64, 5)),
    _chain("branch3x3dbl", (64, 1), (96, 3), (96, 3)),
]
_TO_17 = [_one("branch3x3", 384, 3), _chain("branch3x3dbl", (64, 1), (96, 3), (96, 3))]
_TO_8 = [
    _chain("branch3x3", (192, 1), (320, 3)),
    _chain("branch7x7x3", (192, 1), (192, (1, 7)), (192, (7, 1)), (192, 3)),
]
_SMALL = [
    _one("branch1x1", 320, 1),
    [*_chain("branch3x3", (384, 1)), _fork("branch3x3_2")],
    [*_chain("branch3x3dbl", (448, 1), (384, 3)), _fork("branch3x3dbl_3")],
]
_BLOCKS: Sequence[tuple[str, Sequence[Path], Pool, int]] = (
    ("Mixed_5b", _LARGE, "average", 32),
    ("Mixed_5c", _LARGE, "average", 64),
    ("Mixed_5d", _LARGE, "average", 64),
    ("Mixed_6a", _TO_17, "halve", 0),
    ("Mixed_6b", _narrow(128), "average", 192),
    ("Mixed_6c", _narrow(160), "average", 192),
    ("Mixed_6d", _narrow(160), "average", 192),
    ("Mixed_6e", _narrow(192), "average", 192),
    ("Mixed_7a", _TO_8, "halve", 0),
    ("Mixed_7b", _SMALL, "average", 192),
    ("Mixed_7c", _SMALL, "largest", 192),
)
"""Name, paths, pooling and channels of its convolution."""
