"""CodeFormer (Zhou et al., NeurIPS 2022): a face is encoded, a transformer guesses the codes of a clean face from a
learned codebook, a decoder draws it; features of the encoder pull the drawing back to what was shown. Module names are
those of the public checkpoint (`encoder.blocks.0.weight`, `ft_layers.0.self_attn.in_proj_weight`, …)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, leaky_relu

from idtool.models.networks.vqgan import LEVELS, Decoder, Encoder, Residual, first_of_level

SIDE = 512
"""Side of the published network's pictures: the names of its connections are sides of its features."""


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
        first = [first_of_level(level) for level in range(LEVELS)]
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


class CodeFormer(nn.Module):
    """(N, 3, side, side) RGB in [-1, 1] to the same."""

    def __init__(self, widths: Widths) -> None:
        super().__init__()
        self.widths = widths
        self.encoder = Encoder(widths.channels, widths.code)
        self.quantize = Codebook(widths.codes, widths.code)
        self.generator = Decoder(widths.channels, widths.code)
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


def matched(features: Tensor, to: Tensor) -> Tensor:
    """`features` (N, C, s, s) with the means and deviations, channel by channel, of `to`: light and colour of the
    picture (adaptive instance normalisation)."""

    def moments(x: Tensor) -> tuple[Tensor, Tensor]:
        flat = x.flatten(2)
        spread = (flat.var(dim=2) + 1e-5).sqrt()
        return flat.mean(dim=2)[..., None, None], spread[..., None, None]

    (mean, spread), (new_mean, new_spread) = moments(features), moments(to)
    return (features - mean) / spread * new_spread + new_mean
