"""PuLID's networks for FLUX (Guo et al., NeurIPS 2024): IDFormer, which makes tokens of a face's vector and of vision
features, and the cross-attentions that the image tokens look at them with. Names are those of
`pulid_flux_v0.9.1.safetensors`: `pulid_encoder.*`, `pulid_ca.<k>.*`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor, cat, nn, randn

from idtool.generate.flux.attention import Site
from idtool.generate.flux.perceiver import Layer, PerceiverAttention

SCALES = 5
"""Depths of the vision tower that are looked at."""
CROSS_HEAD = 128
"""Width of a head of the cross-attentions."""
DOUBLE_INTERVAL, SINGLE_INTERVAL = 2, 4
"""Every so many blocks are followed by a cross-attention, from the first on."""


def mapping(inner: int, hidden: int, outer: int) -> nn.Sequential:
    """Three linear layers `0`, `3`, `6` with norms `1`, `4` between them."""
    return nn.Sequential(
        nn.Linear(inner, hidden),
        nn.LayerNorm(hidden),
        nn.LeakyReLU(),
        nn.Linear(hidden, hidden),
        nn.LayerNorm(hidden),
        nn.LeakyReLU(),
        nn.Linear(hidden, outer),
    )


class IDFormer(nn.Module):
    """A vector (B, vector) and features of five depths (B, F, features) to identity tokens (B, queries, out).

    The vector becomes a few tokens of its own; these and the learned queries look, two layers a depth, at the tokens
    and at the features of that depth.
    """

    def __init__(
        self,
        dim: int,
        inner: int,
        depth: int,
        queries: int,
        tokens: int,
        out: int,
        vector: int,
        features: int,
        hidden: int,
    ) -> None:
        super().__init__()
        self.tokens, self.dim = tokens, dim
        self.latents = nn.Parameter(randn(1, queries, dim) * dim**-0.5)
        self.proj_out = nn.Parameter(randn(dim, out) * dim**-0.5)
        self.layers = nn.ModuleList([Layer(dim, inner) for _ in range(depth)])
        for scale in range(SCALES):
            self.add_module(f"mapping_{scale}", mapping(features, hidden, dim))
        self.id_embedding_mapping = mapping(vector, hidden, dim * tokens)

    def forward(self, vector: Tensor, features: Sequence[Tensor]) -> Tensor:
        own = self.id_embedding_mapping(vector).reshape(-1, self.tokens, self.dim)
        queries = cat([self.latents.expand(len(own), -1, -1), own], dim=1)
        each = len(self.layers) // SCALES
        for scale in range(SCALES):
            seen = cat([own, self.get_submodule(f"mapping_{scale}")(features[scale])], dim=1)
            for layer in self.layers[scale * each : (scale + 1) * each]:
                queries = layer(seen, queries)
        out: Tensor = queries[:, : self.latents.shape[1]] @ self.proj_out
        return out


class Pulid(nn.Module):
    """Both parts of a checkpoint: `pulid_encoder` and `pulid_ca`."""

    def __init__(self, encoder: IDFormer, cross: Sequence[PerceiverAttention]) -> None:
        super().__init__()
        self.pulid_encoder = encoder
        self.pulid_ca = nn.ModuleList(cross)

    @classmethod
    def like(cls, state: Mapping[str, Tensor]) -> Pulid:
        """The networks in the widths of a checkpoint, not filled. KeyError for a name that it has not."""
        of = "pulid_encoder."
        dim = state[f"{of}latents"].shape[2]
        encoder = IDFormer(
            dim=dim,
            inner=state[f"{of}layers.0.0.to_q.weight"].shape[0],
            depth=_count(state, f"{of}layers."),
            queries=state[f"{of}latents"].shape[1],
            tokens=state[f"{of}id_embedding_mapping.6.weight"].shape[0] // dim,
            out=state[f"{of}proj_out"].shape[1],
            vector=state[f"{of}id_embedding_mapping.0.weight"].shape[1],
            features=state[f"{of}mapping_0.0.weight"].shape[1],
            hidden=state[f"{of}mapping_0.0.weight"].shape[0],
        )
        inner, width = state["pulid_ca.0.to_q.weight"].shape
        cross = [
            PerceiverAttention(width, inner, state["pulid_ca.0.to_kv.weight"].shape[1], CROSS_HEAD, itself=False)
            for _ in range(_count(state, "pulid_ca."))
        ]
        return cls(encoder, cross)


def sites(doubles: int, singles: int) -> list[Site]:
    """The blocks that are followed by a cross-attention, in the order of `pulid_ca`."""
    return [
        *(Site("double", k) for k in range(0, doubles, DOUBLE_INTERVAL)),
        *(Site("single", k) for k in range(0, singles, SINGLE_INTERVAL)),
    ]


def _count(state: Mapping[str, Tensor], prefix: str) -> int:
    return len({name.removeprefix(prefix).split(".")[0] for name in state if name.startswith(prefix)})
