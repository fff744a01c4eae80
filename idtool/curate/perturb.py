"""The `perturb` step: worse copies of images, as losers of preference pairs (IdGlow, section 3.4). The originals stay.

What was done is in the new row's columns, drawn from the row's id and the seed of the run: the same row gives the same
pixels, and `perturbed` makes them again from the picture and these columns alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import pyarrow as pa
from pydantic import Field, field_validator, model_validator

from idtool.curate import perturbations
from idtool.curate.derived import NEW, Derives, Pixels, attempt, derived_id, pixels_of, stored
from idtool.curate.made import MADE, seed_of, wanted
from idtool.engine.operator import Context, Operator, Rejected, Row, map_rows
from idtool.engine.step import Env, Settings
from idtool.evaluate.measures.base import column
from idtool.media.limits import PILLOW_MAX_PIXELS
from idtool.models.resources import Gpus

Kind = Literal["saturation", "blur", "noise", "jpeg"]
KINDS: tuple[Kind, ...] = ("saturation", "blur", "noise", "jpeg")
"""In the order in which they are done: as light, lens, sensor and file would do them."""
GENERATOR = "idtool perturb 1"

WRITES = pa.schema(
    [
        *MADE,
        column("perturb_saturation", pa.float64(), "factor of the saturation; null: not touched"),
        column("perturb_blur", pa.float64(), "deviation of the blur on one face; null: none", "px"),
        column("perturb_box", pa.list_(pa.float32()), "the blurred face: left, top, right, bottom", "px"),
        column("perturb_noise", pa.float64(), "deviation of the noise; null: none", "[0, 1]"),
        column("perturb_jpeg", pa.int32(), "JPEG quality; null: not compressed"),
    ]
)
Range = tuple[float, float]


class PerturbSettings(Settings):
    kinds: tuple[Kind, ...] = KINDS
    """What may be done. `blur` needs to know where a face is."""
    at_once: int = Field(default=1, ge=1, le=len(KINDS))
    """How many of them each copy gets, drawn without repetition."""
    copies: int = Field(default=1, ge=1)
    """Per image."""
    noise: Range = (0.02, 0.08)
    """Deviation, of the range [0, 1]."""
    saturation: Range = (0.4, 1.8)
    """Factor; evenly on a logarithmic scale."""
    spared: Range = (0.8, 1.25)
    """Factors of saturation in between are not drawn: they would hardly be seen."""
    jpeg: tuple[int, int] = (20, 40)
    """Quality."""
    blur: Range = (0.03, 0.08)
    """Deviation, as a share of the longer side of the face's box."""
    where: Mapping[str, Any] = Field(default_factory=dict)
    """Column -> value: only such images are perturbed, e.g. `{origin: photo}`."""
    remeasure: bool = True
    """Whether the copies are measured as their originals were; else their columns are null until a later step."""
    format: Literal["png", "jpeg"] = "png"
    """Of the stored copies; png keeps exactly what was done."""
    max_pixels: int = Field(default=100_000_000, ge=1, le=PILLOW_MAX_PIXELS)
    gpus: Gpus = None

    @field_validator("noise", "saturation", "spared", "jpeg", "blur")
    @classmethod
    def _rising(cls, value: tuple[float, float]) -> tuple[float, float]:
        if not 0 < value[0] <= value[1]:
            raise ValueError(f"give two numbers above 0, the lower first. Got {list(value)}")
        return value

    @model_validator(mode="after")
    def _possible(self) -> PerturbSettings:
        if len(set(self.kinds)) != len(self.kinds) or not self.kinds:
            raise ValueError(f"kinds lists some of {', '.join(KINDS)}, each once")
        if self.at_once > len(self.kinds):
            raise ValueError(f"at_once is {self.at_once}, but there are {len(self.kinds)} kinds")
        if self.jpeg[1] > 100:
            raise ValueError(f"JPEG quality is 100 at most. Got {self.jpeg[1]}")
        if self.spared[0] <= self.saturation[0] and self.saturation[1] <= self.spared[1]:
            raise ValueError("every factor of `saturation` is in `spared`")
        return self


class Perturb(Derives):
    """Rejects copies that cannot be made: `perturb.no_face` where nothing but a blur was asked for."""

    kind = "perturb"
    Settings: ClassVar[type[Settings]] = PerturbSettings
    summary = "make worse copies of images: noise, saturation, JPEG, a blurred face"

    settings: PerturbSettings

    def __init__(self, settings: PerturbSettings, env: Env) -> None:
        super().__init__(settings, env)

    @property
    def kinds(self) -> tuple[Kind, ...]:
        """Those that can be done here."""
        blind = "face_box" in self.missing
        return tuple(kind for kind in KINDS if kind in self.settings.kinds and not (blind and kind == "blur"))

    def skip_reason(self) -> str | None:
        return None if len(self.kinds) >= self.settings.at_once else "; ".join(self.notes())

    def notes(self) -> list[str]:
        blind = "blur" in self.settings.kinds and "blur" not in self.kinds
        return [f"blur is left out: {self.missing['face_box']}"] if blind else []

    def reads(self, available: Mapping[str, pa.Field]) -> tuple[str, ...]:
        boxes = ("face_box",) if "blur" in self.kinds else ()
        return (*super().reads(available), *boxes, *self.settings.where)

    def writes(self, available: Mapping[str, pa.Field]) -> pa.Schema:
        return WRITES

    def operators(self) -> list[Operator]:
        return [PerturbImages(self.settings, self.kinds), *self.measuring()]


