"""Perceiver attention as PuLID, InfiniteYou and InstantID publish it: learned queries that look at features.

Names of modules are those of the published checkpoints. Widths are read off the checkpoints.
"""

from __future__ import annotations

from torch import Tensor, cat, nn, randn

HEAD = 64
"""Width of a head, save where it is said otherwise."""


class PerceiverAttention(nn.Module):
    """Queries (B, Q, dim) look at features (B, F, features), and with `itself` at themselves too; (B, Q, dim)."""

    def __init__(
        self, dim: int, inner: int, features: int | None = None, head: int = HEAD, itself: bool = True
    ) -> None:
        super().__init__()
        self.heads, self.itself = inner // head, itself
        self.norm1 = nn.LayerNorm(features or dim)
        self.norm2 = nn.LayerNorm(dim)
        self.to_q = nn.Linear(dim, inner, bias=False)
        self.to_kv = nn.Linear(features or dim, 2 * inner, bias=False)
        self.to_out = nn.Linear(inner, dim, bias=False)

    def forward(self, features: Tensor, queries: Tensor) -> Tensor:
        features, queries = self.norm1(features), self.norm2(queries)
        seen = cat([features, queries], dim=1) if self.itself else features
        query, key, value = (
            part.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for part in (self.to_q(queries), *self.to_kv(seen).chunk(2, dim=-1))
        )
        out = nn.functional.scaled_dot_product_attention(query, key, value)
        projected: Tensor = self.to_out(out.transpose(1, 2).flatten(2))
        return projected


def feed_forward(dim: int, times: int = 4) -> nn.Sequential:
    """Names `0` (norm), `1` and `3` (linear, without bias)."""
    return nn.Sequential(
        nn.LayerNorm(dim),
        nn.Linear(dim, dim * times, bias=False),
        nn.GELU(),
        nn.Linear(dim * times, dim, bias=False),
    )


class Layer(nn.ModuleList):
    """An attention `0` and a feed-forward `1`, each added to what comes in."""

    def __init__(self, dim: int, inner: int) -> None:
        super().__init__([PerceiverAttention(dim, inner), feed_forward(dim)])

    def forward(self, features: Tensor, queries: Tensor) -> Tensor:
        queries = self[0](features, queries) + queries
        out: Tensor = self[1](queries) + queries
        return out


class Resampler(nn.Module):
    """Features (B, F, features) to `queries` tokens (B, queries, out)."""

    def __init__(self, dim: int, depth: int, inner: int, queries: int, features: int, out: int) -> None:
        super().__init__()
        self.latents = nn.Parameter(randn(1, queries, dim) / dim**0.5)
        self.proj_in = nn.Linear(features, dim)
        self.layers = nn.ModuleList([Layer(dim, inner) for _ in range(depth)])
        self.proj_out = nn.Linear(dim, out)
        self.norm_out = nn.LayerNorm(out)

    def forward(self, features: Tensor) -> Tensor:
        features = self.proj_in(features)
        queries = self.latents.expand(len(features), -1, -1)
        for layer in self.layers:
            queries = layer(features, queries)
        out: Tensor = self.norm_out(self.proj_out(queries))
        return out

    @classmethod
    def like(cls, state: dict[str, Tensor]) -> Resampler:
        """The network in the widths of a checkpoint. KeyError for a name that it has not."""
        depth = len({name.split(".")[1] for name in state if name.startswith("layers.")})
        return cls(
            dim=state["latents"].shape[2],
            depth=depth,
            inner=state["layers.0.0.to_q.weight"].shape[0],
            queries=state["latents"].shape[1],
            features=state["proj_in.weight"].shape[1],
            out=state["proj_out.weight"].shape[0],
        )
