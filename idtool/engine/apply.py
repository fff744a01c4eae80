"""One shard through a chain of operators, whatever happens on the way."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pyarrow as pa
import pyarrow.compute as pc

from idtool.engine.operator import (
    ERROR,
    KEPT,
    OUTCOME,
    Operator,
    build,
    is_fatal,
    is_out_of_memory,
    outcome_of,
    output_schema,
)

INPUT_ID = "input_id"
"""Hidden column: the key (`row_keys`) of the input row that an output row came from. What resume and reuse go by;
the runner adds it to what it hands out."""

Warn = Callable[[str], None]


def apply(operators: Sequence[Operator], batch: pa.Table, warn: Warn = lambda _: None) -> pa.Table:
    """Run the chain on a batch of kept rows. Rows that an operator rejects, or that fail, skip the rest of the chain
    and come back with their outcome; the columns they did not get are null."""
    if INPUT_ID not in batch.column_names:  # a caller that carries nothing from sources: the id is the key
        batch = batch.append_column(INPUT_ID, batch["id"])
    done: list[pa.Table] = []
    for operator in operators:
        result = _call(operator, batch, warn)
        kept = pc.equal(result["status"], KEPT)
        done.append(result.filter(pc.invert(kept)))
        batch = result.filter(kept).drop_columns(OUTCOME.names)
        last = result.filter(kept)
    return pa.concat_tables([last, *done], promote_options="default")


def _call(operator: Operator, batch: pa.Table, warn: Warn) -> pa.Table:
    """Call on the whole batch; if that fails, on halves, down to the single row that cannot be processed."""
    if not batch.num_rows:
        return output_schema(batch.schema, operator.writes).empty_table()
    try:
        return operator(batch)
    except Exception as error:
        if is_fatal(error):
            raise
        if batch.num_rows == 1:
            return failed_rows(batch, operator.writes, error)
        if is_out_of_memory(error):
            warn(f"out of memory on {batch.num_rows} rows in {type(operator).__name__}; going on with half of them")
        half = batch.num_rows // 2
        halves = [_call(operator, part, warn) for part in (batch.slice(0, half), batch.slice(half))]
        return pa.concat_tables(halves, promote_options="default")


def failed_rows(batch: pa.Table, writes: pa.Schema, error: Exception) -> pa.Table:
    """The rows of `batch` as errors, with nothing added but the outcome."""
    outcome = {**outcome_of(error), "status": ERROR}
    return build(({**row, **outcome} for row in batch.to_pylist()), output_schema(batch.schema, writes))
