"""A face vector and vision features to identity tokens, as IP-Adapter-FaceID-Plus, ConsistentID and DynamicID publish
it (`ProjPlusModel`): `proj.{0,2}`, `norm`, `perceiver_resampler.*`. Widths are read off the checkpoint.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from idtool.generate.flux.perceiver import HEAD, PerceiverAttention, feed_forward


class FaceResampler(nn.Module):
    """Queries that are given (B, Q, dim) look at features (B, F, features), layer by layer; (B, Q, out)."""

    def __init__(self, dim: int, depth: int, inner: int, features: int, out: int, head: int = HEAD) -> None:
        super().__init__()
        self.proj_in = nn.Linear(features, dim)
        self.layers = nn.ModuleList(
            [nn.ModuleList([PerceiverAttention(dim, inner, head=head), feed_forward(dim)]) for _ in range(depth)]
        )
        self.proj_out = nn.Linear(dim, out)
        self.norm_out = nn.LayerNorm(out)

    def forward(self, queries: Tensor, features: Tensor) -> Tensor:
        features = self.proj_in(features)
        for attention, forward in self.layers:
            queries = attention(features, queries) + queries
            queries = forward(queries) + queries
        out: Tensor = self.norm_out(self.proj_out(queries))
        return out


def resampler_like(state: Mapping[str, Tensor], prefix: str, head: int = HEAD) -> FaceResampler:
    """The resampler in the widths of a checkpoint's names behind `prefix`. KeyError for a name that it has not."""
    layers = {name.removeprefix(prefix).split(".")[1] for name in state if name.startswith(f"{prefix}layers.")}
    return FaceResampler(
        dim=state[f"{prefix}proj_in.weight"].shape[0],
        depth=len(layers),
        inner=state[f"{prefix}layers.0.0.to_q.weight"].shape[0],
        features=state[f"{prefix}proj_in.weight"].shape[1],
        out=state[f"{prefix}proj_out.weight"].shape[0],
        head=head,
    )


class FaceProjection(nn.Module):
    """A face vector (B, vector) becomes `count` tokens, which look at features (B, F, features): (B, count, width).

    The tokens of the vector itself are not added to what they found, as both methods have it (`shortcut=False`).
    """

    def __init__(self, vector: int, hidden: int, width: int, count: int, resampler: FaceResampler) -> None:
        super().__init__()
        self.width, self.count = width, count
        self.proj = nn.Sequential(nn.Linear(vector, hidden), nn.GELU(), nn.Linear(hidden, width * count))
        self.norm = nn.LayerNorm(width)
        self.perceiver_resampler = resampler

    @property
    def vector(self) -> int:
        """Numbers of the face vector that it takes."""
        return int(self.proj[0].in_features)

    @property
    def features(self) -> int:
        """Width of the vision features that it takes."""
        return int(self.perceiver_resampler.proj_in.in_features)

    def forward(self, vector: Tensor, features: Tensor) -> Tensor:
        tokens = self.norm(self.proj(vector).unflatten(-1, (self.count, self.width)))
        out: Tensor = self.perceiver_resampler(tokens, features)
        return out

    @classmethod
    def like(cls, state: Mapping[str, Tensor]) -> FaceProjection:
        """The network in the widths of a checkpoint. KeyError for a name that it has not."""
        width = state["norm.weight"].shape[0]
        return cls(
            vector=state["proj.0.weight"].shape[1],
            hidden=state["proj.0.weight"].shape[0],
            width=width,
            count=state["proj.2.weight"].shape[0] // width,
            resampler=resampler_like(state, "perceiver_resampler."),
        )
