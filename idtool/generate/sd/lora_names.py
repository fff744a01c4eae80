"""Names of LoRA files for UNets, brought to the natural ones of `idtool.generate.flux.lora`."""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

_PROCESSOR = re.compile(r"(?P<layer>.+?)\.(?:processor\.)?to_(?P<part>q|k|v|out)_lora\.(?P<side>down|up)\.weight")
_LAYER = re.compile(r"(?P<layer>.+?)\.(?:lora|lora_linear_layer)\.(?P<side>down|up)\.weight")


def natural(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Names as diffusers wrote them over the years, with or without `unet.`, to `<layer>.lora_A.weight` and `.lora_B`.
    What is none of them keeps its name, so that it is refused by it."""
    return {_natural(name): tensor for name, tensor in state.items()}


def _natural(name: str) -> str:
    plain = name.removeprefix("unet.")
    if found := _PROCESSOR.fullmatch(plain):
        layer = f"{found['layer']}.to_{found['part']}{'.0' if found['part'] == 'out' else ''}"
    elif found := _LAYER.fullmatch(plain):
        layer = found["layer"]
    else:
        return plain
    return f"{layer}.lora_{'A' if found['side'] == 'down' else 'B'}.weight"
