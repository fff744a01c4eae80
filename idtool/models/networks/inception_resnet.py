"""Inception-ResNet v1 as FaceNet uses it, under the names of the public PyTorch weights.

Szegedy et al., "Inception-v4, Inception-ResNet and the Impact of Residual Connections on Learning", AAAI 2017, with
the widths of D. Sandberg's FaceNet; names and scales of residuals as in facenet-pytorch's `20180402-114759-vggface2`.
With the same random weights it gives the same numbers as facenet-pytorch 2.6.0, bit for bit.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

Kernel = int | tuple[int, int]
EPSILON = 1e-3
"""Of all batch normalisations: TensorFlow's, where the weights come from."""


class ConvNormRelu(nn.Module):
    """A convolution without bias, batch normalisation, ReLU. `padded`: the size stays as it is."""

    def __init__(self, inner: int, outer: int, kernel: Kernel, stride: int = 1, *, padded: bool = False) -> None:
        super().__init__()
        sides = (kernel, kernel) if isinstance(kernel, int) else kernel
        padding = (sides[0] // 2, sides[1] // 2) if padded else (0, 0)
        self.conv = nn.Conv2d(inner, outer, sides, stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(outer, eps=EPSILON)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.bn(self.conv(x)))


def chain(inner: int, *steps: tuple[int, Kernel]) -> nn.Module:
    """Padded convolutions one after the other, each (channels out, kernel); a single one stands alone."""
    layers = []
    for outer, kernel in steps:
        layers.append(ConvNormRelu(inner, outer, kernel, padded=True))
        inner = outer
    return layers[0] if len(layers) == 1 else nn.Sequential(*layers)


class Branches(nn.Module):
    """Modules `branch0`, `branch1`, … on one input, their channels side by side."""

    def __init__(self, branches: Sequence[nn.Module]) -> None:
        super().__init__()
        for number, branch in enumerate(branches):
            self.add_module(f"branch{number}", branch)
        self._count = len(branches)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([getattr(self, f"branch{number}")(x) for number in range(self._count)], 1)


class Residual(Branches):
    """x + scale * mix(branches(x)), then ReLU unless `last`."""

    def __init__(self, channels: int, mixed: int, branches: Sequence[nn.Module], scale: float, last: bool = False):
        super().__init__(branches)
        self.conv2d = nn.Conv2d(mixed, channels, 1)
        self._scale, self._last = scale, last

    def forward(self, x: Tensor) -> Tensor:
        out = x + self._scale * self.conv2d(super().forward(x))
        return out if self._last else torch.relu(out)


class InceptionResnetV1(nn.Module):
    """RGB faces (N, 3, 160, 160), (value - 127.5) / 128, to embeddings (N, 512) before they are scaled to length one.

    `width` scales every inner number of channels; the public weights have 1.
    """

    def __init__(self, width: float = 1.0, dim: int = 512) -> None:
        super().__init__()

        def c(channels: int) -> int:
            return max(1, round(channels * width))

        small, middle = c(256), c(384) + c(256) + c(256)
        large = c(384) + 2 * c(256) + middle
        self.conv2d_1a = ConvNormRelu(3, c(32), 3, 2)
        self.conv2d_2a = ConvNormRelu(c(32), c(32), 3)
        self.conv2d_2b = ConvNormRelu(c(32), c(64), 3, padded=True)
        self.maxpool_3a = nn.MaxPool2d(3, 2)
        self.conv2d_3b = ConvNormRelu(c(64), c(80), 1)
        self.conv2d_4a = ConvNormRelu(c(80), c(192), 3)
        self.conv2d_4b = ConvNormRelu(c(192), small, 3, 2)
        self.repeat_1 = nn.Sequential(*(self._block35(small, c(32)) for _ in range(5)))
        self.mixed_6a = Branches(
            [
                ConvNormRelu(small, c(384), 3, 2),
                self._reduce(small, (c(192), 1), (c(192), 3), out=c(256)),
                nn.MaxPool2d(3, 2),
            ]
        )
        self.repeat_2 = nn.Sequential(*(self._block17(middle, c(128)) for _ in range(10)))
        self.mixed_7a = Branches(
            [
                self._reduce(middle, (c(256), 1), out=c(384)),
                self._reduce(middle, (c(256), 1), out=c(256)),
                self._reduce(middle, (c(256), 1), (c(256), 3), out=c(256)),
                nn.MaxPool2d(3, 2),
            ]
        )
        self.repeat_3 = nn.Sequential(*(self._block8(large, c(192), 0.2) for _ in range(5)))
        self.block8 = self._block8(large, c(192), 1.0, last=True)
        self.last_linear = nn.Linear(large, dim, bias=False)
        self.last_bn = nn.BatchNorm1d(dim, eps=EPSILON)

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool_3a(self.conv2d_2b(self.conv2d_2a(self.conv2d_1a(x))))
        x = self.conv2d_4b(self.conv2d_4a(self.conv2d_3b(x)))
        x = self.repeat_2(self.mixed_6a(self.repeat_1(x)))
        x = self.block8(self.repeat_3(self.mixed_7a(x)))
        embedding: Tensor = self.last_bn(self.last_linear(x.mean(dim=(2, 3))))
        return embedding

    @staticmethod
    def _reduce(inner: int, *steps: tuple[int, Kernel], out: int) -> nn.Sequential:
        """Padded convolutions and then one of stride 2."""
        layers = []
        for outer, kernel in steps:
            layers.append(ConvNormRelu(inner, outer, kernel, padded=True))
            inner = outer
        return nn.Sequential(*layers, ConvNormRelu(inner, out, 3, 2))

    @staticmethod
    def _block35(channels: int, n: int) -> Residual:
        branches = [
            chain(channels, (n, 1)),
            chain(channels, (n, 1), (n, 3)),
            chain(channels, (n, 1), (n, 3), (n, 3)),
        ]
        return Residual(channels, 3 * n, branches, 0.17)

    @staticmethod
    def _block17(channels: int, n: int) -> Residual:
        branches = [chain(channels, (n, 1)), chain(channels, (n, 1), (n, (1, 7)), (n, (7, 1)))]
        return Residual(channels, 2 * n, branches, 0.1)

    @staticmethod
    def _block8(channels: int, n: int, scale: float, last: bool = False) -> Residual:
        branches = [chain(channels, (n, 1)), chain(channels, (n, 1), (n, (1, 3)), (n, (3, 1)))]
        return Residual(channels, 2 * n, branches, scale, last)
