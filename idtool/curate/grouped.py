"""Reading identities whole: the rows of a table by identity, with memory bounded by a bucket, and embedding columns
as arrays."""

from __future__ import annotations

import contextlib
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from idtool.engine.table import Table

BUCKET_ROWS = 32_768
MAX_BUCKETS = 256
"""Files open at once; beyond it buckets grow."""


def by_identity(table: Table, spool: Path, *, bucket_rows: int = BUCKET_ROWS) -> Iterator[pa.Table]:
    """Tables of whole identities sorted by identity, then id; identities in rising order. Rows of no identity are
    left out. A table of more than a bucket is first spread over files in `spool`, which are removed again."""
    sizes: Counter[str] = Counter()
    for batch in table.batches(["identity"], rows=65_536, kept_only=True):
        for entry in batch["identity"].value_counts().to_pylist():
            if entry["values"] is not None:
                sizes[entry["values"]] += entry["counts"]
    total = sizes.total()
    if not total:
        return
    if total <= bucket_rows:
        rows = table.read(kept_only=True)
        yield _sorted(rows.filter(pc.is_valid(rows["identity"])))
        return
    size = max(bucket_rows, -(-total // MAX_BUCKETS))
    bucket: dict[str, int] = {}
    before = 0
    for identity in sorted(sizes):
        bucket[identity] = before // size
        before += sizes[identity]
    shutil.rmtree(spool, ignore_errors=True)
    spool.mkdir(parents=True)
    try:
        with contextlib.ExitStack() as stack:
            writers: dict[int, pq.ParquetWriter] = {}
            for batch in table.batches(rows=8192, kept_only=True):
                place = np.array([bucket.get(value, -1) for value in batch["identity"].to_pylist()])
                for number in np.unique(place[place >= 0]).tolist():
                    if number not in writers:
                        path = spool / f"{number:06d}.parquet"
                        writers[number] = stack.enter_context(pq.ParquetWriter(path, batch.schema, compression="lz4"))
                    writers[number].write_table(batch.filter(pa.array(place == number)))
        for path in sorted(spool.glob("*.parquet")):
            yield _sorted(pq.read_table(path))
            path.unlink()
    finally:
        shutil.rmtree(spool, ignore_errors=True)


def _sorted(rows: pa.Table) -> pa.Table:
    return rows.sort_by([("identity", "ascending"), ("id", "ascending")]).combine_chunks()


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


def thumbs(column: pa.ChunkedArray) -> npt.NDArray[np.uint8] | None:
    """A column of square grey images as raw bytes -> (n, side, side) uint8, zeros for null; None where all are."""
    values = column.to_pylist()
    size = next((len(value) for value in values if value), 0)
    side = round(size**0.5)
    if side * side != size or not size:
        return None
    empty = bytes(size)
    data = b"".join(value if value and len(value) == size else empty for value in values)
    return np.frombuffer(data, np.uint8).reshape(len(values), side, side)
