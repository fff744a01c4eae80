"""The `scene_prompt` step: for each image the prompt that it would be a good answer to.

One person: who is seen and what is behind, as DMID captions its targets (Qwen2-VL, App. A.4.3). Several: a dynamic
prompt with people from left to right and the layout of the picture (IdGlow, section 3.2). Without role `captioner` a
template states what was measured. A caption that is refused, too long, too short or names somebody is none, and its
reason stands beside it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar, Literal

import pyarrow as pa
from pydantic import Field, model_validator

from idtool.curate import prompts, scene_words
from idtool.curate.template_caption import USED, background, given_caption, joined, person
from idtool.curate.vlm_caption import ROLE, Writer, known_names
from idtool.engine.operator import Context, Operator, Row, map_rows
from idtool.engine.step import Binding, Env, RowStep, Settings
from idtool.errors import MissingError
from idtool.evaluate.measure_rows import MeasureRows
from idtool.evaluate.measures.base import Item, Measure, Values, column
from idtool.media.limits import PILLOW_MAX_PIXELS
from idtool.models import why_not
from idtool.models.ask import Answer
from idtool.models.caption_checks import NAMED, REASONS, Limits, judged
from idtool.models.resources import Gpus, resources

PARTS = {"person": prompts.PERSON, "background": prompts.BACKGROUND}
PEOPLE = "people"
"""Reason of ours: the description does not speak of every person once."""
WRITES = pa.schema(
    [
        column("scene_prompt", pa.string(), "the prompt that the image is an answer to; null: there is none"),
        column("scene_prompt_reason", pa.string(), f"why there is none: {REASONS}, or {PEOPLE}"),
        column("scene_prompt_by", pa.string(), "fixed, column, template, or the address of a model"),
    ]
)
BOXES = ("people_boxes", "image_size")


class ScenePromptSettings(Settings):
    by: Literal["auto", "captioner", "template", "column", "fixed"] = "auto"
    """`auto`: the captioner of the profile, else the template. `column`: `caption` or `text` of the manifest, else the
    template. `fixed`: `text`."""
    text: str | None = None
    """Fixed: the prompt of every image."""
    expression_p: float = Field(default=0.6, ge=0, le=1)
    """Template: least probability from which the expression of a single person is named."""
    min_words: int = Field(default=3, ge=1)
    max_words: int = Field(default=400, ge=1)
    max_tokens: int = Field(default=256, ge=1)
    """Captioner: most tokens of an answer on one person; descriptions of several have 1,024."""
    batch: int = Field(default=8, ge=1)
    """Images per call."""
    max_pixels: int = Field(default=100_000_000, ge=1, le=PILLOW_MAX_PIXELS)
    gpus: Gpus = None

    @model_validator(mode="after")
    def _whole(self) -> ScenePromptSettings:
        if (self.by == "fixed") != (self.text is not None):
            raise ValueError("`text` is the prompt of `by: fixed`: give both or neither")
        if self.min_words > self.max_words:
            raise ValueError(f"min_words {self.min_words} is above max_words {self.max_words}: no prompt can pass")
        return self


class ScenePrompt(RowStep):
    """Adds prompts; rejects nothing."""

    kind = "scene_prompt"
    Settings: ClassVar[type[Settings]] = ScenePromptSettings
    summary = "write the prompt that each image would be a good answer to"

    settings: ScenePromptSettings

    def __init__(self, settings: ScenePromptSettings, env: Env) -> None:
        super().__init__(settings, env)

    @property
    def asks_model(self) -> bool:
        return self.settings.by == ROLE or (self.settings.by == "auto" and why_not(self.env, ROLE) is None)

    def reads(self, available: Mapping[str, pa.Field]) -> tuple[str, ...]:
        if not self.asks_model:
            return ("id",)
        if why := why_not(self.env, ROLE):
            raise MissingError(
                f"Prompts cannot be written: {why}.", "Set scene_prompt.by=template, or bind another model."
            )
        return ("id", "media", "width", "height")

    def writes(self, available: Mapping[str, pa.Field]) -> pa.Schema:
        return WRITES

    def notes(self) -> list[str]:
        if self.settings.by == "auto" and (why := why_not(self.env, ROLE)):
            return [f"prompts are filled from a template: {why}"]
        return []

    def config(self) -> dict[str, Any]:
        return {"settings": self.settings.model_dump(mode="json", exclude={"batch", "gpus"})}

    def models(self) -> list[Binding]:
        return [self.env.require(ROLE)] if self.asks_model else []

    def operators(self) -> list[Operator]:
        settings = self.settings
        if not self.asks_model:
            return [TemplatePrompts(settings.by, settings.text, settings.expression_p)]
        binding = self.env.require(ROLE)
        limits = Limits(settings.min_words, settings.max_words)
        measure = ScenePrompts(binding, Writer(binding, PARTS, limits, settings.max_tokens))
        need = resources(self.env, [binding], settings.gpus)
        return [MeasureRows([measure], {}, settings.batch, settings.max_pixels, need)]


class TemplatePrompts(Operator):
    """Prompts without a model."""

    reads = ("id",)
    writes = WRITES

    def __init__(self, by: str, text: str | None, expression_p: float) -> None:
        self.by, self.text, self.expression_p = by, text, expression_p

    def config(self) -> dict[str, Any]:
        return {}  # the step says it

    def __call__(self, batch: pa.Table) -> pa.Table:
        names = [name for name in dict.fromkeys(("id", *USED, *BOXES)) if name in batch.column_names]
        narrow = batch.select(names)
        return joined(batch, map_rows(narrow, self._row, WRITES), WRITES)

    def _row(self, row: Row) -> Row:
        if self.text is not None:
            return {"scene_prompt": self.text, "scene_prompt_by": "fixed"}
        if self.by == "column" and (given := given_caption(row.get("extra"))):
            return {"scene_prompt": given, "scene_prompt_by": "column"}
        boxes = row.get("people_boxes") or ()
        if len(boxes) > 1:
            prompt = scene_words.from_boxes(boxes, row["image_size"], row)
        else:
            prompt = f"{person(row, row['id'], self.expression_p)} {background(row)}"
        return {"scene_prompt": prompt, "scene_prompt_by": "template"}


class ScenePrompts(Measure):
    """Prompts by a captioner."""

    name = "scene_prompt"
    role = ROLE
    summary = ScenePrompt.summary
    uses = (*BOXES, "identity", "identity_label")
    writes = WRITES

    def __init__(self, binding: Binding, writer: Writer) -> None:
        super().__init__(binding)
        self.writer = writer

    def config(self) -> dict[str, Any]:
        return {"version": self.version, **self.writer.config(), "several": scene_words.WORDING}

    def load(self, context: Context) -> None:
        self.writer.load(context)

    def __call__(self, items: Sequence[Item]) -> Sequence[Values | Exception]:
        several = [k for k, item in enumerate(items) if len(item.get("people_boxes") or ()) > 1]
        single = [k for k in range(len(items)) if k not in set(several)]
        found = self._single([items[k] for k in single]) + self._several([items[k] for k in several])
        by = {"scene_prompt_by": self.writer.binding.model}
        told = dict(zip([*single, *several], found, strict=True))
        return [{**by, "scene_prompt": told[k][0], "scene_prompt_reason": told[k][1]} for k in range(len(items))]

    def _single(self, items: Sequence[Item]) -> list[tuple[str | None, str | None]]:
        said = self.writer([item.image for item in items], [known_names(item.row) for item in items]) if items else []
        found: list[tuple[str | None, str | None]] = []
        for parts in said:
            who, where = parts["person"], parts["background"]
            # A scene without its background is still a prompt; one without the person is none.
            text = None if who.text is None else " ".join(filter(None, (who.text, where.text)))
            found.append((text, who.reason))
        return found

    def _several(self, items: Sequence[Item]) -> list[tuple[str | None, str | None]]:
        found = self._asked(items, "")
        named = [k for k, (_, reason) in enumerate(found) if reason == NAMED]
        again = self._asked([items[k] for k in named], prompts.NO_NAMES.text)
        for k, one in zip(named, again, strict=True):
            found[k] = one
        return found

    def _asked(self, items: Sequence[Item], more: str) -> list[tuple[str | None, str | None]]:
        if not items:
            return []
        asks = [scene_words.question(one.image, one.get("people_boxes"), one.get("image_size"), more) for one in items]
        return [self._read(answer, item) for answer, item in zip(self.writer.model.ask(asks), items, strict=True)]

    def _read(self, answer: Answer, item: Item) -> tuple[str | None, str | None]:
        if answer.ok:
            text = scene_words.from_answer(answer.data, len(item.get("people_boxes")))
            if text is None:
                return None, PEOPLE
            answer = replace(answer, text=text)
        said = judged(answer, self.writer.limits, known_names(item.row))
        return said.text, said.reason
