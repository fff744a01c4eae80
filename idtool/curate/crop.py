"""The `crop` step: pictures of one face each, framed as FFHQ's are or cut about the face's box.

The new picture is a row of its own whose `parent` is the row that it was cut from, which stays or goes (`keep`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import pyarrow as pa
from pydantic import Field, model_validator

from idtool.curate import ffhq
from idtool.curate.derived import NEW, Derives, Pixels, attempt, child_of, derived_id, pixels_of, stored
from idtool.curate.made import MADE
from idtool.engine.operator import Context, Operator, Rejected, Row, map_rows
from idtool.engine.step import Env, Settings
from idtool.evaluate.measures.base import column
from idtool.media.limits import PILLOW_MAX_PIXELS
from idtool.models.resources import Gpus

WRITES = pa.schema(
    [
        *MADE,
        column(
            "crop_scale", pa.float32(), "pixels of the crop over those it was made of, along a side; above 1: larger"
        ),
        column("crop_outside", pa.float32(), "share of the crop that lay outside of its picture", "[0, 1]"),
    ]
)
GENERATOR = "idtool crop 1"


class CropSettings(Settings):
    frame: Literal["ffhq", "square", "box"] = "ffhq"
    """`ffhq`: turned upright and framed by eyes and mouth, completed by mirrored, blurred pixels where the picture
    ends. `square`, `box`: about the face's box, not turned, inside the picture."""
    size: int | None = Field(default=512, ge=16, le=4096)
    """Side of what comes out; of a `box` its longer side. null, but for `ffhq`: as many pixels as were cut."""
    margin: float = Field(default=0.5, ge=0, le=10)
    """Of `square` and `box`: added on each side, as a share of the box's longer side."""
    min_side: int = Field(default=64, ge=1)
    """Least shorter side in pixels of the picture that is cut out."""
    max_scale: float = Field(default=1.1, gt=0)
    """How many times as large as it was the crop may become. At 1 no pixel is invented, and pictures that are framed
    so already are refused for the few percent by which found points differ."""
    max_outside: float = Field(default=0.25, ge=0, le=1)
    """Of `ffhq`: share of the crop that may be completed."""
    keep: Literal["crop", "both"] = "crop"
    """Whether the picture stays in the table beside its crop."""
    remeasure: bool = True
    """Whether crops are measured as their pictures were; else their columns are null until a later step."""
    format: Literal["jpeg", "png"] = "jpeg"
    quality: int = Field(default=95, ge=1, le=100)
    """Of JPEG, at full colour resolution."""
    max_pixels: int = Field(default=100_000_000, ge=1, le=PILLOW_MAX_PIXELS)
    gpus: Gpus = None

    @model_validator(mode="after")
    def _sized(self) -> CropSettings:
        if self.frame == "ffhq" and self.size is None:
            raise ValueError("frame ffhq needs a size, such as 512 or 1024")
        return self


class Crop(Derives):
    """Rejects `crop.no_face`, `crop.points`, `crop.min_side`, `crop.max_scale`, `crop.max_outside`: the crop where
    `keep: both`, else the picture. Rows that are no images pass."""

    kind = "crop"
    Settings: ClassVar[type[Settings]] = CropSettings
    summary = "cut faces out: framed as FFHQ, or about the face's box"

    settings: CropSettings

    def __init__(self, settings: CropSettings, env: Env) -> None:
        super().__init__(settings, env)

    @property
    def told_by(self) -> str:
        """The column that says where the face is."""
        return "face_kps" if self.settings.frame == "ffhq" else "face_box"

    def skip_reason(self) -> str | None:
        return self.missing.get(self.told_by)

    def reads(self, available: Mapping[str, pa.Field]) -> tuple[str, ...]:
        return (*super().reads(available), self.told_by)

    def writes(self, available: Mapping[str, pa.Field]) -> pa.Schema:
        return WRITES

    def operators(self) -> list[Operator]:
        return [CropImages(self.settings, self.told_by), *self.measuring()]


