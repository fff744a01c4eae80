"""The autoencoder of VQGAN (Esser et al., CVPR 2021) in the six levels of CodeFormer: residual blocks, with attention
at the smallest size. Blocks are numbered through, as in the public checkpoint (`encoder.blocks.0.weight`, …)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor, nn
from torch.nn.functional import interpolate, pad, scaled_dot_product_attention, silu

LEVELS = 6
"""Sizes of the features: each half of the one before."""
PER_LEVEL = 2
"""Residual blocks of a level."""
GROUPS = 32
FIRST_OF_ENCODER = 1
"""Number of the encoder's block where its levels begin: after a convolution."""


def first_of_level(level: int) -> int:
    """Number of the encoder's first block of a level; each level but the last ends in one that halves the size."""
    return FIRST_OF_ENCODER + level * (PER_LEVEL + 1)


class Encoder(nn.Module):
    """Pictures to codes (N, code, s, s), and the features at the end of every level."""

    def __init__(self, channels_of: Sequence[int], code: int) -> None:
        super().__init__()
        last = channels_of[0]
        blocks: list[nn.Module] = [nn.Conv2d(3, last, 3, padding=1)]
        self.ends: dict[int, int] = {}
        for level, channels in enumerate(channels_of):
            deepest = level == LEVELS - 1
            for _ in range(PER_LEVEL):
                blocks.append(Residual(last, channels))
                last_of_level = len(blocks) - 1
                blocks += [Attention(channels)] if deepest else []
                last = channels
            self.ends[last_of_level] = level
            blocks += [] if deepest else [Halved(last)]
        blocks += [*_middle(last), _norm(last), nn.Conv2d(last, code, 3, padding=1)]
        self.blocks = nn.ModuleList(blocks)

    def forward(self, x: Tensor) -> tuple[Tensor, dict[int, Tensor]]:
        seen = {}
        for number, block in enumerate(self.blocks):
            x = block(x)
            if number in self.ends:
                seen[self.ends[number]] = x
        return x, seen


class Decoder(nn.Module):
    """Codes (N, code, s, s) to pictures; features of the encoder come in after the first block of their level."""

    def __init__(self, channels_of: Sequence[int], code: int) -> None:
        super().__init__()
        last = channels_of[-1]
        blocks: list[nn.Module] = [nn.Conv2d(code, last, 3, padding=1), *_middle(last)]
        self.starts: dict[int, int] = {}
        for level in reversed(range(LEVELS)):
            channels = channels_of[level]
            self.starts[len(blocks)] = level
            for _ in range(PER_LEVEL):
                blocks.append(Residual(last, channels))
                blocks += [Attention(channels)] if level == LEVELS - 1 else []
                last = channels
            blocks += [Doubled(last)] if level else []
        blocks += [_norm(last), nn.Conv2d(last, 3, 3, padding=1)]
        self.blocks = nn.ModuleList(blocks)

    def forward(self, x: Tensor, shown: Mapping[int, tuple[nn.Module, Tensor]], fidelity: float) -> Tensor:
        for number, block in enumerate(self.blocks):
            x = block(x)
            fusion, seen = shown.get(self.starts.get(number, -1), (None, None))
            if fusion is not None:
                x = fusion(seen, x, fidelity)
        return x


class Residual(nn.Module):
    """Two 3x3 convolutions beside a shortcut, which is projected where the width changes."""

    def __init__(self, inside: int, out: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = _norm(inside), nn.Conv2d(inside, out, 3, padding=1)
        self.norm2, self.conv2 = _norm(out), nn.Conv2d(out, out, 3, padding=1)
        if inside != out:
            self.conv_out = nn.Conv2d(inside, out, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv2(silu(self.norm2(self.conv1(silu(self.norm1(x))))))
        return y + (self.conv_out(x) if hasattr(self, "conv_out") else x)


class Attention(nn.Module):
    """Every place looks at every other, one head."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = _norm(channels)
        self.q, self.k, self.v, self.proj_out = (nn.Conv2d(channels, channels, 1) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        normed = self.norm(x)
        q, k, v = (part(normed).flatten(2).transpose(1, 2) for part in (self.q, self.k, self.v))
        return x + self.proj_out(scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(x.shape))


class Halved(nn.Module):
    """Half the size; the row and column that the last windows lack are zeros below and on the right."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(pad(x, (0, 1, 0, 1)))


class Doubled(nn.Module):
    """Twice the size."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(interpolate(x, scale_factor=2.0, mode="nearest"))


def _norm(channels: int) -> nn.Module:
    return nn.GroupNorm(GROUPS, channels, eps=1e-6)


def _middle(channels: int) -> list[nn.Module]:
    return [Residual(channels, channels), Attention(channels), Residual(channels, channels)]
