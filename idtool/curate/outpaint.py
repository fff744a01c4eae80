"""The `outpaint` step: pictures whose subject is cut off at the border get a larger canvas on those sides, filled in by
a network (role `fill`).

Instruct Identity completes subjects that are cut off in its grids by FLUX.1-Fill, and does not say how it finds them.
Here a subject is cut where its mask, or the box of its face, touches the border. Pixels of the picture stay as they
are, to the bit (as PNG). Pictures of which nothing is cut pass as they are.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import pyarrow as pa
from pydantic import Field

from idtool.curate import made
from idtool.curate.borders import SIDES, Border, By, CutSubjects, Side, lacking, margins, roles_of
from idtool.curate.derived import NEW, Derives, Pixels, attempt, child_of, derived_id, pixels_of, stored
from idtool.curate.made import FACE, MADE
from idtool.engine.operator import Context, Operator, Rejected, Row, map_rows
from idtool.engine.step import Binding, Env, Settings
from idtool.evaluate.measures.base import column
from idtool.media.limits import PILLOW_MAX_PIXELS
from idtool.models import why_not
from idtool.models.resources import Gpus, resources

ROLE = "fill"
WAYS: tuple[By, ...] = ("subject", "head", "box")
"""How a subject can be told, the surest first."""
PROMPT = "the same picture, seen whole: the rest of the subject and of the scene goes on naturally beyond the edge"

WRITES = pa.schema(
    [
        *MADE,
        column("outpaint_sides", pa.list_(pa.string()), "where the subject was cut off; empty: nowhere"),
        column(
            "outpaint_by", pa.string(), "what that was told by: subject (its mask), head (its mask), box (the face's)"
        ),
        column("outpaint_box", pa.list_(pa.int32()), "where the old picture lies: left, top, right, bottom", "px"),
    ]
)


class OutpaintSettings(Settings):
    by: Literal["auto"] | By = "auto"
    """What tells that a subject is cut. `subject`: masks of grounder and segmenter; `head`: the parser's head of the
    largest face; `box`: the box of the largest face. `auto`: the first of them that the profile has models for."""
    phrases: tuple[str, ...] = Field(default=("person",), min_length=1)
    """What a subject is called, for the grounder."""
    min_subject: float = Field(default=0.05, ge=0, lt=1)
    """Least share of the picture that a subject's mask has: passers-by are cut without harm."""
    edge: float = Field(default=0.005, ge=0, le=0.5)
    """How near the border is the border, as a share of the picture's shorter side; one pixel at least."""
    touch: float = Field(default=0.03, gt=0, le=1)
    """Least share of a side's length along which a mask touches it."""
    share: float = Field(default=0.25, gt=0, le=2)
    """How much is added on a side, as a share of the picture's width or height; up to the next multiple of 16 px."""
    sides: tuple[Side, ...] = Field(default=SIDES, min_length=1)
    """Sides that may be extended; what is cut elsewhere stays cut."""
    prompts: tuple[str, ...] = Field(default=(PROMPT,), min_length=1)
    """What is drawn; each picture draws its own order of them."""
    own_prompt: bool = True
    """Whether a picture that was itself generated is completed by the prompt that it was made with."""
    keep: Literal["outpainted", "both"] = "outpainted"
    """Whether the picture stays in the table beside the completed one."""
    steps: int | None = Field(default=None, ge=1, le=1000)
    """Denoising steps; null: what the network's authors recommend."""
    guidance: float | None = Field(default=None, ge=0)
    """Null: the same."""
    where: Mapping[str, Any] = Field(default_factory=dict)
    """Column -> value: only such images, e.g. `{origin: regional}`."""
    remeasure: bool = True
    """Whether what is made is measured as its picture was; else its columns are null until a later step."""
    format: Literal["png", "jpeg"] = "png"
    """png keeps the old picture's pixels; jpeg changes all of them a little."""
    quality: int = Field(default=95, ge=1, le=100)
    """Of JPEG."""
    max_pixels: int = Field(default=100_000_000, ge=1, le=PILLOW_MAX_PIXELS)
    gpus: Gpus = None


class Outpaint(Derives):
    """Rejects `outpaint.too_small`, `outpaint.too_large`: the completed picture where `keep: both`, else the picture.
    Rows that are no images pass."""

    kind = "outpaint"
    Settings: ClassVar[type[Settings]] = OutpaintSettings
    summary = "complete subjects that are cut off at the border"
    shard_rows = 8
    needs = (*Derives.needs, *made.TERMS)

    settings: OutpaintSettings

    def __init__(self, settings: OutpaintSettings, env: Env) -> None:
        super().__init__(settings, env)
        self._found, self._prompted = False, False

    @property
    def by(self) -> By | None:
        """What tells that a subject is cut; None when the profile has no models for it."""
        asked = WAYS if self.settings.by == "auto" else (self.settings.by,)
        return next((by for by in asked if not lacking(by, self.env)), None)

    def skip_reason(self) -> str | None:
        return why_not(self.env, ROLE) or (None if self.by else lacking(self._least, self.env))

    def notes(self) -> list[str]:
        if self.settings.by != "auto" or self.by in (None, "subject"):
            return []
        told = {"head": "the mask of the largest head", "box": "the box of the largest face"}[str(self.by)]
        return [f"subjects are told by {told} alone: {lacking('subject', self.env)}"]

    def reads(self, available: Mapping[str, pa.Field]) -> tuple[str, ...]:
        self._found = set(FACE) <= set(available)
        self._prompted = self.settings.own_prompt and "prompt" in available
        further = (*(FACE if self._reads_faces else ()), *(("prompt",) if self._prompted else ()))
        return (*super().reads(available), *further, *self.settings.where)

    def writes(self, available: Mapping[str, pa.Field]) -> pa.Schema:
        return WRITES

    def models(self) -> list[Binding]:
        return [*self.env.all(ROLE)[:1], *self._looking().values(), *super().models()]

    def operators(self) -> list[Operator]:
        assert self.by is not None  # noqa: S101 - `skip_reason` has said so
        fill, looking = self.env.require(ROLE), self._looking()
        outpaint = OutpaintImages(self.settings, self.by, fill, looking, self._prompted)
        outpaint.resources = resources(self.env, [fill, *looking.values()], self.settings.gpus)
        return [outpaint, *self.measuring()]

    @property
    def _least(self) -> By:
        return "box" if self.settings.by == "auto" else self.settings.by

    @property
    def _reads_faces(self) -> bool:
        return self._found and self.by in ("head", "box")

    def _looking(self) -> dict[str, Binding]:
        """The models that tell subjects, by role."""
        roles = roles_of(self.by, self.env) if self.by else ()
        return {role: self.env.require(role) for role in roles if not (role == "faces" and self._reads_faces)}