@dataclass
class CropImages(Operator):
    """Adds, or puts in its place, the crop of each image."""

    settings: CropSettings
    told_by: str

    writes = pa.schema([*WRITES, NEW])

    @property
    def reads(self) -> tuple[str, ...]:  # type: ignore[override]
        return ("id", "kind", "media", self.told_by)

    def config(self) -> dict[str, Any]:
        return {}  # the step says it

    def setup(self, context: Context) -> None:
        from idtool.media.store import MediaStore

        self.store = MediaStore(Path(context.run_dir) / "media")

    def __call__(self, batch: pa.Table) -> pa.Table:
        return map_rows(batch, self.rows_of, self.writes)

    def rows_of(self, row: Row) -> list[Row]:
        """The crop, and the row itself where it stays."""
        if row["kind"] != "image":
            return [{NEW.name: False}]
        asked = self.settings.model_dump(mode="json", exclude={"keep", "remeasure", "gpus", "max_pixels"})
        new = derived_id(row["id"], "crop", asked)
        if self.settings.keep == "crop":
            # A picture that cannot be cut is itself rejected.
            return [child_of(row, new, "crop") | self._crop(row)]
        return [{NEW.name: False}, attempt(row, new, "crop", partial(self._crop, row))]

    def _crop(self, row: Row) -> Row:
        if row[self.told_by] is None:
            raise Rejected("crop.no_face", "no face was found that could be cut out")
        settings = self.settings
        image = pixels_of(row["media"], self.store.root, settings.max_pixels)
        cut = framed if settings.frame == "ffhq" else boxed
        pixels, told = cut(image, row[self.told_by], settings)
        return {**stored(pixels, self.store, settings.format, settings.quality), **told, "generator": GENERATOR}


def framed(image: Pixels, kps: Any, settings: CropSettings) -> tuple[Pixels, Row]:
    """The crop of RGB `image` (H, W, 3) framed as FFHQ, and its columns. Raises Rejected."""
    try:
        corners = ffhq.square(kps)
    except ValueError as error:
        raise Rejected("crop.points", str(error)) from error
    height, width = image.shape[:2]
    size, side = int(settings.size or 0), ffhq.side(corners)
    _at_least(side, settings.min_side)
    scale = _at_most("max_scale", size / side, settings.max_scale)
    outside = _at_most("max_outside", ffhq.outside(corners, width, height), settings.max_outside)
    return ffhq.aligned(image, corners, size), {"crop_scale": scale, "crop_outside": outside}


def boxed(image: Pixels, box: Any, settings: CropSettings) -> tuple[Pixels, Row]:
    """The same of a crop about the face's box (left, top, right, bottom)."""
    import cv2

    height, width = image.shape[:2]
    left, top, right, bottom = bounds(box, width, height, settings.margin, settings.frame == "square")
    rows, columns = bottom - top, right - left
    _at_least(min(rows, columns), settings.min_side)
    pixels = image[top:bottom, left:right]
    scale = (settings.size or max(rows, columns)) / max(rows, columns)
    _at_most("max_scale", scale, settings.max_scale)
    if scale != 1:
        size = (max(1, round(columns * scale)), max(1, round(rows * scale)))
        pixels = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)
    return np.ascontiguousarray(pixels), {"crop_scale": scale, "crop_outside": 0.0}


def bounds(box: Any, width: int, height: int, margin: float, square: bool) -> tuple[int, int, int, int]:
    """Left, top, right, bottom in whole pixels of a crop about a box, inside of a picture: one that reaches over the
    edge is moved, and one that is too large for the picture cut; a square stays one. Raises Rejected `crop.no_face`
    for a box beside the picture."""
    low, high = np.asarray(box, np.float64).reshape(2, 2)
    size = np.array([width, height])
    if not ((high > 0) & (low < size) & (high > low)).all():
        raise Rejected("crop.no_face", "the box of the face has no pixel in the picture")
    longer = float((high - low).max())
    sides = np.full(2, longer) if square else high - low
    sides = np.minimum(np.maximum(np.rint(sides + 2 * margin * longer), 1), size.min() if square else size)
    start = np.clip(np.rint((low + high - sides) / 2), 0, size - sides).astype(int)
    end = start + sides.astype(int)
    return int(start[0]), int(start[1]), int(end[0]), int(end[1])


def _at_least(side: float, least: int) -> None:
    if side < least:
        told = f"the face fills a square of {side:.0f} px, must be >= {least}"
        raise Rejected("crop.min_side", told, value=float(side), threshold=f">= {least}")


def _at_most(setting: str, value: float, most: float) -> float:
    if value > most:
        told = {"max_scale": "the crop would become {:.2f} times as large", "max_outside": "{:.0%} lie outside"}[
            setting
        ]
        raise Rejected(f"crop.{setting}", told.format(value), value=float(value), threshold=f"<= {most:g}")
    return value
