"""The `split` step cuts character sheets into their cells, and `pair_cells` pairs the cells of a sheet, one as the
reference of the other (Instruct Identity, stage I: "candidate pairs").

Cells of two sheets of one subject are not paired: nothing but words holds a subject together from sheet to sheet.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal

import pyarrow as pa
from pydantic import Field

from idtool.curate.derived import attempt, derived_id, pixels_of, stored
from idtool.curate.made import MADE
from idtool.curate.pair_rows import carried
from idtool.curate.sheet_layout import cell_prompt
from idtool.engine.operator import KEPT, OUTCOME, REJECTED, Context, Operator, Rejected, Row, build, map_rows
from idtool.engine.step import Env, RowStep, Settings, TableContext, TableStep
from idtool.engine.table import KeptRows, Table
from idtool.evaluate.measures.base import column
from idtool.media.limits import PILLOW_MAX_PIXELS

CELL = pa.schema(
    [
        column("sheet", pa.string(), "id of the sheet that the cell was cut from"),
        column("sheet_media", pa.string(), "where the sheet's bytes are"),
        column("cell", pa.int32(), "place of the cell in the sheet, row by row, from 0"),
        column("scene", pa.string(), "what the cell was to show"),
    ]
)
OF_SHEET = ("sheet", "sheet_media", "sheet_rows", "sheet_columns", "sheet_prompt", "subject_class", "descriptor")
"""Columns that both cells of a pair share, so that the pair has them once."""
NEEDED = ("sheet_rows", "sheet_columns", "sheet_scenes", "descriptor")


class SplitSettings(Settings):
    border: int = Field(default=0, ge=0, le=256)
    """Pixels cut off on every side of a cell: where cells meet, one may run over into the next."""
    max_pixels: int = Field(default=100_000_000, ge=1, le=PILLOW_MAX_PIXELS)


class Split(RowStep):
    """Replaces sheets by their cells; other rows pass. Rejects `split.border`."""

    kind = "split"
    Settings: ClassVar[type[Settings]] = SplitSettings
    summary = "cut character sheets into cells"
    shard_rows = 8

    settings: SplitSettings

    def __init__(self, settings: SplitSettings, env: Env) -> None:
        super().__init__(settings, env)

    def reads(self, available: Mapping[str, pa.Field]) -> tuple[str, ...]:
        return SplitSheets.reads

    def writes(self, available: Mapping[str, pa.Field]) -> pa.Schema:
        return SplitSheets.writes

    def operators(self) -> list[Operator]:
        return [SplitSheets(self.settings)]


@dataclass
class SplitSheets(Operator):
    """Cuts each row that has a grid."""

    settings: SplitSettings

    reads = ("id", "kind", "media", "prompt", "generator", "generator_seed", *NEEDED)
    writes = pa.schema([*MADE, *CELL])

    def config(self) -> dict[str, Any]:
        return {}  # the step says it

    def setup(self, context: Context) -> None:
        from idtool.media.store import MediaStore

        self.store = MediaStore(Path(context.run_dir) / "media")

    def __call__(self, batch: pa.Table) -> pa.Table:
        return map_rows(batch, self.rows_of, self.writes)

    def rows_of(self, row: Row) -> list[Row]:
        """The cells. Raises Rejected for a sheet that cannot be read."""
        if row["kind"] != "image" or row["sheet_rows"] is None:
            return [{}]
        image = pixels_of(row["media"], self.store.root, self.settings.max_pixels)
        kept = {name: row.get(name) for name in ("generator", "generator_seed", *OF_SHEET)}
        cells = []
        for number, scene in enumerate(row["sheet_scenes"]):
            new = derived_id(row["id"], "split", number, self.settings.border)
            make = partial(self._cell, row, image, number)
            told = {**kept, "sheet": row["id"], "sheet_media": row["media"], "cell": number, "scene": scene}
            cells.append(attempt(row, new, "split", make) | told | {"prompt": cell_prompt(row["descriptor"], scene)})
        return cells

    def _cell(self, row: Row, image: Any, number: int) -> Row:
        across, down = image.shape[1] // row["sheet_columns"], image.shape[0] // row["sheet_rows"]
        border = self.settings.border
        if 2 * border >= min(across, down):
            message = f"a border of {border} px leaves nothing of cells of {across} x {down}"
            limit = f"< {min(across, down) / 2:g}"
            raise Rejected("split.border", message, value=float(border), threshold=limit)
        top, left = down * (number // row["sheet_columns"]), across * (number % row["sheet_columns"])
        inside = image[top + border : top + down - border, left + border : left + across - border]
        return stored(inside, self.store, "png")


PAIR = pa.schema(
    [
        column("id", pa.string(), "the ids of reference and other picture, joined by ~"),
        column("identity", pa.string(), "the subject"),
        column("branch", pa.string(), "sheet: two cells of one sheet"),
    ]
)


class PairCellsSettings(Settings):
    reference: Literal["first", "each"] = "first"
    """`first`: the first cell, which shows the subject plainly, with each other one. `each`: every cell with every
    other one, both ways round: n (n - 1) pairs of n cells in place of n - 1."""


class PairCells(TableStep):
    """A picture made of a cell, such as a completed one (step `outpaint`), stands in for it. Rejects cells that find no
    partner (`pair_cells.alone`, `pair_cells.no_reference`), and such as are cut off (`pair_cells.cut`)."""

    kind = "pair_cells"
    Settings: ClassVar[type[Settings]] = PairCellsSettings
    summary = "pair the cells of a sheet: reference and other"
    new_table = True

    settings: PairCellsSettings

    def __init__(self, settings: PairCellsSettings, env: Env) -> None:
        super().__init__(settings, env)

    def reads(self, available: Mapping[str, pa.Field]) -> tuple[str, ...]:
        return ("id", "parent", "media", "identity_label", *CELL.names)

    def writes(self, available: Mapping[str, pa.Field]) -> pa.Schema:
        shared = [available[name] for name in OF_SHEET if name in available]
        twice = [name for name in carried(available) if name not in OF_SHEET]
        sides = (available[name].with_name(f"{side}_{name}") for side in "ab" for name in twice)
        return pa.schema([*PAIR, *shared, *sides])

    def run(self, table: Table, context: TableContext) -> Iterable[pa.Table]:
        names = {name: table.schema.field(name) for name in KeptRows(table.path).schema.names}
        schema = pa.schema([*self.writes(names), *OUTCOME])
        sheets = _sheets(row for batch in table.batches(kept_only=True) for row in batch.to_pylist())
        pairs = 0
        for cells in sheets.values():
            rows = list(self._pairs(cells))
            pairs += sum(row["status"] == KEPT for row in rows)
            yield build(rows, schema)
        if not sheets:
            yield schema.empty_table()
        context.statistics.update(sheets=len(sheets), cells=sum(map(len, sheets.values())), chosen=pairs)

    def _pairs(self, cells: list[Row]) -> Iterator[Row]:
        whole = [cell for cell in cells if not _is_cut(cell)]
        first = [cell for cell in whole if cell["cell"] == 0]
        references = first if self.settings.reference == "first" else whole
        for cell in cells:
            others = [one for one in references if one["id"] != cell["id"]]
            if _is_cut(cell):
                yield _alone(cell, "pair_cells.cut", "the subject is cut off, and no completed picture of it is left")
            elif not references:
                yield _alone(cell, "pair_cells.no_reference", "the first cell of its sheet is not left")
            elif len(whole) == 1:
                yield _alone(cell, "pair_cells.alone", "no other cell of its sheet is left")
            for one in [] if _is_cut(cell) else others:
                yield _pair(one, cell)


def _sheets(rows: Iterable[Row]) -> dict[str, list[Row]]:
    """Sheet -> its cells in order. What was made of a cell takes its place, and what is told of the cell."""
    found = {row["id"]: row for row in rows}
    made_of = {row["parent"]: row for row in found.values() if row["cell"] is None and row["parent"] in found}
    sheets: dict[str, list[Row]] = defaultdict(list)
    for row in sorted(found.values(), key=lambda row: (row["sheet"] or "", row["cell"] or 0, row["id"])):
        if row["cell"] is None:
            continue
        better = made_of.get(row["id"])
        told = {name: row.get(name) for name in (*CELL.names, *OF_SHEET, "identity_label", "prompt") if name in row}
        cell = row if better is None else {**better, **told, "outpaint_sides": None}
        sheets[row["sheet"]].append(cell)
    return sheets


def _is_cut(cell: Row) -> bool:
    return bool(cell.get("outpaint_sides"))


def _pair(reference: Row, other: Row) -> Row:
    sides = {f"{side}_{name}": value for side, row in (("a", reference), ("b", other)) for name, value in row.items()}
    told = {name: other.get(name) for name in OF_SHEET}
    own = {"id": f"{reference['id']}~{other['id']}", "identity": other["identity_label"], "branch": "sheet"}
    return {**sides, **told, **own, "status": KEPT}


def _alone(cell: Row, reason: str, message: str) -> Row:
    sides = {f"b_{name}": value for name, value in cell.items()}
    told = {name: cell.get(name) for name in OF_SHEET}
    own = {"id": cell["id"], "identity": cell["identity_label"], "branch": "sheet"}
    return {**sides, **told, **own, "status": REJECTED, "reason": reason, "message": message}
