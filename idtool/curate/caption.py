"""The `caption` step: a person part and a background part for both images of a pair (DMID §4.1.2).

The paper lets a vision-language model write them (role `captioner`). Without one, a template states what was measured
and nothing else (`template_caption`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import pyarrow as pa
from pydantic import Field, model_validator

from idtool.curate import prompts
from idtool.curate.caption_pairs import PairCaptions
from idtool.curate.template_caption import SIDES, TemplateCaptions
from idtool.curate.vlm_caption import ROLE, Writer
from idtool.engine.operator import Operator
from idtool.engine.step import Binding, Env, RowStep, Settings
from idtool.errors import MissingError
from idtool.media.limits import PILLOW_MAX_PIXELS
from idtool.models import why_not
from idtool.models.caption_checks import REASONS, Limits
from idtool.models.resources import Gpus, resources

By = Literal["auto", "template", "captioner", "column"]
PROMPTS = {"caption": prompts.PERSON, "background": prompts.BACKGROUND}

_TEXTS = [
    pa.field(f"{side}_{part}", pa.string(), metadata={"doc": doc})
    for part, doc in (("caption", "the person, in words"), ("background", "the background, in words"))
    for side in SIDES
]
_BY = pa.field(
    "caption_by",
    pa.string(),
    metadata={"doc": "template, column, column+template (one side each), or the address of a model"},
)
_WHY = f"why there is none: {REASONS}"
_REASONS = [
    pa.field(f"{side}_{part}_reason", pa.string(), metadata={"doc": _WHY}) for part in PROMPTS for side in SIDES
]
WRITES = pa.schema([*_TEXTS, _BY])
MODEL_WRITES = pa.schema([*_TEXTS, *_REASONS, _BY])


class CaptionSettings(Settings):
    by: By = "auto"
    """`auto`: the captioner of the profile, else the template. `column`: `caption` or `text` of the manifest that
    the images came with, else the template."""
    expression_p: float = Field(default=0.6, ge=0, le=1)
    """Template: least probability from which the expression is named."""
    prompts: Mapping[Literal["caption", "background"], str] = Field(default_factory=dict)
    """Captioner: other questions than ours (`idtool.curate.prompts`), by part of the caption."""
    min_words: int = Field(default=3, ge=1)
    """Captioner: a shorter caption is none."""
    max_words: int = Field(default=120, ge=1)
    """Captioner: a longer caption is none; what two sentences take, three times over."""
    max_tokens: int = Field(default=256, ge=1)
    """Captioner: most tokens of an answer."""
    batch: int = Field(default=8, ge=1)
    """Captioner: images per call."""
    max_pixels: int = Field(default=100_000_000, ge=1, le=PILLOW_MAX_PIXELS)
    gpus: Gpus = None
    """Captioner: accelerators that one worker reserves on a cluster; null: 1 where it runs on CUDA, else 0."""

    @model_validator(mode="after")
    def _some_length(self) -> CaptionSettings:
        if self.min_words > self.max_words:
            raise ValueError(f"min_words {self.min_words} is above max_words {self.max_words}: no caption can pass")
        return self


class Caption(RowStep):
    """Adds captions to pairs."""

    kind = "caption"
    version = 2
    Settings: ClassVar[type[Settings]] = CaptionSettings
    summary = "describe the person and the background of both images"

    settings: CaptionSettings

    def __init__(self, settings: CaptionSettings, env: Env) -> None:
        super().__init__(settings, env)

    @property
    def asks_model(self) -> bool:
        """Whether a model writes the captions."""
        return self.settings.by == ROLE or (self.settings.by == "auto" and why_not(self.env, ROLE) is None)

    def reads(self, available: Mapping[str, pa.Field]) -> tuple[str, ...]:
        """For the template nothing but the id is required: what was not measured is not said. MissingError when a
        captioner is asked for and none can be used."""
        if not self.asks_model:
            return ("id",)
        self.env.require(ROLE)
        if why := why_not(self.env, ROLE):
            raise MissingError(f"Captions cannot be made: {why}.", "Set caption.by=template, or bind another model.")
        return ("id", *(f"{side}_{name}" for side in SIDES for name in ("id", "media")))

    def writes(self, available: Mapping[str, pa.Field]) -> pa.Schema:
        return MODEL_WRITES if self.asks_model else WRITES

    def notes(self) -> list[str]:
        if self.settings.by != "auto" or self.asks_model:
            return []
        return [f"captions come from the template: {why_not(self.env, ROLE)}"]

    def config(self) -> dict[str, Any]:
        # Only what the chosen way of writing depends on: the operators say it.
        return {"settings": {"by": self.settings.by}}

    def models(self) -> list[Binding]:
        return [self.env.require(ROLE)] if self.asks_model else []

    def operators(self) -> list[Operator]:
        settings = self.settings
        if not self.asks_model:
            from_column = settings.by == "column"
            return [TemplateCaptions(WRITES, expression_p=settings.expression_p, from_column=from_column)]
        binding = self.env.require(ROLE)
        writer = Writer(
            binding,
            prompts.replaced(PROMPTS, settings.prompts),
            Limits(settings.min_words, settings.max_words),
            settings.max_tokens,
        )
        need = resources(self.env, [binding], settings.gpus)
        return [PairCaptions(writer, MODEL_WRITES, settings.batch, settings.max_pixels, need)]
