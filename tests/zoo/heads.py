"""Tiny aesthetic heads for the tiny CLIP and SigLIP: linear layers under the published names."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tests.zoo.clip import WIDTH
from tests.zoo.weights import drawn


def laion_v2(folder: Path) -> None:
    """`head.pth` with the five layers of LAION's second predictor."""
    _chain(folder / "head.pth", "layers", (0, 2, 4, 6, 7))


def siglip_v25(folder: Path) -> None:
    """`head.pth` with the five layers of aesthetic-predictor-v2-5."""
    _chain(folder / "head.pth", "scoring_head", (0, 2, 4, 6, 8))


def _chain(file: Path, prefix: str, numbers: Sequence[int]) -> None:
    import torch

    state: dict[str, torch.Tensor] = {}
    with drawn():
        widths = (WIDTH, 24, 16, 12, 8, 1)
        for number, before, after in zip(numbers, widths, widths[1:], strict=False):
            layer = torch.nn.Linear(before, after)
            state |= {f"{prefix}.{number}.{name}": value.detach() for name, value in layer.named_parameters()}
    torch.save(state, file)
