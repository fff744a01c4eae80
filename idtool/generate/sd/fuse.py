"""Image features fused into embeddings of the prompt at chosen tokens, as FastComposer, PhotoMaker and ConsistentID do
it (`mlp1`, `mlp2`, `layer_norm`; Xiao et al., "FastComposer", 2023, section 4.1)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor, cat, nn


class Mlp(nn.Module):
    """Norm, two linear layers."""

    def __init__(self, inner: int, hidden: int, outer: int) -> None:
        super().__init__()
        self.layernorm = nn.LayerNorm(inner)
        self.fc1 = nn.Linear(inner, hidden)
        self.fc2 = nn.Linear(hidden, outer)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc2(nn.functional.gelu(self.fc1(self.layernorm(x))))
        return out


class Fuse(nn.Module):
    """Embeddings of tokens (N, width) and a feature for each (N, width) to what stands in their place (N, width)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.mlp1 = Mlp(2 * width, width, width)
        self.mlp2 = Mlp(width, width, width)
        self.layer_norm = nn.LayerNorm(width)

    def forward(self, tokens: Tensor, features: Tensor) -> Tensor:
        mixed = self.mlp1(cat([tokens, features], dim=-1)) + tokens
        out: Tensor = self.layer_norm(self.mlp2(mixed) + mixed)
        return out

    @classmethod
    def like(cls, state: Mapping[str, Tensor], prefix: str = "") -> Fuse:
        """In the width of a checkpoint. KeyError for a name that it has not."""
        return cls(state[f"{prefix}layer_norm.weight"].shape[0])

    def into(self, text: Tensor, positions: Sequence[Sequence[int]], features: Sequence[Tensor]) -> Tensor:
        """Embeddings of prompts (B, tokens, width), new at `positions` of each: `features[b]` is (positions, width)."""
        rows = text.clone()
        for k, (at, feature) in enumerate(zip(positions, features, strict=True)):
            if at:
                rows[k, list(at)] = self(text[k, list(at)], feature[: len(at)].to(text.dtype))
        return rows
