"""The `inpaint` step: pictures of which one region is drawn anew (role `fill`), one for each kind of mask.

DMID, section 4.1.2: "For image augmentation, ACE++ generates diverse pairs through different mask inputs", and its own
inpainting model (App. A.3.1, figure 9) works by face, hair and background. The regions come from the face parser (role
`parser`) and have soft edges; whatever lies outside of them is the original's to the bit (as PNG).

ACE++'s LoRA was trained on a canvas that shows the person on the left: with it, the picture itself is put there, and
only the masked part of the right side is drawn. FLUX.2-klein is shown the picture as a reference of its own. A network
that is shown neither draws somebody else under `face` and `head`, and step `pair` will turn these away.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import pyarrow as pa
from pydantic import Field, field_validator

from idtool.curate import made, soft_masks
from idtool.curate.derived import NEW, Derives, Pixels, attempt, derived_id, pixels_of, stored
from idtool.curate.inpaint_prompts import KINDS, PROMPTS, Kind
from idtool.curate.made import FACE, MADE
from idtool.curate.reference_canvas import beside
from idtool.curate.regions import picture
from idtool.engine.operator import Context, Operator, Rejected, Row, map_rows
from idtool.engine.step import Binding, Env, Settings
from idtool.evaluate.measures.base import column
from idtool.media.limits import PILLOW_MAX_PIXELS
from idtool.models import why_not
from idtool.models.resources import Gpus, resources

FILL, PARSER, FACES = "fill", "parser", "faces"

WRITES = pa.schema(
    [
        *MADE,
        column("inpaint_kind", pa.string(), f"which region was drawn anew: {', '.join(KINDS)}"),
        picture("inpaint_mask", "white where it was drawn anew, grey where it was mixed, black where nothing changed"),
        column("inpaint_share", pa.float32(), "share of the picture's pixels that may differ", "[0, 1]"),
    ]
)


class InpaintSettings(Settings):
    masks: tuple[Kind, ...] = Field(default=KINDS, min_length=1)
    """Regions that are drawn anew, one picture for each. What covers a face goes with the face."""
    prompts: tuple[str, ...] | Mapping[Kind, tuple[str, ...]] = Field(default_factory=dict)
    """What is drawn: one list for all masks, or mask -> list; masks that are left out have lists of ours. Each picture
    draws its own order of them."""
    per_mask: int = Field(default=1, ge=1)
    """Pictures for each mask."""
    dilate: float = Field(default=0.02, ge=0, le=1)
    """How far the region reaches over the parsed one, as a share of the longer side of the face's box. Of
    `all-but-face`: how far the part that stays reaches over the face."""
    feather: float = Field(default=0.05, ge=0, le=1)
    """Width of the soft edge beyond, the same way."""
    context: float | None = Field(default=0.5, ge=0)
    """What the network sees around the region, as a share of the region's longer side; null: the whole picture."""
    min_share: float = Field(default=0.005, ge=0, le=1)
    """Least share of the square about the face that the region has, or of `all-but-face` the face."""
    reference: Literal["auto", "never"] = "auto"
    """Whether the network is shown the picture as a reference, where it knows what to do with one."""
    instruction: str = "Keep the person's face as in the picture on the left."
    """Put before the prompt where the reference stands beside the picture (ACE++)."""
    steps: int | None = Field(default=None, ge=1, le=1000)
    """Denoising steps; null: what the network's authors recommend (FLUX.1-Fill 50, ACE++ 28, klein 4)."""
    guidance: float | None = Field(default=None, ge=0)
    """Null: the same (30, 50, 1)."""
    where: Mapping[str, Any] = Field(default_factory=dict)
    """Column -> value: only such images, e.g. `{origin: photo}`."""
    remeasure: bool = True
    """Whether what is made is measured as its picture was; else its columns are null until a later step."""
    format: Literal["png", "jpeg"] = "png"
    """png keeps the pixels outside of the mask; jpeg changes all of them a little."""
    quality: int = Field(default=95, ge=1, le=100)
    """Of JPEG."""
    max_pixels: int = Field(default=100_000_000, ge=1, le=PILLOW_MAX_PIXELS)
    gpus: Gpus = None

    @field_validator("masks")
    @classmethod
    def _once(cls, value: tuple[Kind, ...]) -> tuple[Kind, ...]:
        if len(set(value)) != len(value):
            raise ValueError(f"each mask once. Got {', '.join(value)}")
        return value

    def prompts_of(self, kind: Kind) -> tuple[str, ...]:
        """The prompts for a mask."""
        given = self.prompts.get(kind, ()) if isinstance(self.prompts, Mapping) else self.prompts
        return given or PROMPTS[kind]


