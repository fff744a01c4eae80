"""Small tables on disk for tests of steps."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa

from idtool.engine.operator import OUTCOME
from idtool.engine.step import Env, TableContext, TableStep
from idtool.engine.table import KeptRows, Table, write_table

OFFLINE = Env("offline", {})


def stored(folder: Path, rows: pa.Table, batch: int = 1000) -> Table:
    """`rows` as a table on disk in several batches; kept unless they have an outcome."""
    if "status" not in rows.column_names:
        for field in OUTCOME:
            kept = pa.repeat("kept", rows.num_rows)
            rows = rows.append_column(field, kept if field.name == "status" else pa.nulls(rows.num_rows, field.type))
    slices = (rows.slice(k, batch) for k in range(0, max(1, rows.num_rows), batch))
    return write_table(folder, slices, rows.schema)


def run(step: TableStep, table: Table, folder: Path) -> dict[str, dict[str, Any]]:
    """What a table step makes of the kept rows of a table, by id (which must be unique)."""
    rows = joined(step.run(KeptRows(table.path), TableContext(run_dir=str(folder), step_dir=folder)))
    assert len({row["id"] for row in rows}) == len(rows)
    return {row["id"]: row for row in rows}


def joined(batches: Iterable[pa.Table]) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for batch in batches:
        assert [field for field in batch.schema if field.name in OUTCOME.names] == list(OUTCOME)
        rows.extend(batch.to_pylist())
    return rows