@dataclass
class PerturbImages(Operator):
    """Adds the copies of each image."""

    settings: PerturbSettings
    kinds: tuple[Kind, ...]

    reads = ("id", "kind", "media")
    writes = pa.schema([*WRITES, NEW])

    def config(self) -> dict[str, Any]:
        return {"kinds": self.kinds}

    def setup(self, context: Context) -> None:
        from idtool.media.store import MediaStore

        self.store, self.seed = MediaStore(Path(context.run_dir) / "media"), context.seed

    def __call__(self, batch: pa.Table) -> pa.Table:
        return map_rows(batch, self.copies_of, self.writes)

    def copies_of(self, row: Row) -> list[Row]:
        """The row itself and its worse copies."""
        asked = self.settings.model_dump(mode="json", exclude={"copies", "where", "remeasure", "gpus", "max_pixels"})
        copies = []
        for number in range(self.settings.copies if wanted(row, self.settings.where) else 0):
            new = derived_id(row["id"], "perturb", self.kinds, asked, self.seed, number)
            copies.append(attempt(row, new, "perturb", partial(self._copy, row, new)))
        return [{NEW.name: False}, *copies]

    def _copy(self, row: Row, new: str) -> Row:
        seed = seed_of(new)
        told = drawn(self.settings, self.kinds, seed, boxes_of(row))
        pixels = perturbed(pixels_of(row["media"], self.store.root, self.settings.max_pixels), told, seed)
        stays = {"generator": GENERATOR, "generator_seed": seed}
        return {**stored(pixels, self.store, self.settings.format), **told, **stays}


def boxes_of(row: Mapping[str, Any]) -> list[list[float]]:
    """The faces of an image of which one may be blurred: all that measure `people` found, else the largest."""
    every = row.get("people_boxes") or [row.get("face_box")]
    return [box for box in every if box is not None]


def drawn(settings: PerturbSettings, kinds: tuple[Kind, ...], seed: int, boxes: list[list[float]]) -> Row:
    """What is done to an image with such faces, as the columns `perturb_…`. Raises Rejected `perturb.no_face`."""
    random = np.random.default_rng(seed)
    possible = [kind for kind in kinds if kind != "blur" or boxes]
    if len(possible) < settings.at_once:
        raise Rejected("perturb.no_face", "no face is known that could be blurred")
    chosen = {possible[k] for k in random.permutation(len(possible))[: settings.at_once]}
    told: Row = {}
    if "saturation" in chosen:
        told["perturb_saturation"] = _factor(settings, random)
    if "blur" in chosen:
        box = boxes[int(random.integers(len(boxes)))]
        side = max(box[2] - box[0], box[3] - box[1])
        told |= {"perturb_blur": float(random.uniform(*settings.blur)) * side, "perturb_box": box}
    if "noise" in chosen:
        told["perturb_noise"] = float(random.uniform(*settings.noise))
    if "jpeg" in chosen:
        told["perturb_jpeg"] = int(random.integers(settings.jpeg[0], settings.jpeg[1] + 1))
    return told


def perturbed(image: Pixels, told: Mapping[str, Any], seed: int) -> Pixels:
    """`image` (H, W, 3) RGB uint8 with what the columns `perturb_…` say done to it; `seed` is `generator_seed`."""
    if (factor := told.get("perturb_saturation")) is not None:
        image = perturbations.saturate(image, factor)
    if (sigma := told.get("perturb_blur")) is not None:
        image = perturbations.blur_face(image, told["perturb_box"], sigma)
    if (sigma := told.get("perturb_noise")) is not None:
        image = perturbations.noise(image, sigma, seed)
    if (quality := told.get("perturb_jpeg")) is not None:
        image = perturbations.jpeg(image, quality)
    return image


def _factor(settings: PerturbSettings, random: np.random.Generator) -> float:
    """A factor of saturation outside of `spared`, evenly on a logarithmic scale."""
    low, high = settings.saturation
    pale, gaudy = settings.spared
    parts = [(low, min(pale, high)), (max(gaudy, low), high)]
    lengths = np.array([max(0.0, float(np.log(b / a))) for a, b in parts])
    if not lengths.sum():  # a single factor is asked for
        return float(low)
    at = random.uniform(0, lengths.sum())
    part, rest = (0, at) if at < lengths[0] else (1, at - lengths[0])
    return float(parts[part][0] * np.exp(rest))