class Inpaint(Derives):
    """Rejects what cannot be made, never the picture: `inpaint.no_face`, `inpaint.mask`, `inpaint.too_small`,
    `inpaint.layout`. Rows that are no images pass."""

    kind = "inpaint"
    Settings: ClassVar[type[Settings]] = InpaintSettings
    summary = "draw regions of pictures anew: face, head, hair, all but the face"
    # Seconds to minutes for each picture: little is lost when a run is killed.
    shard_rows = 4
    needs = (*Derives.needs, *made.TERMS)

    settings: InpaintSettings

    def __init__(self, settings: InpaintSettings, env: Env) -> None:
        super().__init__(settings, env)
        self._found = False

    def skip_reason(self) -> str | None:
        return next((why for role in (FILL, PARSER, FACES) if (why := why_not(self.env, role))), None)

    def reads(self, available: Mapping[str, pa.Field]) -> tuple[str, ...]:
        self._found = set(FACE) <= set(available)
        return (*super().reads(available), *(FACE if self._found else ()), *self.settings.where)

    def writes(self, available: Mapping[str, pa.Field]) -> pa.Schema:
        return WRITES

    def models(self) -> list[Binding]:
        roles = (FILL, PARSER, *(() if self._found else (FACES,)))
        return [*(binding for role in roles for binding in self.env.all(role)[:1]), *super().models()]

    def operators(self) -> list[Operator]:
        detector = None if self._found else self.env.require(FACES)
        inpaint = InpaintImages(self.settings, self.env.require(FILL), self.env.require(PARSER), detector)
        inpaint.resources = resources(self.env, [inpaint.fill, inpaint.parser, detector], self.settings.gpus)
        return [inpaint, *self.measuring()]


@dataclass(frozen=True, eq=False)
class Seen:
    """A picture and the parts of its largest face."""

    image: Pixels
    side: float
    """Of the face's box, the longer one in pixels."""
    parsed: Any
    """`idtool.models.parts.Parsed`."""


