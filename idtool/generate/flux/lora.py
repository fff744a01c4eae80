"""Low-rank changes of linear layers that can be switched on for some tokens only (Hu et al., ICLR 2022).

A linear layer y = W x becomes y = W x + m · (alpha / r) · B (A x), with the mask m 0 until a branch switches it on: in
OminiControl and DMID the change is of the condition branch alone, and text and image see the network as it was.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from idtool.errors import MissingError

PREFIXES = ("transformer.", "base_model.model.")
"""What comes before the names of the transformer's layers in files of diffusers and of PEFT."""
_NAME = re.compile(r"(?P<layer>.+?)\.(?:lora_(?P<side>[AB])(?:\.[^.]+)?\.weight|(?P<alpha>alpha))$")
_OTHER = "Is it the LoRA of another base model, or of another format?"


class Lora(nn.Module):
    """Pairs A, B for layers of a network, under their natural names `<layer>.lora_A.weight`, `<layer>.lora_B.weight`.

    `attach` puts it onto a network; `mask` then says where it counts: a number, or a tensor that broadcasts with what
    the layers return, (tokens, 1) and the like.
    """

    def __init__(self, shapes: Mapping[str, tuple[int, int, int]], scales: Mapping[str, float]) -> None:
        """`shapes`: layer -> width in, rank, width out; `scales`: layer -> alpha / r."""
        super().__init__()
        self.mask: float | Tensor = 0.0
        self.scales = dict(scales)
        self._pairs: dict[str, nn.Module] = {}
        for layer, (inner, rank, outer) in shapes.items():
            pair = _below(self, layer)
            pair.add_module("lora_A", nn.Linear(inner, rank, bias=False))
            pair.add_module("lora_B", nn.Linear(rank, outer, bias=False))
            self._pairs[layer] = pair

    @property
    def layers(self) -> list[str]:
        """Names of the layers that it changes."""
        return list(self._pairs)

    @property
    def ranks(self) -> list[int]:
        """The ranks that occur, ascending."""
        return sorted({int(pair.lora_A.out_features) for pair in self._pairs.values()})

    def attach(self, network: Any) -> list[Any]:
        """Hook it onto the layers of `network`; the handles take it off again."""
        return [
            network.get_submodule(layer).register_forward_hook(self._hook(pair, self.scales[layer]))
            for layer, pair in self._pairs.items()
        ]

    def _hook(self, pair: Any, scale: float) -> Any:
        def hook(_: Any, arguments: tuple[Tensor, ...], output: Tensor) -> Tensor | None:
            mask = self.mask
            if isinstance(mask, float) and mask == 0:
                return None
            return output + mask * (scale * pair.lora_B(pair.lora_A(arguments[0])))

        return hook


@contextlib.contextmanager
def switched_on(loras: Sequence[Lora], mask: float | Tensor = 1.0) -> Iterator[None]:
    """`loras` with a mask for the length of the block, and with 0 after it."""
    for lora in loras:
        lora.mask = mask
    try:
        yield
    finally:
        for lora in loras:
            lora.mask = 0.0


def lora_of(state: Mapping[str, Tensor], network: Any, what: str, *, alpha: float | None = None) -> Lora:
    """The LoRA in a state dict of diffusers' or PEFT's names, filled, for layers of `network`; every key accounted for.

    `alpha`: where the file gives none for a layer; None: its rank, so that the scale is 1. `what` names the file in
    errors. MissingError that lists keys that are no LoRA's, halves of pairs, layers that the network has not and
    shapes that do not fit it.
    """
    downs, ups, alphas, strange = _sorted(state)
    linear = {name: module for name, module in network.named_modules() if isinstance(module, nn.Linear)}
    halves = sorted(set(downs) ^ set(ups))
    unknown = sorted((set(downs) | set(ups) | set(alphas)) - set(linear))
    shapes = [
        f"{layer} {tuple(ups[layer].shape)} · {tuple(downs[layer].shape)} on {tuple(linear[layer].weight.shape)}"
        for layer in sorted(set(downs) & set(ups) & set(linear))
        if not _fits(downs[layer], ups[layer], linear[layer])
    ]
    problems = [
        f"{len(found)} {sort} ({', '.join(found[:3])}{', …' if len(found) > 3 else ''})"
        for sort, found in (
            ("keys that are no LoRA's", sorted(strange)),
            ("layers that the base model has not", unknown),
            ("layers with half a pair", halves),
            ("layers of another shape", shapes),
        )
        if found
    ]
    if problems:
        raise MissingError(f"{what} does not fit the base model: {'; '.join(problems)}.", _OTHER)
    if not downs:
        raise MissingError(f"{what} holds no LoRA.", "Name a file with lora_A and lora_B tensors.")
    sizes = {layer: (down.shape[1], down.shape[0], ups[layer].shape[0]) for layer, down in downs.items()}
    given = {layer: alphas.get(layer, alpha if alpha is not None else sizes[layer][1]) for layer in sizes}
    lora = Lora(sizes, {layer: given[layer] / sizes[layer][1] for layer in sizes})
    lora.load_state_dict(
        {f"{layer}.lora_A.weight": down for layer, down in downs.items()}
        | {f"{layer}.lora_B.weight": up for layer, up in ups.items()}
    )
    return lora


def _sorted(
    state: Mapping[str, Tensor],
) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, float], list[str]]:
    """Down and up matrices and alphas by layer, and the keys that are none of these."""
    downs: dict[str, Tensor] = {}
    ups: dict[str, Tensor] = {}
    alphas: dict[str, float] = {}
    strange = []
    for key, tensor in state.items():
        plain = key
        for prefix in PREFIXES:
            plain = plain.removeprefix(prefix)
        found = _NAME.match(plain)
        if found is None or (found["alpha"] and tensor.numel() != 1):
            strange.append(key)
        elif found["alpha"]:
            alphas[found["layer"]] = float(tensor)
        else:
            (downs if found["side"] == "A" else ups)[found["layer"]] = tensor
    return downs, ups, alphas, strange


def _fits(down: Tensor, up: Tensor, layer: Any) -> bool:
    return (
        down.ndim == up.ndim == 2
        and down.shape[0] == up.shape[1]
        and (up.shape[0], down.shape[1]) == tuple(layer.weight.shape)
    )


def _below(root: nn.Module, path: str) -> nn.Module:
    """The module at a dotted path, made where it is not there."""
    for part in path.split("."):
        if part not in root._modules:
            root.add_module(part, nn.Module())
        root = root._modules[part]
    return root
