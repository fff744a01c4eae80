"""LoRAs of FLUX.1 under the names of other trainers (XLabs: UNO; kohya: ACE++), converted by diffusers' own code and
then accounted for name by name."""

from __future__ import annotations

from typing import Any

from idtool.generate.flux.lora import Lora, lora_of
from idtool.models import sources, torch_runtime


def flux_lora(weights: sources.Weights, transformer: Any) -> Lora:
    """The LoRA of a file for a FLUX.1 transformer, not yet attached.

    MissingError when the file is no LoRA for FLUX, or holds names or shapes that the transformer has not.
    """
    path = torch_runtime.file_of(weights)
    what = f"Model {weights.model} ({path})"
    return lora_of(converted(torch_runtime.read_tensors(path), what), transformer, what)


def converted(state: dict[str, Any], what: str) -> dict[str, Any]:
    """A LoRA's tensors under diffusers' names; alphas are worked into them. MissingError for names of no known kind."""
    from diffusers import FluxPipeline

    with torch_runtime.as_missing(what):
        # Converters take the tensors out of the dict that they are given.
        found, alphas = FluxPipeline.lora_state_dict(dict(state), return_alphas=True)[:2]
    if alphas:
        found = {**found, **{name.removesuffix(".alpha") + ".alpha": value for name, value in alphas.items()}}
    return dict(found)
