"""OminiControl (Tan et al., ICCV 2025): the reference as condition tokens of FLUX with a LoRA on them alone.

Released weights: `Yuanshi/OminiControl`, `omini/subject_512.safetensors`, for FLUX.1-schnell at 512 px and 8 steps;
rank 16 on the modulations and on queries and keys, positions moved by (0, 32) tokens. Its authors say that the subject
model is weak on people.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import Field

from idtool.engine.operator import Context
from idtool.generate.flux.conditioned import ConditionMethod, ConditionSettings
from idtool.generate.flux.method import LORA_SLOT
from idtool.generate.method import MethodSettings
from idtool.models import torch_runtime


class OminiControlSettings(ConditionSettings):
    steps: int = Field(default=8, ge=1, le=1000)
    """The authors' for schnell."""
    position_delta: tuple[int, int] = (0, 32)
    """Rows and columns by which the reference's positions are moved; belongs to the LoRA."""
    lora_alpha: float | None = Field(default=None, gt=0)
    """Of the LoRA, where its file says none; null: its rank."""
    independent: bool = False
    """References look at themselves alone: their keys and values are computed once. For LoRAs that learned so."""


class OminiControl(ConditionMethod):
    """References as condition tokens."""

    summary = "OminiControl: the reference as condition tokens of FLUX, with a LoRA on them alone"
    slots: ClassVar[Mapping[str, str]] = {"base": "FLUX.1-schnell, a diffusers folder", "adapter": LORA_SLOT}
    Settings: ClassVar[type[MethodSettings]] = OminiControlSettings
    people = (1, 4)
    fixed: ClassVar[tuple[str, ...]] = (*ConditionMethod.fixed, "position_delta", "lora_alpha", "independent")

    def prepare(self, pipe: Any, context: Context) -> None:
        settings = self.spec.settings
        assert isinstance(settings, OminiControlSettings)  # noqa: S101 - the registry pairs class and settings
        path, what = self.file("adapter")
        self.loras = self.lora(torch_runtime.read_tensors(path), pipe, what, settings.lora_alpha)
        self.position_delta = settings.position_delta
        self.independent = settings.independent
