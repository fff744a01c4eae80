"""Histograms of stored columns, with the bounds that gates set on them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from idtool.curate.gate import Bound

Row = dict[str, Any]
BINS = 36


def limits(bound: Bound) -> list[Row]:
    """The lines to draw for a bound: `value` and the text beside it."""
    lines = [{"value": float(bound.min), "text": f"≥ {bound.min:g}"}] if bound.min is not None else []
    if bound.max is not None:
        lines.append({"value": float(bound.max), "text": f"≤ {bound.max:g}"})
    if bound.abs_max is not None:
        lines += [{"value": sign * bound.abs_max, "text": f"{sign * bound.abs_max:g}"} for sign in (-1, 1)]
    if isinstance(bound.equals, int | float) and not isinstance(bound.equals, bool):
        lines.append({"value": float(bound.equals), "text": f"= {bound.equals:g}"})
    return lines


def histogram(column: pa.ChunkedArray, series: Mapping[str, Any], bounds: Sequence[Row]) -> Row:
    """Counts per bin and series. The range holds 99.6 % of the values and all bounds; the outer bins also hold what
    lies beyond. Small whole numbers get a bin each."""
    values = column.to_numpy().astype(np.float64)
    present = np.isfinite(values)
    masks = {name: np.asarray(mask.to_numpy(), dtype=np.bool_) for name, mask in series.items()}
    edges = _edges(values[present], [line["value"] for line in bounds], pa.types.is_integer(column.type))
    clipped = np.clip(values, edges[0], edges[-1])
    counts = {name: np.histogram(clipped[mask & present], edges)[0].tolist() for name, mask in masks.items()}
    return {
        "edges": [float(f"{edge:.6g}") for edge in edges],
        "series": counts,
        "bounds": list(bounds),
        "whole": bool(pa.types.is_integer(column.type)),
        "rows": len(values),
        "missing": int((~present).sum()),
    }


def _edges(values: npt.NDArray[np.float64], bounds: Sequence[float], whole: bool) -> npt.NDArray[np.float64]:
    if not len(values):
        return np.array([0.0, 1.0])
    low, high = np.quantile(values, [0.002, 0.998])
    low, high = min(low, *bounds, high), max(high, *bounds, low)
    if whole and high - low < BINS:
        return np.arange(np.floor(low) - 1, np.ceil(high) + 3) - 0.5
    margin = (high - low) * 0.03 or max(abs(high), 1.0) * 0.05
    return np.linspace(low - margin, high + margin, BINS + 1)


def is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind))
