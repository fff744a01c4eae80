"""The residual network of ArcFace ("improved" ResNet, IR) under the names that AdaFace and CVLface save it with.

Deng et al., "ArcFace", CVPR 2019, §3.1; Kim et al., "AdaFace", CVPR 2022. Each block: batch normalisation, 3x3
convolution, batch normalisation, PReLU, 3x3 convolution with the stride, batch normalisation, plus a short cut.
With the same random weights it gives the same numbers as the networks of both repositories, bit for bit.
"""

from __future__ import annotations

from torch import Tensor, nn

BLOCKS: dict[int, tuple[int, int, int, int]] = {
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 14, 3),
    101: (3, 13, 30, 3),
}
"""Depth -> blocks in each of the four stages."""
CHANNELS = (64, 128, 256, 512)


class Block(nn.Module):
    """One residual block; the first of each stage halves the size."""

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
            nn.BatchNorm2d(outer),
            nn.PReLU(outer),
            nn.Conv2d(outer, outer, 3, stride, 1, bias=False),
            nn.BatchNorm2d(outer),
        )

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.res_layer(x) + self.shortcut_layer(x)
        return out


class IResNet(nn.Module):
    """Faces (N, 3, 112, 112) in [-1, 1] to embeddings (N, 512) before they are scaled to length one.

    `depth` is a key of `BLOCKS`; `width` scales the numbers of channels, the public weights have 1.
    """

    def __init__(self, depth: int = 101, width: float = 1.0, dim: int = 512) -> None:
        super().__init__()
        channels = [max(1, round(number * width)) for number in CHANNELS]
        first, last = channels[0], channels[-1]
        self.input_layer = nn.Sequential(
            nn.Conv2d(3, first, 3, 1, 1, bias=False), nn.BatchNorm2d(first), nn.PReLU(first)
        )
        blocks, inner = [], first
        for number, outer in zip(BLOCKS[depth], channels, strict=True):
            blocks += [Block(inner if i == 0 else outer, outer, 2 if i == 0 else 1) for i in range(number)]
            inner = outer
        self.body = nn.Sequential(*blocks)
        # The dropout is of training; it stands here because it counts in the names.
        self.output_layer = nn.Sequential(
            nn.BatchNorm2d(last),
            nn.Dropout(0.4),
            nn.Flatten(),
            nn.Linear(last * 7 * 7, dim),
            nn.BatchNorm1d(dim, affine=False),
        )

    def forward(self, x: Tensor) -> Tensor:
        embedding: Tensor = self.output_layer(self.body(self.input_layer(x)))
        return embedding