@dataclass
class InpaintImages(Operator):
    """Adds the pictures that are made of each image."""

    settings: InpaintSettings
    fill: Binding
    parser: Binding
    detector: Binding | None

    writes = pa.schema([*WRITES, NEW])

    @property
    def reads(self) -> tuple[str, ...]:  # type: ignore[override]
        return ("id", "kind", "media", *made.TERMS, *(() if self.detector else FACE))

    def config(self) -> dict[str, Any]:
        return {"models": self._facts()}

    def setup(self, context: Context) -> None:
        from idtool.media.store import MediaStore
        from idtool.models import load

        self.store, self.seed = MediaStore(Path(context.run_dir) / "media"), context.seed
        place = partial(load, device=context.device, threads=context.threads)
        self._fill: Any = place(self.fill)
        self._parse: Any = place(self.parser)
        self._detect: Any = place(self.detector) if self.detector else None

    def __call__(self, batch: pa.Table) -> pa.Table:
        return map_rows(batch, self.rows_of, self.writes)

    def rows_of(self, row: Row) -> list[Row]:
        """The row itself, and one row for each mask and time."""
        if not made.wanted(row, self.settings.where):
            return [{NEW.name: False}]
        left_out = {"masks", "per_mask", "where", "remeasure", "gpus", "max_pixels"}
        asked = self.settings.model_dump(mode="json", exclude=left_out)
        seen = cache(partial(self._look, row))
        rows: list[Row] = [{NEW.name: False}]
        for kind in self.settings.masks:
            for number in range(self.settings.per_mask):
                new = derived_id(row["id"], "inpaint", self._facts(), asked, kind, self.seed, number)
                prompt = made.drawn(self.settings.prompts_of(kind), row["id"], self.seed, number)
                child = attempt(row, new, "inpaint", partial(self._made, row, seen, kind, new, prompt))
                rows.append(child | {"prompt": prompt, "inpaint_kind": kind})
        return rows

    def _look(self, row: Row) -> Seen:
        image = pixels_of(row["media"], self.store.root, self.settings.max_pixels)
        face = made.face_of(row, image, self._detect)
        if face is None:
            raise Rejected("inpaint.no_face", "no face was found about which regions could be told")
        return Seen(image, float(max(face.box[2:] - face.box[:2])), self._parse([image], [face])[0])

    def _made(self, row: Row, look: Callable[[], Seen], kind: Kind, new: str, prompt: str) -> Row:
        from idtool.models.fill import SMALLEST

        settings, seen, seed = self.settings, look(), made.seed_of(new)
        least = min(seen.image.shape[:2])
        if least < SMALLEST:
            told = f"the picture's shorter side has {least} px"
            raise Rejected("inpaint.too_small", told, value=float(least), threshold=f">= {SMALLEST}")
        weights = self._weights(seen, kind)
        where = soft_masks.window(weights, settings.context, SMALLEST)
        part = np.ascontiguousarray(seen.image[where])
        anew = self._drawn(part, weights[where] > 0, prompt, seed, seen.image)
        pixels = seen.image.copy()
        pixels[where] = soft_masks.composite(part, anew, weights[where])
        grey = np.rint(weights * 255).astype(np.uint8)[..., None].repeat(3, axis=2)
        return {
            **stored(pixels, self.store, settings.format, settings.quality),
            **made.terms(row, f"{kind} drawn anew", self.fill),
            "generator": made.named(self.fill),
            "generator_seed": seed,
            "inpaint_mask": stored(grey, self.store, "png")["media"],
            "inpaint_share": float((weights > 0).mean()),
        }

    def _weights(self, seen: Seen, kind: Kind) -> soft_masks.Floats:
        """Weights of the whole picture. Raises Rejected `inpaint.mask`."""
        settings = self.settings
        share = seen.parsed.share(*soft_masks.subject_of(kind))
        labels = seen.parsed.on(*seen.image.shape[:2])
        weights = soft_masks.weights_of(labels, kind, settings.dilate * seen.side, settings.feather * seen.side)
        if share < settings.min_share or not weights.any():
            part = soft_masks.KEPT.get(kind, kind)
            told = f"{part} fills {share:.2%} of the square about the face, which leaves nothing to draw for {kind}"
            raise Rejected("inpaint.mask", told, value=share, threshold=f">= {settings.min_share:g}")
        return weights

    def _drawn(self, part: Pixels, mask: soft_masks.Bools, prompt: str, seed: int, reference: Pixels) -> Pixels:
        """The part of the picture as the network draws it, at its own size."""
        how = self._fill.reference if self.settings.reference == "auto" else None
        draw = partial(self._fill, seed=seed, steps=self.settings.steps, guidance=self.settings.guidance)
        if how == "beside":
            told = f"{self.settings.instruction} {prompt}".strip()
            return beside(part, mask, reference, self._fill.area, partial(draw, prompt=told))
        return np.asarray(draw(part, mask, prompt, reference=reference if how == "apart" else None), np.uint8)

    def _facts(self) -> list[Any]:
        return [made.facts(self.fill), made.facts(self.parser), made.facts(self.detector)]
