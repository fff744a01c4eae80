"""BiSeNet (Yu et al., ECCV 2018) as face parsing uses it: the context path alone, on a ResNet-18, with the fusion of
its features at 1/8. Module names are those of the public checkpoints (`cp.resnet.layer1.0.conv1.weight`, …)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, relu


@dataclass(frozen=True)
class Widths:
    """Numbers of channels. The defaults are the published network's."""

    stages: tuple[int, int, int, int] = (64, 128, 256, 512)
    """Of the four stages of the ResNet."""
    context: int = 128
    """Of the context path's refined features."""
    fused: int = 256
    gate: int = 64
    """Between the two layers that weigh the fused channels."""
    head: int = 256
    classes: int = 19

    @classmethod
    def of(cls, state: Mapping[str, Tensor]) -> Widths:
        """Those of a checkpoint. KeyError with the name of a tensor that is not in it."""

        def out(name: str) -> int:
            return int(state[f"{name}.weight"].shape[0])

        first, second, third, fourth = (out(f"cp.resnet.layer{stage}.0.conv1") for stage in (1, 2, 3, 4))
        return cls(
            stages=(first, second, third, fourth),
            context=out("cp.conv_avg.conv"),
            fused=out("ffm.convblk.conv"),
            gate=out("ffm.conv1"),
            head=out("conv_out.conv.conv"),
            classes=out("conv_out.conv_out"),
        )


class BiSeNet(nn.Module):
    """(N, 3, H, W) normalised RGB, sides divisible by 32, to class scores (N, classes, H, W).

    The two further heads that only serve training (`conv_out16`, `conv_out32`) are left out.
    """

    def __init__(self, widths: Widths) -> None:
        super().__init__()
        self.cp = ContextPath(widths)
        self.ffm = Fusion(widths)
        self.conv_out = Head(widths)

    def forward(self, x: Tensor) -> Tensor:
        """Scores at the size of the input; corner pixels are resized onto corner pixels, as it was trained."""
        scores = self.conv_out(self.ffm(*self.cp(x)))
        return interpolate(scores, x.shape[2:], mode="bilinear", align_corners=True)


class ContextPath(nn.Module):
    """Features at 1/8 of the size: the backbone's, and those that flow back from 1/32 and 1/16."""

    def __init__(self, widths: Widths) -> None:
        super().__init__()
        self.resnet = ResNet18(widths.stages)
        self.arm16 = Attention(widths.stages[2], widths.context)
        self.arm32 = Attention(widths.stages[3], widths.context)
        self.conv_head32 = ConvBnRelu(widths.context, widths.context, 3)
        self.conv_head16 = ConvBnRelu(widths.context, widths.context, 3)
        self.conv_avg = ConvBnRelu(widths.stages[3], widths.context, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        feat8, feat16, feat32 = self.resnet(x)
        up32 = self.arm32(feat32) + self.conv_avg(_mean(feat32))
        up32 = self.conv_head32(interpolate(up32, feat16.shape[2:], mode="nearest"))
        up16 = self.arm16(feat16) + up32
        up16 = self.conv_head16(interpolate(up16, feat8.shape[2:], mode="nearest"))
        return feat8, up16


class ResNet18(nn.Module):
    """Features at 1/8, 1/16 and 1/32 of the size (He et al., CVPR 2016, table 1)."""

    def __init__(self, stages: tuple[int, int, int, int]) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, stages[0], 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(stages[0])
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        self.layer1 = _stage(stages[0], stages[0], 1)
        self.layer2 = _stage(stages[0], stages[1], 2)
        self.layer3 = _stage(stages[1], stages[2], 2)
        self.layer4 = _stage(stages[2], stages[3], 2)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x = self.layer1(self.maxpool(relu(self.bn1(self.conv1(x)))))
        feat8 = self.layer2(x)
        feat16 = self.layer3(feat8)
        return feat8, feat16, self.layer4(feat16)


class Block(nn.Module):
    """Two 3x3 convolutions beside a shortcut, which is projected where the shape changes."""

    def __init__(self, inside: int, out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inside, out, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(out)
        self.conv2 = nn.Conv2d(out, out, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out)
        self.downsample = (
            nn.Sequential(nn.Conv2d(inside, out, 1, stride=stride, bias=False), nn.BatchNorm2d(out))
            if stride != 1 or inside != out
            else nn.Identity()
        )

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(relu(self.bn1(self.conv1(x)))))
        return relu(self.downsample(x) + y)


class ConvBnRelu(nn.Module):
    """Convolution that keeps the size, batch normalisation, ReLU."""

    def __init__(self, inside: int, out: int, kernel: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inside, out, kernel, padding=kernel // 2, bias=False)
        self.bn = nn.BatchNorm2d(out)

    def forward(self, x: Tensor) -> Tensor:
        return relu(self.bn(self.conv(x)))


class Attention(nn.Module):
    """Attention refinement: channels weighed by a sigmoid of their global means (figure 2b of the paper)."""

    def __init__(self, inside: int, out: int) -> None:
        super().__init__()
        self.conv = ConvBnRelu(inside, out, 3)
        self.conv_atten = nn.Conv2d(out, out, 1, bias=False)
        self.bn_atten = nn.BatchNorm2d(out)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        return x * torch.sigmoid(self.bn_atten(self.conv_atten(_mean(x))))


class Fusion(nn.Module):
    """Feature fusion (figure 2c of the paper): both features together, channels weighed, added to themselves."""

    def __init__(self, widths: Widths) -> None:
        super().__init__()
        self.convblk = ConvBnRelu(widths.stages[1] + widths.context, widths.fused, 1)
        self.conv1 = nn.Conv2d(widths.fused, widths.gate, 1, bias=False)
        self.conv2 = nn.Conv2d(widths.gate, widths.fused, 1, bias=False)

    def forward(self, spatial: Tensor, context: Tensor) -> Tensor:
        x = self.convblk(torch.cat([spatial, context], dim=1))
        return x + x * torch.sigmoid(self.conv2(relu(self.conv1(_mean(x)))))


class Head(nn.Module):
    """Class scores of the fused features."""

    def __init__(self, widths: Widths) -> None:
        super().__init__()
        self.conv = ConvBnRelu(widths.fused, widths.head, 3)
        self.conv_out = nn.Conv2d(widths.head, widths.classes, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv_out(self.conv(x))


def _stage(inside: int, out: int, stride: int) -> Any:
    return nn.Sequential(Block(inside, out, stride), Block(out, out, 1))


def _mean(x: Tensor) -> Tensor:
    return x.mean(dim=(2, 3), keepdim=True)
