"""The `sample_lora` step: sheets from FLUX.1 with the LoRA of step `refine`, from one prompt, without regions.

Instruct Identity, stage II: the fine-tuned model makes "identity-consistent image grids without modifying its core
architecture", so that each sheet is a single plain pass. Without `lora` it is FLUX alone, to compare with.
"""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from idtool.curate.regional import Regional
from idtool.curate.sheet_layout import SheetSettings
from idtool.engine.step import Env, Settings


class SampleLoraSettings(SheetSettings):
    lora: str | None = "sheets"
    steps: int = Field(default=28, ge=1, le=1000)
    """As FLUX.1-dev is usually sampled; the paper does not say."""


class SampleLora(Regional):
    """Rejects sheets as `regional` does."""

    kind = "sample_lora"
    Settings: ClassVar[type[Settings]] = SampleLoraSettings
    summary = "make character sheets by the fine-tuned model, from one prompt each"

    settings: SampleLoraSettings

    def __init__(self, settings: SampleLoraSettings, env: Env) -> None:
        super().__init__(settings, env)
