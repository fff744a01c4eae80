"""CodeFormer (Zhou et al., NeurIPS 2022): a face is encoded, a transformer guesses the codes of a clean face from a
learned codebook, a decoder draws it; features of the encoder pull the drawing back to what was shown. Module names are
those of the public checkpoint (`encoder.blocks.0.weight`, `ft_layers.0.self_attn.in_proj_weight`, …)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, interpolate, leaky_relu, pad, scaled_dot_product_attention, silu

LEVELS = 6
"""Sizes of the features: each half of the one before."""
PER_LEVEL = 2
"""Residual blocks of a level."""
GROUPS = 32
SIDE = 512
"""Side of the published network's pictures: the names of its connections are sides of its features."""
FIRST_OF_ENCODER, FIRST_OF_DECODER = 1, 4
"""Number of the block where the levels begin: after a convolution, and after that and the middle blocks."""


@dataclass(frozen=True)
class Widths:
    """Numbers of channels. The defaults are the published network's."""

    channels: tuple[int, ...] = (64, 128, 128, 256, 256, 512)
    """Of each level, the largest features first."""
    code: int = 256
    """Of an entry of the codebook."""
    codes: int = 1024
    """Entries of the codebook."""
    positions: int = 256
    """Codes of a picture: the square of the smallest features' side."""
    dim: int = 512
    """Of the transformer."""
    mlp: int = 1024
    layers: int = 9
    connected: tuple[str, ...] = ("32", "64", "128", "256")
    """Features of the encoder that the decoder is shown, by their side in a picture of 512 px."""
    heads: int = 8
    """Of the transformer; no tensor tells it."""

    @classmethod
    def of(cls, state: Mapping[str, Tensor], heads: int = 8) -> Widths:
        """Those of a checkpoint. KeyError with the name of a tensor that is not in it."""
        codes, code = state["quantize.embedding.weight"].shape
        positions, dim = state["position_emb"].shape
        first = [_first_of_level(level) for level in range(LEVELS)]
        return cls(
            channels=tuple(int(state[f"encoder.blocks.{number}.conv1.weight"].shape[0]) for number in first),
            code=int(code),
            codes=int(codes),
            positions=int(positions),
            dim=int(dim),
            mlp=int(state["ft_layers.0.linear1.weight"].shape[0]),
            layers=1 + max(int(name.split(".")[1]) for name in state if name.startswith("ft_layers.")),
            connected=tuple(sorted({name.split(".")[1] for name in state if name.startswith("fuse_convs_dict.")})),
            heads=heads,
        )

    @property
    def side(self) -> int:
        """Side in pixels of the pictures that the network takes."""
        return math.isqrt(self.positions) << (LEVELS - 1)


def _first_of_level(level: int) -> int:
    """Number of the encoder's first block of a level; each level but the last ends in one that halves the size."""
    return FIRST_OF_ENCODER + level * (PER_LEVEL + 1)


class CodeFormer(nn.Module):
    """(N, 3, side, side) RGB in [-1, 1] to the same."""

    def __init__(self, widths: Widths) -> None:
        super().__init__()
        self.widths = widths
        self.encoder = Encoder(widths)
        self.quantize = Codebook(widths.codes, widths.code)
        self.generator = Decoder(widths)
        self.position_emb = nn.Parameter(torch.zeros(widths.positions, widths.dim))
        self.feat_emb = nn.Linear(widths.code, widths.dim)
        self.ft_layers = nn.ModuleList(Layer(widths.dim, widths.heads, widths.mlp) for _ in range(widths.layers))
        self.idx_pred_layer = nn.Sequential(nn.LayerNorm(widths.dim), nn.Linear(widths.dim, widths.codes, bias=False))
        # The number of the level whose features have that side in a picture of 512 px.
        self.levels = {name: round(math.log2(SIDE / int(name))) for name in widths.connected}
        self.fuse_convs_dict = nn.ModuleDict(
            {name: Fusion(widths.channels[level]) for name, level in self.levels.items()}
        )

    def forward(self, x: Tensor, fidelity: float = 0.5) -> Tensor:
        """`fidelity` (`w` of the paper, equation 6): 0 the cleanest face, 1 the closest to the picture."""
        code, features = self.encoder(x)
        clean = matched(self.quantize(self.codes(code), code.shape), code)
        shown = {level: (self.fuse_convs_dict[name], features[level]) for name, level in self.levels.items()}
        return self.generator(clean, shown if fidelity > 0 else {}, fidelity)

    def codes(self, code: Tensor) -> Tensor:
        """The most likely entry of the codebook for each place: (N, positions)."""
        tokens = self.feat_emb(code.flatten(2).transpose(1, 2))
        for layer in self.ft_layers:
            tokens = layer(tokens, self.position_emb)
        return self.idx_pred_layer(tokens).argmax(dim=2)


