"""Random weights from a seed: what the builders of checkpoints share."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any


@contextmanager
def drawn(seed: int = 0) -> Iterator[Any]:
    """torch, its generator set to `seed` inside the block and as before after it."""
    import torch

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield torch


def low_rank(layers: Mapping[str, tuple[int, int]], down: str, up: str, rank: int = 4) -> dict[str, Any]:
    """LoRA tensors, strong enough to be seen, for layers (width out, width in), under their names with the endings
    `down` and `up`."""
    state = {}
    with drawn(1) as torch:
        for name, (outer, inner) in layers.items():
            state[f"{name}.{down}"] = torch.randn(rank, inner) * 0.3
            state[f"{name}.{up}"] = torch.randn(outer, rank) * 0.3
    return state


def loud(network: Any, spared: tuple[str, ...] = ("norm", "mod")) -> Any:
    """A network whose matrices are drawn wide, so that what it is shown matters; but those with `spared` in their
    names."""
    import torch

    for name, tensor in network.named_parameters():
        if tensor.dim() > 1 and not any(part in name for part in spared):
            torch.nn.init.normal_(tensor, std=1.5 * tensor.shape[1] ** -0.5)
    return network
