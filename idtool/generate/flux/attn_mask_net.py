"""DMID's AttnMaskNet (section 3.2.1): an additive attention mask between condition and other tokens, per block.

From the queries of a block, A_tn in [0, 1] for text and image tokens and A_c in [0, 1] for condition tokens; with
A' = 2 beta A - beta (equation 4), the mask is A_tn ⊗ A'_c where text and image look at the condition, A_c ⊗ A'_tn where
it looks at them, and 0 elsewhere (equation 5): of rank 2, so it folds into queries and keys.

The paper gives neither d2, nor the number of residual blocks, nor what queries exactly; ours: 256, 1 (together 0.94 %
of FLUX.1-dev, the paper says about 1 %), and queries after their normalisation and before rotation, heads side by side.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn

from idtool.generate.flux.attention import Fold, Site

MASK_NET = ".attn.mask_net."
"""Between the name of a block and the names of its mask network's tensors in a checkpoint."""


class Residual(nn.Module):
    """x + Conv3x3(SiLU(Conv3x3(x)))."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.conv2(nn.functional.silu(self.conv1(x)))
        return out


class AttnMaskNet(nn.Module):
    """Queries of one block to A_tn and A_c. At the start both are 1/2, so that the mask is 0 (ours)."""

    def __init__(self, width: int, d2: int = 256, residual_blocks: int = 1) -> None:
        super().__init__()
        self.proj = nn.Linear(width, d2)
        self.text_noise = nn.Linear(d2, 1)
        self.residual = nn.Sequential(*(Residual(d2) for _ in range(residual_blocks)))
        self.condition = nn.Linear(d2, 1)
        for head in (self.text_noise, self.condition):
            nn.init.zeros_(head.weight)
            nn.init.zeros_(head.bias)

    def of_text_noise(self, queries: Tensor) -> Tensor:
        """A_tn (B, tokens) in [0, 1] from queries (B, tokens, width) of text or image."""
        return torch.sigmoid(self.text_noise(self.proj(queries))).squeeze(-1)

    def of_condition(self, queries: Tensor, grid: tuple[int, int]) -> Tensor:
        """A_c (B, K) in [0, 1] from queries (B, K, width) of a condition whose tokens are a grid (rows, columns)."""
        rows, columns = grid
        if rows * columns != queries.shape[1]:
            raise ValueError(f"a grid of {rows} x {columns} has not {queries.shape[1]} tokens")
        plane = self.proj(queries).transpose(1, 2).unflatten(2, (rows, columns))
        return torch.sigmoid(self.condition(self.residual(plane).flatten(2).transpose(1, 2))).squeeze(-1)

    def fold(self, queries: Mapping[str, Tensor], grids: Mapping[str, tuple[int, int]], beta: float) -> Fold:
        """The mask of equation 5. `queries`: branch -> (B, tokens, heads, width of a head); `grids`: those of the
        conditions among them."""
        rows, columns = {}, {}
        for name, tensor in queries.items():
            flat = tensor.flatten(2)
            attention = self.of_condition(flat, grids[name]) if name in grids else self.of_text_noise(flat)
            zero, signed = torch.zeros_like(attention), 2 * beta * attention - beta
            rows[name] = torch.stack([zero, attention] if name in grids else [attention, zero], dim=-1)
            columns[name] = torch.stack([signed, zero] if name in grids else [zero, signed], dim=-1)
        return Fold(rows, columns)


class AttnMaskNets(nn.Module):
    """One AttnMaskNet for every block of a transformer, under the names `<block>.attn.mask_net.…`."""

    def __init__(self, sites: Iterable[Site], width: int, d2: int = 256, residual_blocks: int = 1) -> None:
        super().__init__()
        self._nets: dict[Site, AttnMaskNet] = {}
        for site in sites:
            net = AttnMaskNet(width, d2, residual_blocks)
            holder: nn.Module = self
            for part in (*block_name(site).split("."), "attn"):
                if part not in holder._modules:
                    holder.add_module(part, nn.Module())
                holder = holder._modules[part]
            holder.add_module("mask_net", net)
            self._nets[site] = net

    def __getitem__(self, site: Site) -> AttnMaskNet:
        return self._nets[site]


def block_name(site: Site) -> str:
    """The name of a block in diffusers' transformer."""
    return f"{'transformer_blocks' if site.kind == 'double' else 'single_transformer_blocks'}.{site.number}"


def sites_of(transformer: object) -> Sequence[Site]:
    """All blocks of a transformer in order."""
    doubles, singles = (getattr(transformer, name) for name in ("transformer_blocks", "single_transformer_blocks"))
    return [*(Site("double", k) for k in range(len(doubles))), *(Site("single", k) for k in range(len(singles)))]
