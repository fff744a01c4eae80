"""DynamicID's Identity-Motion Reconfigurator (Hu et al., ICCV 2025, section 3.2, equations 5 and 6): what a face does
is taken out of its identity tokens and something else put in. Names are those of `IMR_*.bin` and
`key_point_encoder_*.bin`; widths are read off them.

The released attention merges heads into the batch and then permutes four axes of three, which raises an error; here the
heads keep an axis of their own, as in the authors' face encoder.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, cat, nn

from idtool.generate.flux.perceiver import HEAD, PerceiverAttention, feed_forward


class SelfAttention(nn.Module):
    """Tokens (B, T, dim) look at themselves."""

    def __init__(self, dim: int, inner: int) -> None:
        super().__init__()
        self.heads = inner // HEAD
        self.norm1 = nn.LayerNorm(dim)
        self.to_q = nn.Linear(dim, inner, bias=False)
        self.to_kv = nn.Linear(dim, 2 * inner, bias=False)
        self.to_out = nn.Linear(inner, dim, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        tokens = self.norm1(tokens)
        query, key, value = (
            part.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for part in (self.to_q(tokens), *self.to_kv(tokens).chunk(2, dim=-1))
        )
        out = nn.functional.scaled_dot_product_attention(query, key, value)
        projected: Tensor = self.to_out(out.transpose(1, 2).flatten(2))
        return projected


def _net(dim: int, inner: int, depth: int) -> nn.ModuleList:
    """Layers of three: tokens look at the motion, at themselves, and go through a feed-forward."""
    return nn.ModuleList(
        [
            nn.ModuleList([PerceiverAttention(dim, inner), SelfAttention(dim, inner), feed_forward(dim)])
            for _ in range(depth)
        ]
    )


def _through(net: nn.ModuleList, tokens: Tensor, motion: Tensor) -> Tensor:
    for look, itself, forward in net:
        tokens = look(motion, tokens) + tokens
        tokens = itself(tokens) + tokens
        tokens = forward(tokens) + tokens
    return tokens


class Reconfigurator(nn.Module):
    """Identity tokens (B, T, width) with the motion of the source replaced by that of a target."""

    def __init__(
        self, width: int, text: int, dim: int, inner: int, count: int, disentangle: int, entangle: int
    ) -> None:
        """`width`: of tokens and of landmark features; `text`: of text features; `count`: tokens of a motion."""
        super().__init__()
        self.dim, self.count = dim, count
        self.feature_fusion = nn.Sequential(
            nn.LayerNorm(width + text),
            nn.Linear(width + text, dim),
            nn.GELU(),
            nn.LayerNorm(dim),
            nn.Linear(dim, count * dim),
            nn.GELU(),
        )
        self.norm_in = nn.LayerNorm(width)
        self.proj_in = nn.Linear(width, dim)
        self.norm_out = nn.LayerNorm(dim)
        self.proj_out = nn.Linear(dim, width)
        self.disentangleNet = _net(dim, inner, disentangle)
        self.entangleNet = _net(dim, inner, entangle)

    def motion(self, landmarks: Tensor, text: Tensor) -> Tensor:
        """Equation 5: features of landmarks (B, width) and of a description (B, text) to (B, count, dim)."""
        out: Tensor = self.feature_fusion(cat([landmarks, text], dim=1)).unflatten(-1, (self.count, self.dim))
        return out

    def forward(self, tokens: Tensor, source: Tensor, target: Tensor) -> Tensor:
        """Equation 6; `source` and `target` as `motion` gives them."""
        identity = _through(self.disentangleNet, self.proj_in(self.norm_in(tokens)), source)
        out: Tensor = self.proj_out(self.norm_out(_through(self.entangleNet, identity, target)))
        return out

    @classmethod
    def like(cls, state: Mapping[str, Tensor]) -> Reconfigurator:
        """The network in the widths of a checkpoint. KeyError for a name that it has not."""
        dim, width = state["proj_in.weight"].shape
        inner = next((len(t) for name, t in state.items() if name.endswith(".0.to_q.weight")), HEAD)

        def depth(net: str) -> int:
            return len({name.split(".")[1] for name in state if name.startswith(f"{net}.")})

        return cls(
            width=width,
            text=state["feature_fusion.0.weight"].shape[0] - width,
            dim=dim,
            inner=inner,
            count=state["feature_fusion.4.weight"].shape[0] // dim,
            disentangle=depth("disentangleNet"),
            entangle=depth("entangleNet"),
        )


class Convolution(nn.Module):
    """Convolution and norm, added to its input where `adds`, then ReLU."""

    def __init__(self, inner: int, outer: int, size: int, stride: int, padding: int, adds: bool = False) -> None:
        super().__init__()
        self.adds = adds
        self.conv_block = nn.Sequential(nn.Conv2d(inner, outer, size, stride, padding), nn.BatchNorm2d(outer))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.conv_block(x)
        return nn.functional.relu(out + x if self.adds else out)


class KeyPointEncoder(nn.Module):
    """Pictures of landmarks (B, 1, 96, 96) in [-1, 1] to features (B, out)."""

    def __init__(self, base: int = 16, out: int = 768) -> None:
        """`base`: channels of the first layer; they double five times."""
        super().__init__()
        blocks = [nn.Sequential(Convolution(1, base, 7, 1, 3))]
        for k, further in enumerate((2, 3, 2, 2, 1)):
            inner, outer = base << k, base << (k + 1)
            rest = [Convolution(outer, outer, 3, 1, 1, adds=True) for _ in range(further)]
            blocks.append(nn.Sequential(Convolution(inner, outer, 3, 2, 1), *rest))
        last = base << 5
        blocks.append(nn.Sequential(Convolution(last, last, 3, 1, 0), Convolution(last, out, 1, 1, 0)))
        self.blocks = nn.ModuleList(blocks)

    def forward(self, rasters: Tensor) -> Tensor:
        for block in self.blocks:
            rasters = block(rasters)
        return rasters.flatten(1)

    @classmethod
    def like(cls, state: Mapping[str, Tensor]) -> KeyPointEncoder:
        """The network in the widths of a checkpoint. KeyError for a name that it has not."""
        return cls(
            state["blocks.0.0.conv_block.0.weight"].shape[0],
            state["blocks.6.1.conv_block.0.weight"].shape[0],
        )
