"""The operator: the only thing that executors run. A batch of rows in, the same rows with columns added out.

Every row leaves an operator in one of three states (DESIGN §3): *kept*; *rejected*, a fault of the data, with
the reason, the value and the threshold; *error*, a fault of ours or of the machine, with its message.
"""

from __future__ import annotations

import errno
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import pyarrow as pa

from idtool.errors import IdtoolError

KEPT, REJECTED, ERROR = "kept", "rejected", "error"

OUTCOME = pa.schema(
    [
        pa.field("status", pa.string(), metadata={"doc": "kept, rejected or error"}),
        pa.field("reason", pa.string(), metadata={"doc": "machine-readable reason, e.g. resolution.short_side"}),
        pa.field("value", pa.float64(), metadata={"doc": "the value that was judged"}),
        pa.field("threshold", pa.string(), metadata={"doc": "the bound it was judged by, e.g. >= 768"}),
        pa.field("message", pa.string(), metadata={"doc": "one sentence for a person"}),
    ]
)


class Rejected(Exception):
    """Raised for a row whose data is at fault; the row is kept aside with this reason, the run goes on."""

    def __init__(
        self, reason: str, message: str = "", *, value: float | None = None, threshold: str | None = None
    ) -> None:
        super().__init__(message or reason)
        self.reason, self.message, self.value, self.threshold = reason, message, value, threshold


@dataclass(frozen=True)
class Resources:
    """What one worker that holds the operator reserves."""

    cpus: float = 1.0
    gpus: float = 0.0


@dataclass(frozen=True)
class Context:
    """What a worker knows of the run it works for. Picklable."""

    run_dir: str
    seed: int = 0
    device: str = "cpu"
    threads: int = 1
    """Threads that a model may use inside one call."""


class Operator(ABC):
    """Columns in, columns added. Instances are pickled to workers before `setup`; models are loaded in `setup`.

    An operator is pure in its rows and in `Context.seed`, and `__call__` may run in several threads at once.
    """

    version: ClassVar[int] = 1
    """Raised whenever the operator's output changes for the same input: old results are then stale."""
    reads: tuple[str, ...] = ()
    writes: pa.Schema = pa.schema([])
    resources: Resources = Resources()

    def config(self) -> dict[str, Any]:
        """JSON-able settings and model revisions: what the fingerprint hashes."""
        return {}

    def setup(self, context: Context) -> None:  # noqa: B027 - optional hook
        """Called once per worker, before the first batch."""

    @abstractmethod
    def __call__(self, batch: pa.Table) -> pa.Table:
        """Return the rows with `writes` and `OUTCOME` added; children of an expanded row carry its id as `parent`."""


Row = dict[str, Any]
RowFunction = Callable[[Row], "Row | list[Row]"]


def outcome_of(error: Exception) -> Row:
    """The outcome columns of a row on which `error` was raised."""
    if isinstance(error, Rejected):
        return {
            "status": REJECTED,
            "reason": error.reason,
            "value": error.value,
            "threshold": error.threshold,
            "message": error.message,
        }
    text = " ".join(str(error).split())[:500]
    return {"status": ERROR, "reason": type(error).__name__, "message": text or type(error).__name__}


STORAGE_ERRNOS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG})


def is_fatal(error: BaseException) -> bool:
    """Whether an error is about the set-up (a missing model, a full disk) rather than about one row."""
    return isinstance(error, IdtoolError) or (isinstance(error, OSError) and error.errno in STORAGE_ERRNOS)


def is_out_of_memory(error: BaseException) -> bool:
    """Host or accelerator memory ran out: worth another try with fewer rows."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    text = str(error).lower()
    return "out of memory" in text or "failed to allocate memory" in text


def output_schema(batch: pa.Schema, writes: pa.Schema) -> pa.Schema:
    """Input columns, then those added (which replace a column of the same name), then the outcome."""
    added = {field.name for field in writes} | set(OUTCOME.names)
    fields = [field for field in batch if field.name not in added]
    return pa.schema([*fields, *writes, *OUTCOME])


def unchanged(batch: pa.Table, writes: pa.Schema) -> pa.Table:
    """The rows as they are, kept, under the schema of an operator that writes `writes`."""
    schema = output_schema(batch.schema, writes)
    columns = []
    for field in schema:
        if field.name in batch.column_names and field.name not in OUTCOME.names:
            columns.append(batch[field.name].cast(field.type))
        else:
            nothing = pa.nulls(batch.num_rows, field.type)
            columns.append(pa.repeat(KEPT, batch.num_rows) if field.name == "status" else nothing)
    return pa.table(columns, schema=schema)


def with_column(batch: pa.Table, field: pa.Field, values: Any) -> pa.Table:
    """The batch with that column, in the place of one of its name where there is one."""
    at = batch.schema.get_field_index(field.name)
    return batch.append_column(field, values) if at < 0 else batch.set_column(at, field, values)


def build(rows: Iterable[Mapping[str, Any]], schema: pa.Schema) -> pa.Table:
    """Rows to a table; a row that says nothing of its outcome is kept."""
    filled = [{"status": KEPT, **row} for row in rows]
    return pa.Table.from_pylist(filled, schema=schema)


def map_rows(batch: pa.Table, function: RowFunction, writes: pa.Schema) -> pa.Table:
    """Call `function` on every row: a dict adds columns, a list of dicts replaces the row by children.

    `Rejected` and any other exception become that row's outcome. Set-up errors and exhausted memory are raised.
    """
    out: list[Row] = []
    for row in batch.to_pylist():
        try:
            result = function(row)
        except Exception as error:
            if is_fatal(error) or is_out_of_memory(error):
                raise
            result = outcome_of(error)
        children = result if isinstance(result, list) else [result]
        out.extend({**row, **child} for child in children)
    return build(out, output_schema(batch.schema, writes))
