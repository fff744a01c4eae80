"""Scores of one metric as a matrix: a row for each sample, a column for each method, identities together."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from idtool.errors import UsageError
from idtool.evaluate.statistics.bootstrap import Floats, first_rows

ALL = ("all", "")
"""The slice that every sample is in."""
Slice = tuple[str, str]


@dataclass(frozen=True, eq=False)
class Matrix:
    """What methods scored. Rows are sorted by identity, then by sample."""

    parts: tuple[str, ...]
    """The metric, and further metrics that its number for a set is made of."""
    methods: tuple[str, ...]
    keys: npt.NDArray[Any]
    """(N,) ids of samples; of identities, for a metric of whole identities."""
    identities: npt.NDArray[Any]
    """(N,) the cluster of each row."""
    slices: npt.NDArray[Any]
    """(N,) JSON text of the slices of each row."""
    values: Floats
    """(P, N, M) of the parts; NaN where there is no score."""
    asked: npt.NDArray[np.bool_]
    """(N, M) whether the method was asked for the sample."""
    reasons: npt.NDArray[np.int64]
    """(N, M) index into `why` of why there is no score; -1: there is one, or the method was not asked."""
    why: tuple[str, ...] = ()

    @cached_property
    def starts(self) -> npt.NDArray[np.intp]:
        """The first row of each identity."""
        return first_rows(self.identities)

    @cached_property
    def scored(self) -> npt.NDArray[np.bool_]:
        """(N, M) whether the metric itself has a score."""
        return np.asarray(np.isfinite(self.values[0]))

    def rows(self, chosen: npt.NDArray[Any]) -> Matrix:
        """Some of the rows, by a mask or by ascending numbers."""
        return replace(
            self,
            keys=self.keys[chosen],
            identities=self.identities[chosen],
            slices=self.slices[chosen],
            values=self.values[:, chosen],
            asked=self.asked[chosen],
            reasons=self.reasons[chosen],
        )

    def columns(self, chosen: Sequence[int]) -> Matrix:
        """Some of the methods."""
        picked = list(chosen)
        return replace(
            self,
            methods=tuple(self.methods[k] for k in picked),
            values=self.values[:, :, picked],
            asked=self.asked[:, picked],
            reasons=self.reasons[:, picked],
        )

    def by_slice(self) -> Iterator[tuple[Slice, Matrix]]:
        """All samples, then those of each value of each slice, in alphabetical order."""
        yield ALL, self
        texts, place = np.unique(self.slices.astype(str), return_inverse=True)
        told = [json.loads(text or "{}") for text in texts]
        for name in sorted({key for one in told for key in one}):
            of_text = np.array([_label(one[name]) if name in one else "" for one in told], dtype=object)
            for value in sorted({one for one in of_text if one}):
                yield (name, value), self.rows((of_text == value)[place])

    def missing(self, method: int) -> dict[str, int]:
        """Reason -> rows that the method was asked for and has no score in, the most frequent first."""
        lost = self.reasons[self.asked[:, method], method]
        counts = np.bincount(lost[lost >= 0], minlength=len(self.why))
        order = sorted(np.flatnonzero(counts), key=lambda k: (-counts[k], self.why[k]))
        return {self.why[k]: int(counts[k]) for k in order}


def _label(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def read_matrix(path: Path, metrics: Sequence[str], methods: Sequence[str]) -> Matrix:
    """The scores of a metric, and of further ones that its number for a set is made of, from scores.parquet.

    Reads only those rows, so that memory is that of one metric. Methods without a row are left out. UsageError when a
    method has two scores for one sample.
    """
    import pyarrow.dataset as ds

    wanted = pc.field("metric").isin(list(metrics)) & pc.field("method").isin(list(methods))
    columns = ["metric", "method", "sample", "identity", "value", "missing", "slices"]
    table = ds.dataset(path, format="parquet").to_table(columns=columns, filter=wanted)
    metric_at, metric_of = _codes(table["metric"])
    method_at, method_of = _codes(table["method"])
    whole = pc.if_else(pc.is_valid(table["sample"]), table["sample"], table["identity"])
    key_at, keys = _codes(whole)
    # A sample has the same identity and the same slices whoever made it: its first row tells both.
    first = np.unique(key_at, return_index=True)[1]
    identity_at, identities = _codes(pc.fill_null(table["identity"], ""))
    slices_at, slices = _codes(pc.fill_null(table["slices"], "{}"))
    reason_at, why = _codes(table["missing"])
    order = np.lexsort((np.arange(len(keys)), identity_at[first]))
    place = np.empty(len(keys), np.int64)
    place[order] = np.arange(len(keys))
    present = [name for name in methods if name in method_of]
    method_at = np.array([present.index(name) for name in method_of], np.int64)[method_at]
    part_at = np.array([list(metrics).index(name) for name in metric_of], np.int64)[metric_at]
    shape = (len(metrics), len(keys), len(present))
    at = (part_at, place[key_at], method_at)
    if len(np.unique(np.ravel_multi_index(at, shape))) != len(key_at):
        raise UsageError(f"{path} has two scores of one sample, method and metric.", "Score again.")
    values, reasons, asked = np.full(shape, np.nan), np.full(shape, -1), np.zeros(shape, bool)
    values[at] = pc.fill_null(table["value"], np.nan).to_numpy()
    reasons[at] = reason_at
    asked[at] = True
    return Matrix(
        tuple(metrics),
        tuple(present),
        keys[order],
        identities[identity_at[first]][order],
        slices[slices_at[first]][order],
        values,
        asked[0],
        reasons[0],
        tuple(why.tolist()),
    )


def side_by_side(a: Matrix, b: Matrix) -> Matrix:
    """The rows of both, the columns of `a` and then those of `b`, as of other methods."""
    keys = np.array(sorted({*a.keys.tolist(), *b.keys.tolist()}), dtype=object)
    at = {key: k for k, key in enumerate(keys)}
    shape = (len(keys), len(a.methods) + len(b.methods))
    values = np.full((len(a.values), *shape), np.nan)
    asked, reasons = np.zeros(shape, bool), np.full(shape, -1)
    identities, slices = np.empty(len(keys), object), np.empty(len(keys), object)
    for one, left, shift in ((a, 0, 0), (b, len(a.methods), len(a.why))):
        rows = np.array([at[key] for key in one.keys.tolist()], np.int64)
        columns = slice(left, left + len(one.methods))
        values[:, rows, columns] = one.values
        asked[rows, columns] = one.asked
        reasons[rows, columns] = np.where(one.reasons >= 0, one.reasons + shift, -1)
        identities[rows], slices[rows] = one.identities, one.slices
    joined = Matrix(
        a.parts, (*a.methods, *b.methods), keys, identities, slices, values, asked, reasons, (*a.why, *b.why)
    )
    return joined.rows(np.lexsort((np.arange(len(keys)), identities.astype(str))))


def _codes(column: pa.ChunkedArray) -> tuple[npt.NDArray[np.int64], npt.NDArray[Any]]:
    """(N,) places in the sorted distinct values, -1 for null; and those values, as objects."""
    encoded = column.combine_chunks().dictionary_encode()
    if isinstance(encoded, pa.ChunkedArray):
        encoded = encoded.unify_dictionaries().combine_chunks()
    values = np.array(encoded.dictionary.to_pylist(), dtype=object)
    order = np.argsort(values.astype(str), kind="stable") if len(values) else np.empty(0, np.int64)
    place = np.empty(len(values) + 1, np.int64)
    place[order] = np.arange(len(values))
    place[-1] = -1
    codes = pc.fill_null(encoded.indices.cast(pa.int64()), len(values)).to_numpy(zero_copy_only=False)
    return place[codes], values[order]
