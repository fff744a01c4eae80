"""Exact duplicates: rows with one id have the same bytes; all but the first by uri are rejected."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from idtool.engine.operator import KEPT, OUTCOME, REJECTED, with_column
from idtool.engine.table import Table

REASON = "duplicate.exact"
FIRST_COLUMNS = ("id", "uri", "name", "identity_label")


def mark_exact(table: Table, batches: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """`batches` of `table`, which have outcome columns, with each repeated id rejected but for one row.

    Two passes over narrow columns of `table` come first; they hold 8 bytes per row, and the rows that share an id.
    A row that was found a duplicate before takes part like a kept one, so that it comes back when the file it
    repeated is gone.
    """
    firsts = _firsts(table)
    repeated = pa.array(sorted(firsts), pa.string())
    seen: set[str] = set()
    for batch in batches:
        concerned = pc.or_(pc.is_in(batch["id"], repeated), pc.equal(batch["reason"].fill_null(""), REASON))
        yield _mark(batch, firsts, seen) if pc.any(concerned).as_py() else batch


def _firsts(table: Table) -> dict[str, dict[str, Any]]:
    """The first row by uri of every id that more than one row has."""
    digests = [_digests(batch["id"]) for batch in _contenders(table, ["id"])]
    values, counts = np.unique(np.concatenate([np.empty(0, np.int64), *digests]), return_counts=True)
    repeated = values[counts > 1]
    firsts: dict[str, dict[str, Any]] = {}
    if not len(repeated):
        return firsts
    columns = [name for name in FIRST_COLUMNS if name in table.schema.names]
    many: set[str] = set()
    for batch in _contenders(table, columns):
        for row in batch.filter(pa.array(np.isin(_digests(batch["id"]), repeated))).to_pylist():
            held = firsts.setdefault(row["id"], row)
            if held is not row:
                many.add(row["id"])
                if row["uri"] < held["uri"]:
                    firsts[row["id"]] = row
    return {key: firsts[key] for key in many}


def _contenders(table: Table, columns: list[str]) -> Iterator[pa.Table]:
    """Rows that are kept, or would be but for their copy."""
    judged = "status" in table.schema.names
    wanted = [*columns, "status", "reason"] if judged else columns
    for batch in table.batches(wanted, rows=65_536):
        yield batch.filter(_contends(batch)) if judged else batch


def _contends(batch: pa.Table) -> pa.ChunkedArray:
    return pc.or_(pc.equal(batch["status"], KEPT), pc.fill_null(pc.equal(batch["reason"], REASON), False))


def _digests(ids: pa.ChunkedArray) -> npt.NDArray[np.int64]:
    """A 64-bit digest of each id: ids that share one may differ, which the second pass settles."""
    return np.fromiter((hash(value) for value in ids.to_pylist()), np.int64, len(ids))


def _mark(batch: pa.Table, firsts: dict[str, dict[str, Any]], seen: set[str]) -> pa.Table:
    contends = _contends(batch).to_pylist()
    outcome: dict[str, list[Any]] = {name: batch[name].to_pylist() for name in OUTCOME.names}
    labels = batch["identity_label"].to_pylist() if "identity_label" in batch.column_names else [None] * len(contends)
    rows = zip(batch["id"].to_pylist(), batch["uri"].to_pylist(), labels, contends, strict=True)
    for k, (key, uri, label, contending) in enumerate(rows):
        if not contending:
            continue
        first = firsts.get(key)
        if first is None or (uri == first["uri"] and key not in seen):
            seen.update([key] if first else [])
            verdict: dict[str, Any] = {"status": KEPT}
        else:
            verdict = {"status": REJECTED, "reason": REASON, "message": _explain(first, label)}
        # A row that was kept stays as it is, its message included.
        if outcome["status"][k] != verdict["status"]:
            for name in OUTCOME.names:
                outcome[name][k] = verdict.get(name)
    for field in OUTCOME:
        batch = with_column(batch, field, pa.array(outcome[field.name], field.type))
    return batch


def _explain(first: dict[str, Any], label: str | None) -> str:
    text = f"same bytes as {first['uri']}"
    other = first.get("identity_label")
    if label != other:
        text += f", which is labelled {_quoted(other)} while this is labelled {_quoted(label)}"
    return text


def _quoted(label: str | None) -> str:
    return "as nobody" if label is None else repr(label)
