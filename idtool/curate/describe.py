"""The `describe` step: two captions of each image by a model (role `captioner`), as FGID has them: one of the person
and one of the features of the face, by the questions that ConsistentID prints (sections 3.1 and 3.4.1).

Where no captioner is bound the step is skipped, and records have nulls with that reason.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import pyarrow as pa
from pydantic import Field

from idtool.curate import prompts
from idtool.curate.vlm_caption import ROLE, Writer, known_names
from idtool.engine.operator import Context, Operator
from idtool.engine.step import Binding, Env, RowStep, Settings
from idtool.evaluate.measure_rows import MeasureRows
from idtool.evaluate.measures.base import Item, Measure, Values, column
from idtool.media.limits import PILLOW_MAX_PIXELS
from idtool.models import why_not
from idtool.models.caption_checks import REASONS, Limits
from idtool.models.resources import Gpus, resources

PROMPTS = {"caption": prompts.FGID_PERSON, "face_caption": prompts.FGID_FEATURES}
_WHY = f"why there is none: refused, {REASONS}, or what was missing"
WRITES = pa.schema(
    [
        column("caption", pa.string(), "the person, in words"),
        column("caption_reason", pa.string(), _WHY),
        column("face_caption", pa.string(), "face, ears, eyes, nose and mouth, in words"),
        column("face_caption_reason", pa.string(), _WHY),
        column("caption_by", pa.string(), "address of the model that wrote them"),
    ]
)


class DescribeSettings(Settings):
    prompts: Mapping[Literal["caption", "face_caption"], str] = Field(default_factory=dict)
    """Other questions than the paper's, by column."""
    min_words: int = Field(default=3, ge=1)
    """A shorter caption is none."""
    max_words: int = Field(default=400, ge=1)
    """A longer caption is none."""
    max_tokens: int = Field(default=512, ge=1)
    """Most tokens of an answer; the released code has 512."""
    batch: int = Field(default=8, ge=1)
    """Images per call."""
    max_pixels: int = Field(default=100_000_000, ge=1, le=PILLOW_MAX_PIXELS)
    gpus: Gpus = None
    """Accelerators that one worker reserves on a cluster; null: 1 where the captioner runs on CUDA, else 0."""


class Describe(RowStep):
    """Adds captions to images. A caption that is refused is null with its reason and rejects nothing."""

    kind = "describe"
    Settings: ClassVar[type[Settings]] = DescribeSettings
    summary = "describe the person and the features of the face"

    settings: DescribeSettings

    def __init__(self, settings: DescribeSettings, env: Env) -> None:
        super().__init__(settings, env)

    def skip_reason(self) -> str | None:
        return why_not(self.env, ROLE)

    def provides_none(self) -> Mapping[str, str]:
        why = self.skip_reason()
        return dict.fromkeys(WRITES.names, why) if why else {}

    def reads(self, available: Mapping[str, pa.Field]) -> tuple[str, ...]:
        return ("id", "media", "width", "height")

    def writes(self, available: Mapping[str, pa.Field]) -> pa.Schema:
        return WRITES

    def config(self) -> dict[str, Any]:
        return {}  # the operator says it

    def models(self) -> list[Binding]:
        return list(self.env.all(ROLE)[:1])

    def operators(self) -> list[Operator]:
        settings = self.settings
        binding = self.env.require(ROLE)
        writer = Writer(
            binding,
            prompts.replaced(PROMPTS, settings.prompts),
            Limits(settings.min_words, settings.max_words),
            settings.max_tokens,
        )
        need = resources(self.env, [binding], settings.gpus)
        return [MeasureRows([Descriptions(binding, writer)], {}, settings.batch, settings.max_pixels, need)]


class Descriptions(Measure):
    """The writer's captions of each image."""

    name = "describe"
    role = ROLE
    summary = Describe.summary
    uses = ("identity", "identity_label")
    writes = WRITES

    def __init__(self, binding: Binding, writer: Writer) -> None:
        super().__init__(binding)
        self.writer = writer

    def config(self) -> dict[str, Any]:
        return {"version": self.version, **self.writer.config()}

    def load(self, context: Context) -> None:
        self.writer.load(context)

    def __call__(self, items: Sequence[Item]) -> Sequence[Values | Exception]:
        said = self.writer([item.image for item in items], [known_names(item.row) for item in items])
        return [
            {
                "caption_by": self.writer.binding.model,
                **{part: one.text for part, one in parts.items()},
                **{f"{part}_reason": one.reason for part, one in parts.items()},
            }
            for parts in said
        ]
