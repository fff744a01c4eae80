"""Toy steps for engine tests: quick, and able to reject, fail, expand, crash and run out of memory on request."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

from idtool.engine.operator import OUTCOME, Context, Operator, Rejected, Row, map_rows
from idtool.engine.step import Env, RowStep, Settings, TableContext, TableStep
from idtool.engine.table import Table
from idtool.errors import MissingError

ENV = Env(profile="test", bindings={})


class SquareSettings(Settings):
    power: int = 2
    log: str = ""
    """File that each processed row is written to, to count work."""
    crash: tuple[int, ...] = ()
    fail: tuple[int, ...] = ()
    reject_above: int = 10**9
    seconds: float = 0.0
    oom_above_rows: int = 10**9
    need_model: bool = False
    full_disk: bool = False


class SquareOperator(Operator):
    reads = ("number",)
    writes = pa.schema([pa.field("power", pa.int64(), metadata={"doc": "number ** power"})])

    def __init__(self, settings: SquareSettings) -> None:
        self.settings = settings

    def config(self) -> dict[str, Any]:
        return {"power": self.settings.power}

    def setup(self, context: Context) -> None:
        if self.settings.need_model:
            raise MissingError("model 'toy' is not here.", "Run idtool models pull.")

    def __call__(self, batch: pa.Table) -> pa.Table:
        if batch.num_rows > self.settings.oom_above_rows:
            raise MemoryError("toy: too many rows")
        return map_rows(batch, self._row, self.writes)

    def _row(self, row: Row) -> Row:
        number = row["number"]
        if self.settings.seconds:
            time.sleep(self.settings.seconds)
        if self.settings.log:
            with open(self.settings.log, "a") as sink:
                sink.write(f"{row['id']}\n")
        if number in self.settings.crash:
            os._exit(139)
        if self.settings.full_disk:
            raise OSError(28, "No space left on device", "/some/file")
        if number in self.settings.fail:
            raise ZeroDivisionError(f"cannot do {number}")
        if number > self.settings.reject_above:
            raise Rejected("number.high", "too high", value=number, threshold=f"<= {self.settings.reject_above}")
        return {"power": number**self.settings.power}


class Square(RowStep):
    kind = "square"
    Settings = SquareSettings
    shard_rows = 8

    def reads(self, available: Mapping[str, pa.Field]) -> tuple[str, ...]:
        return ("number",)

    def writes(self, available: Mapping[str, pa.Field]) -> pa.Schema:
        return SquareOperator.writes

    def config(self) -> dict[str, Any]:
        """Only what changes results."""
        return {"settings": {"power": self.settings.power, "reject_above": self.settings.reject_above}}

    def operators(self) -> list[Operator]:
        return [SquareOperator(self.settings)]


class SplitOperator(Operator):
    writes = pa.schema([pa.field("parent", pa.string()), pa.field("child", pa.int64())])

    def __call__(self, batch: pa.Table) -> pa.Table:
        return map_rows(batch, self._row, self.writes)

    def _row(self, row: Row) -> list[Row]:
        return [{"id": f"{row['id']}-{n}", "parent": row["id"], "child": n} for n in range(row["number"] % 3)]


class Split(RowStep):
    """Every row becomes 0, 1 or 2 children."""

    kind = "split"
    shard_rows = 8

    def writes(self, available: Mapping[str, pa.Field]) -> pa.Schema:
        return SplitOperator.writes

    def operators(self) -> list[Operator]:
        return [SplitOperator()]


class SelectSettings(Settings):
    below: int = 10**9


class SelectOperator(Operator):
    reads = ("power",)

    def __init__(self, below: int) -> None:
        self.below = below

    def __call__(self, batch: pa.Table) -> pa.Table:
        def row(row: Row) -> Row:
            if row["power"] >= self.below:
                raise Rejected("power.high", value=row["power"], threshold=f"< {self.below}")
            return {}

        return map_rows(batch, row, self.writes)


class Select(RowStep):
    kind = "select"
    Settings = SelectSettings
    selects_only = True

    def reads(self, available: Mapping[str, pa.Field]) -> tuple[str, ...]:
        return ("power",)

    def operators(self) -> list[Operator]:
        return [SelectOperator(self.settings.below)]


class Total(TableStep):
    kind = "total"
    new_table = True

    def writes(self, available: Mapping[str, pa.Field]) -> pa.Schema:
        return pa.schema([pa.field("id", pa.string()), pa.field("total", pa.int64())])

    def run(self, table: Table, context: TableContext) -> Iterator[pa.Table]:
        total = sum(sum(batch["power"].to_pylist()) for batch in table.batches(["power"]))
        context.statistics["total"] = total
        schema = pa.schema([*self.writes({}), *OUTCOME])
        yield pa.Table.from_pylist([{"id": "total", "total": total, "status": "kept"}], schema=schema)


def numbers(folder: Path, values: range) -> Table:
    """A sources table with one row per value; ids sort as the values do."""
    from idtool.engine.table import write_table

    rows = [{"id": f"n{value:06d}", "number": value, "status": "kept"} for value in values]
    schema = pa.schema([pa.field("id", pa.string()), pa.field("number", pa.int64()), *OUTCOME])
    return write_table(folder, [pa.Table.from_pylist(rows, schema=schema)], schema)


class Quiet:
    """A progress watcher that remembers."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.warnings: list[str] = []
        self.rows: dict[str, int] = {}

    def step_start(self, name: str, index: int, count: int, rows: int | None) -> None:
        self.rows[name] = 0

    def advance(self, name: str, kept: int, rejected: int, errors: int) -> None:
        self.rows[name] = self.rows.get(name, 0) + kept + rejected + errors

    def step_end(self, name: str, summary: dict[str, Any]) -> None: ...

    def note(self, text: str) -> None:
        self.notes.append(text)

    def warn(self, text: str) -> None:
        self.warnings.append(text)