@dataclass
class OutpaintImages(Operator):
    """Completes the images whose subject is cut."""

    settings: OutpaintSettings
    by: By
    fill: Binding
    looking: dict[str, Binding]
    prompted: bool

    writes = pa.schema([*WRITES, NEW])

    @property
    def reads(self) -> tuple[str, ...]:  # type: ignore[override]
        faces = FACE if self.by != "subject" and "faces" not in self.looking else ()
        return ("id", "kind", "media", *made.TERMS, *faces, *(("prompt",) if self.prompted else ()))

    def config(self) -> dict[str, Any]:
        return {"by": self.by, "models": self._facts()}

    def setup(self, context: Context) -> None:
        from idtool.media.store import MediaStore
        from idtool.models import load

        self.store, self.seed = MediaStore(Path(context.run_dir) / "media"), context.seed
        place = partial(load, device=context.device, threads=context.threads)
        self._fill: Any = place(self.fill)
        settings = self.settings
        border = Border(settings.phrases, settings.min_subject, settings.edge, settings.touch)
        self._cut = CutSubjects(self.by, {role: place(one) for role, one in self.looking.items()}, border)

    def __call__(self, batch: pa.Table) -> pa.Table:
        return map_rows(batch, self.rows_of, self.writes)

    def rows_of(self, row: Row) -> list[Row]:
        """The row as it is where nothing is cut; else the completed picture, and the row itself where it stays."""
        if not made.wanted(row, self.settings.where):
            return [{NEW.name: False}]
        image = pixels_of(row["media"], self.store.root, self.settings.max_pixels)
        cut = [side for side in self._cut(row, image) if side in self.settings.sides]
        told: Row = {NEW.name: False, "outpaint_sides": cut, "outpaint_by": self.by}
        if not cut:
            return [told]
        asked = self.settings.model_dump(mode="json", exclude={"where", "keep", "remeasure", "gpus", "max_pixels"})
        new = derived_id(row["id"], "outpaint", self.by, self._facts(), asked, cut, self.seed)
        make = partial(self._completed, row, image, cut, new)
        if self.settings.keep == "both":
            return [told, attempt(row, new, "outpaint", make)]
        # A picture that cannot be completed is itself rejected.
        return [child_of(row, new, "outpaint") | make()]

    def _completed(self, row: Row, image: Pixels, cut: list[Side], new: str) -> Row:
        from idtool.models.fill import SMALLEST

        settings, seed = self.settings, made.seed_of(new)
        height, width = image.shape[:2]
        if min(height, width) < SMALLEST:
            told = f"the picture's shorter side has {min(height, width)} px"
            raise Rejected("outpaint.too_small", told, value=float(min(height, width)), threshold=f">= {SMALLEST}")
        (left, right), (top, bottom) = margins(width, cut, settings.share, 0), margins(height, cut, settings.share, 1)
        pixels = (left + width + right) * (top + height + bottom)
        if pixels > settings.max_pixels:
            told = f"the picture would have {pixels} pixels"
            raise Rejected("outpaint.too_large", told, value=float(pixels), threshold=f"<= {settings.max_pixels}")
        # What is at the edge goes on: networks that begin with the picture begin with something like it.
        canvas = np.pad(image, ((top, bottom), (left, right), (0, 0)), mode="edge")
        old = (slice(top, top + height), slice(left, left + width))
        mask = np.ones(canvas.shape[:2], np.bool_)
        mask[old] = False
        own = row["prompt"] if self.prompted else None
        prompt = own or made.drawn(settings.prompts, row["id"], self.seed, 0)
        drawn = self._fill(canvas, mask, prompt, seed, steps=settings.steps, guidance=settings.guidance).copy()
        drawn[old] = image
        return {
            **stored(drawn, self.store, settings.format, settings.quality),
            **made.terms(row, "completed beyond its edge", self.fill),
            "prompt": prompt,
            "generator": made.named(self.fill),
            "generator_seed": seed,
            "outpaint_sides": cut,
            "outpaint_by": self.by,
            "outpaint_box": [left, top, left + width, top + height],
        }

    def _facts(self) -> list[Any]:
        return [made.facts(self.fill), *(made.facts(binding) for binding in self.looking.values())]
