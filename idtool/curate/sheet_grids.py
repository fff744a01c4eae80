"""Which sheets a LoRA learns from, and how they look: the accepted pairs of a table become sheets again."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from idtool.engine.operator import Row

Pixels = npt.NDArray[np.uint8]
TOKEN = 16
"""Pixels of a token of FLUX, in both directions."""


@dataclass(frozen=True)
class Grid:
    """A sheet, of which at least one pair of cells was accepted."""

    sheet: str
    """Its id."""
    media: str
    rows: int
    columns: int
    prompt: str
    """The whole sheet in words."""
    cells: dict[int, str] = field(default_factory=dict)
    """Place of an accepted cell -> its picture: that of the sheet, or a completed one."""

    @property
    def complete(self) -> bool:
        """Whether all cells are accepted."""
        return len(self.cells) == self.rows * self.columns


def grids_of(pairs: Iterable[Row]) -> list[Grid]:
    """The sheets of accepted pairs, by id; a cell is accepted that is in one of them, on either side."""
    found: dict[str, Grid] = {}
    for row in pairs:
        new = Grid(row["sheet"], row["sheet_media"], row["sheet_rows"], row["sheet_columns"], row["sheet_prompt"])
        grid = found.setdefault(row["sheet"], new)
        for side in "ab":
            grid.cells[int(row[f"{side}_cell"])] = row[f"{side}_media"]
    return [found[key] for key in sorted(found)]


def composed(grid: Grid, sheet: Pixels, cells: dict[int, Pixels]) -> tuple[Pixels, npt.NDArray[np.bool_]]:
    """The sheet (H, W, 3) with the pictures of its accepted cells in their places, and the tokens (H / 16, W / 16) that
    these cover. `sheet`: RGB uint8; what of it is not accepted stays, and is not covered. ValueError for a sheet whose
    cells are not whole numbers of tokens.

    A completed picture may have other proportions than its cell: it is made as large as fits, and the rest is filled
    with the colour along its edge and not covered.
    """
    height, width = sheet.shape[0] // grid.rows, sheet.shape[1] // grid.columns
    if (
        height % TOKEN
        or width % TOKEN
        or (grid.rows * height, grid.columns * width) != (sheet.shape[0], sheet.shape[1])
    ):
        raise ValueError(f"a sheet of {sheet.shape[1]} x {sheet.shape[0]} px has no cells of whole tokens")
    canvas = sheet.copy()
    covered = np.zeros((sheet.shape[0] // TOKEN, sheet.shape[1] // TOKEN), np.bool_)
    for place, picture in cells.items():
        top, left = height * (place // grid.columns), width * (place % grid.columns)
        fitted, (y, x, h, w) = _fitted(picture, height, width)
        canvas[top : top + height, left : left + width] = fitted
        # Tokens that are inside the picture altogether.
        covered[
            -(-(top + y) // TOKEN) : (top + y + h) // TOKEN,
            -(-(left + x) // TOKEN) : (left + x + w) // TOKEN,
        ] = True
    return canvas, covered


def _fitted(picture: Pixels, height: int, width: int) -> tuple[Pixels, tuple[int, int, int, int]]:
    """The picture in the middle of (height, width), and where it lies: top, left, height, width."""
    import cv2

    scale = min(height / picture.shape[0], width / picture.shape[1])
    h, w = min(height, round(picture.shape[0] * scale)), min(width, round(picture.shape[1] * scale))
    small: Any = picture
    if (h, w) != picture.shape[:2]:
        way = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
        small = cv2.resize(picture, (w, h), interpolation=way)
    edge = np.concatenate([picture[0], picture[-1], picture[:, 0], picture[:, -1]])
    canvas = np.empty((height, width, 3), np.uint8)
    canvas[:] = np.median(edge, axis=0).astype(np.uint8)
    top, left = (height - h) // 2, (width - w) // 2
    canvas[top : top + h, left : left + w] = small
    return canvas, (top, left, h, w)
