"""Reading identities whole: the rows of a table by identity, with memory bounded by a bucket, and embedding columns
as arrays."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from idtool.engine.sorting import external_sort
from idtool.engine.table import Table

BUCKET_ROWS = 8_192
READ_ROWS = 1_024


def by_identity(table: Table, spool: Path, *, bucket_rows: int = BUCKET_ROWS) -> Iterator[pa.Table]:
    """Tables of whole identities sorted by identity, then id; identities in rising order. Rows of no identity are
    left out. Each but the last has at least `bucket_rows` rows. A table of more than some thousand rows is sorted in
    `spool`, which is removed again."""
    named = (batch.filter(pc.is_valid(batch["identity"])) for batch in table.batches(rows=READ_ROWS, kept_only=True))
    held: list[pa.Table] = []
    # The last identity, which may go on in what comes next, and the number of rows before it.
    last: str | None = None
    count = before = 0
    for rows in external_sort(named, ("identity", "id"), spool):
        held.append(rows)
        newest = rows["identity"][-1].as_py()
        if newest != last:
            last, before = newest, count + pc.sum(pc.not_equal(rows["identity"], newest)).as_py()
        count += rows.num_rows
        if before >= bucket_rows:
            whole = pa.concat_tables(held)
            yield whole.slice(0, before).combine_chunks()
            held, count, before = [whole.slice(before).combine_chunks()], count - before, 0
    if count:
        yield pa.concat_tables(held).combine_chunks()


def vectors(column: pa.ChunkedArray | pa.Array) -> npt.NDArray[np.float32]:
    """A column of float lists of one length -> (n, d) float32; a null row is zeros, (n, 0) where all are null."""
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    valid = array.is_valid().to_numpy(zero_copy_only=False)
    present = array.filter(pa.array(valid)) if not valid.all() else array
    flat = np.asarray(present.flatten().to_numpy(zero_copy_only=False), np.float32)
    if not len(present):
        return np.zeros((len(array), 0), np.float32)
    if valid.all():
        return flat.reshape(len(array), -1)
    result = np.zeros((len(array), len(flat) // len(present)), np.float32)
    result[valid] = flat.reshape(len(present), -1)
    return result


def numbers(column: pa.ChunkedArray | pa.Array, kind: type[np.floating]) -> npt.NDArray[np.floating]:
    """A column of numbers -> (n,) floats of that kind, NaN for null."""
    return np.asarray(column.cast(pa.float64()).to_numpy(), np.float64).astype(kind)


def lengths(table: Table, columns: Sequence[str]) -> dict[str, int]:
    """Number of values, or bytes, of the first row of an identity that has any, for each column; 0: none has."""
    found = dict.fromkeys(columns, 0)
    for batch in table.batches(["identity", *columns], kept_only=True):
        for name in [name for name, length in found.items() if not length]:
            sizes = pc.list_value_length if pa.types.is_nested(batch.schema.field(name).type) else pc.binary_length
            present = batch.filter(pc.is_valid(batch["identity"]))[name].drop_null()
            found[name] = next((size for size in sizes(present).to_pylist() if size), 0)
        if all(found.values()):
            break
    return found


def thumbs(column: pa.ChunkedArray, size: int) -> npt.NDArray[np.uint8] | None:
    """A column of square grey images of `size` raw bytes -> (n, side, side) uint8, zeros for others and null; None
    where that is no square."""
    values = column.to_pylist()
    side = round(size**0.5)
    if side * side != size or not size:
        return None
    empty = bytes(size)
    data = b"".join(value if value and len(value) == size else empty for value in values)
    return np.frombuffer(data, np.uint8).reshape(len(values), side, side)
