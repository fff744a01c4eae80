"""How a character sheet is laid out, and in which words it is asked for: settings and prompts of all steps that make
sheets."""

from __future__ import annotations

from typing import Literal

import numpy as np
from pydantic import Field

from idtool.engine.operator import Rejected, Row
from idtool.engine.step import Settings
from idtool.models.resources import Gpus

BASE = (
    "A character sheet of one and the same subject, {descriptor}: {count} pictures in a grid of {rows} rows and "
    "{columns} columns, the same subject in each of them, in other poses and places. {style}"
)
STYLE = "High quality, sharp, the subject seen whole unless a close view is asked for."
REFERENCE = "standing and facing the camera, calm, seen from head to foot, plain light background"
"""Ours: the first cell shows the subject plainly, as the picture that the others are compared with."""


class SheetSettings(Settings):
    """What every way of making sheets has."""

    sheets: int = Field(default=1, ge=1)
    """Sheets of each subject, each with scenes and a seed of its own."""
    rows: int = Field(default=2, ge=1, le=4)
    columns: int = Field(default=2, ge=1, le=4)
    """The paper prints neither grid nor size. 2 x 2 cells of 512 px are 1 megapixel, which FLUX is trained for."""
    cell_width: int = Field(default=512, ge=16, le=2048, multiple_of=16)
    """Pixels; a multiple of 16, so that no token of FLUX belongs to two cells."""
    cell_height: int = Field(default=512, ge=16, le=2048, multiple_of=16)
    reference: str | None = REFERENCE
    """Scene of the first cell; null: drawn like the others."""
    base: str = BASE
    """The base prompt, with {descriptor}, {count}, {rows}, {columns}, {style}."""
    style: str = STYLE
    steps: int = Field(default=24, ge=1, le=1000)
    """Denoising steps; 24 in the demonstration of regional prompting."""
    guidance: float = Field(default=3.5, ge=0)
    text_length: int = Field(default=512, ge=16, le=512)
    """Tokens of a prompt for T5, at most."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    offload: Literal["none", "model", "sequential"] = "none"
    """Parts in main memory until they are needed: less accelerator memory, more time."""
    lora: str | None = None
    """Name of an adapter that step `refine` made in this run; null: FLUX as it is."""
    gpus: Gpus = None

    def frame(self) -> tuple[int, int]:
        """Width and height of a sheet."""
        return self.columns * self.cell_width, self.rows * self.cell_height


def scenes_of(row: Row, settings: SheetSettings, seed: int, number: int) -> list[str]:
    """The scenes of the subject's sheet of that number, a cell each, none twice. Raises Rejected for too few."""
    first = [settings.reference] if settings.reference else []
    need = settings.rows * settings.columns - len(first)
    there = list(dict.fromkeys(row["scenes"] or ()))
    if len(there) < need:
        message = f"{len(there)} scenes for {need} cells"
        raise Rejected("regional.scenes", message, value=float(len(there)), threshold=f">= {need}")
    order = np.random.default_rng([seed, number, *row["id"].encode()]).permutation(len(there))
    return [*first, *(there[k] for k in order[:need])]


def base_of(descriptor: str, settings: SheetSettings) -> str:
    """The prompt of the whole sheet, without its cells."""
    count = settings.rows * settings.columns
    blanks = {"count": count, "rows": settings.rows, "columns": settings.columns, "style": settings.style}
    return settings.base.format(descriptor=descriptor, **blanks).strip()


def sheet_prompt(base: str, scenes: list[str], columns: int) -> str:
    """The whole sheet with every cell, in words."""
    cells = (f"Row {k // columns + 1}, column {k % columns + 1}: {scene}." for k, scene in enumerate(scenes))
    return " ".join([base, *cells])


def cell_prompt(descriptor: str, scene: str) -> str:
    """p_r: the descriptor that all cells share, and the scene."""
    return f"{descriptor}, {scene}"


def cell_boxes(rows: int, columns: int) -> list[tuple[float, float, float, float]]:
    """Left, top, right, bottom of the cells as shares of the sheet, row by row."""
    return [
        (column / columns, row / rows, (column + 1) / columns, (row + 1) / rows)
        for row in range(rows)
        for column in range(columns)
    ]