class Encoder(nn.Module):
    """Pictures to codes (N, code, s, s), and the features at the end of every level."""

    def __init__(self, widths: Widths) -> None:
        super().__init__()
        last = widths.channels[0]
        blocks: list[nn.Module] = [nn.Conv2d(3, last, 3, padding=1)]
        self.ends: dict[int, int] = {}
        for level, channels in enumerate(widths.channels):
            deepest = level == LEVELS - 1
            for _ in range(PER_LEVEL):
                blocks.append(Residual(last, channels))
                self.ends[level] = len(blocks) - 1
                blocks += [Attention(channels)] if deepest else []
                last = channels
            blocks += [] if deepest else [Halved(last)]
        blocks += [*_middle(last), _norm(last), nn.Conv2d(last, widths.code, 3, padding=1)]
        self.blocks = nn.ModuleList(blocks)

    def forward(self, x: Tensor) -> tuple[Tensor, dict[int, Tensor]]:
        seen = {}
        levels = {number: level for level, number in self.ends.items()}
        for number, block in enumerate(self.blocks):
            x = block(x)
            if number in levels:
                seen[levels[number]] = x
        return x, seen


class Decoder(nn.Module):
    """Codes (N, code, s, s) to pictures; features of the encoder come in after the first block of their level."""

    def __init__(self, widths: Widths) -> None:
        super().__init__()
        last = widths.channels[-1]
        blocks: list[nn.Module] = [nn.Conv2d(widths.code, last, 3, padding=1), *_middle(last)]
        self.starts: dict[int, int] = {}
        for level in reversed(range(LEVELS)):
            channels = widths.channels[level]
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


class Codebook(nn.Module):
    """Entries by number."""

    def __init__(self, codes: int, width: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(codes, width)

    def forward(self, numbers: Tensor, shape: torch.Size) -> Tensor:
        """(N, positions) numbers as features of `shape` (N, width, s, s)."""
        return self.embedding(numbers).transpose(1, 2).reshape(shape)


class Layer(nn.Module):
    """A transformer layer, normalised first; positions are told to queries and keys only."""

    def __init__(self, dim: int, heads: int, mlp: int) -> None:
        super().__init__()
        self.self_attn = nn.MultiheadAttention(dim, heads, batch_first=True)
        self.linear1, self.linear2 = nn.Linear(dim, mlp), nn.Linear(mlp, dim)
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)

    def forward(self, x: Tensor, positions: Tensor) -> Tensor:
        values = self.norm1(x)
        asked = values + positions
        x = x + self.self_attn(asked, asked, values, need_weights=False)[0]
        return x + self.linear2(gelu(self.linear1(self.norm2(x))))


class Fusion(nn.Module):
    """Scales and shifts the decoder's features by what the encoder saw (equations 5 and 6 of the paper)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.encode_enc = Residual(2 * channels, channels)
        self.scale, self.shift = (
            # The activation between them has no weights, but a number of its own in the checkpoint's names.
            nn.ModuleDict({name: nn.Conv2d(channels, channels, 3, padding=1) for name in ("0", "2")})
            for _ in range(2)
        )

    def forward(self, seen: Tensor, drawn: Tensor, fidelity: float) -> Tensor:
        both = self.encode_enc(torch.cat([seen, drawn], dim=1))
        scale, shift = (pair["2"](leaky_relu(pair["0"](both), 0.2)) for pair in (self.scale, self.shift))
        return drawn + fidelity * (drawn * scale + shift)


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


def matched(features: Tensor, to: Tensor) -> Tensor:
    """`features` (N, C, s, s) with the means and deviations, channel by channel, of `to`: light and colour of the
    picture (adaptive instance normalisation)."""

    def moments(x: Tensor) -> tuple[Tensor, Tensor]:
        flat = x.flatten(2)
        spread = (flat.var(dim=2) + 1e-5).sqrt()
        return flat.mean(dim=2)[..., None, None], spread[..., None, None]

    (mean, spread), (new_mean, new_spread) = moments(features), moments(to)
    return (features - mean) / spread * new_spread + new_mean


def _norm(channels: int) -> nn.Module:
    return nn.GroupNorm(GROUPS, channels, eps=1e-6)


def _middle(channels: int) -> list[nn.Module]:
    return [Residual(channels, channels), Attention(channels), Residual(channels, channels)]
