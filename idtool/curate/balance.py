"""The `balance` step: keeps so many rows of each sort that their shares are as asked, and says what is missing.

    quotas:
      - {columns: [gender], target: uniform}
      - {columns: [age], bins: {age: [0, 18, 30, 45, 60, 120]}, target: {0..18: 0.1, 18..30: 0.3, …}}
      - {columns: [expression], cap: 5000}

Quotas hold side by side: a row is kept when each of them has room for it. Several columns in one quota are crossed.
Surplus rows are rejected as `balance.<columns>=<cell>`. Instruct Identity balances "humans, animals, anthropomorphic
characters, and animated objects" (section 3.3); DMID and DynamicID ask for variety of age, gender and ethnicity.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field, model_validator

from idtool.curate import quotas
from idtool.curate.quotas import UNKNOWN, Cells, Ints
from idtool.engine.operator import KEPT, OUTCOME, REJECTED
from idtool.engine.step import Env, Settings, TableContext, TableStep
from idtool.engine.table import Table
from idtool.errors import UsageError
from idtool.registry import did_you_mean

MOST_CELLS = 10_000
"""Cells of one quota; more is a mistake in what is crossed."""


class Quota(Settings):
    """Shares of a total (`target`), or upper limits (`cap`), of the cells of one or several crossed columns."""

    columns: tuple[str, ...] = Field(min_length=1)
    bins: Mapping[str, tuple[float, ...]] = Field(default_factory=dict)
    """Column of numbers -> rising bounds, whose intervals are the cells; values outside of all are unknown."""
    values: Mapping[str, tuple[str, ...]] = Field(default_factory=dict)
    """Column -> the values that count, others being unknown; left out: those that occur."""
    target: Literal["uniform"] | Mapping[str, float] | None = None
    """`uniform`, or cell -> share, of sum 1; cells that are not named, or unknown, get none."""
    cap: int | Mapping[str, int] | None = None
    """Most rows of each cell, or of the cells named; rows whose cell is unknown pass."""

    @model_validator(mode="after")
    def _sound(self) -> Quota:
        if (self.target is None) == (self.cap is None):
            raise ValueError(f"quota of {'/'.join(self.columns)}: give either target or cap")
        for column in (*self.bins, *self.values):
            if column not in self.columns:
                raise ValueError(f"bins or values name {column!r}, which is not among the quota's columns")
        for column, bounds in self.bins.items():
            if len(bounds) < 2 or list(bounds) != sorted(set(bounds)):
                raise ValueError(f"bins of {column!r} are two or more rising numbers. Got {list(bounds)}")
        if isinstance(self.target, Mapping):
            total = sum(self.target.values())
            if min(self.target.values(), default=-1) < 0 or abs(total - 1) > 1e-6:
                raise ValueError(
                    f"shares of {'/'.join(self.columns)} are at least 0 and sum to 1. Their sum is {total:g}"
                )
        caps = self.cap.values() if isinstance(self.cap, Mapping) else [self.cap or 0]
        if min(caps, default=0) < 0:
            raise ValueError(f"caps of {'/'.join(self.columns)} are at least 0")
        return self


class BalanceSettings(Settings):
    quotas: tuple[Quota, ...] = Field(min_length=1)
    total: int | None = Field(default=None, ge=1)
    """Rows that the shares are shares of. null: the most for which no cell that occurs is short."""
    prefer: str | None = None
    """Column of numbers: within a cell, rows of higher values are kept first, then by a hash of id and seed."""


class Balance(TableStep):
    """Streams the table twice; in memory are some 20 bytes a row and quota."""

    kind = "balance"
    Settings: ClassVar[type[Settings]] = BalanceSettings
    summary = "keep rows in the shares asked for, by any columns"
    selects_only = True

    settings: BalanceSettings

    def __init__(self, settings: BalanceSettings, env: Env) -> None:
        super().__init__(settings, env)

    def held(self) -> list[Quota]:
        """The quotas whose columns are made here."""
        return [quota for quota in self.settings.quotas if not any(name in self.missing for name in quota.columns)]

    def skip_reason(self) -> str | None:
        return None if self.held() else "; ".join(self.notes())

    def notes(self) -> list[str]:
        lost = {name: quota for quota in self.settings.quotas for name in quota.columns if name in self.missing}
        told = [f"quota {'/'.join(quota.columns)} is left out: {self.missing[name]}" for name, quota in lost.items()]
        if (prefer := self.settings.prefer) and prefer in self.missing:
            told.append(f"{prefer} decides nothing: {self.missing[prefer]}")
        return told

    def reads(self, available: Mapping[str, pa.Field]) -> tuple[str, ...]:
        """UsageError for a column that no step before writes, or whose values make no cells."""
        asked = [(name, quota) for quota in self.held() for name in quota.columns]
        for name, quota in asked:
            if name not in available:
                hint = did_you_mean(name, sorted({*available, *self.missing}), listed_as="Columns here")
                raise UsageError(f"Step 'balance' counts column {name!r}, which no step before it writes.", hint)
            kind = available[name].type
            number = pa.types.is_integer(kind) or pa.types.is_floating(kind)
            if name in quota.bins and not number:
                raise UsageError(f"Bins are given for column {name!r}, but it is {kind}.", "Leave its bins out.")
            if name not in quota.bins and not _is_plain(kind):
                raise UsageError(f"Column {name!r} is {kind}: its values make no cells.", "Give `bins` for it.")
        return tuple(dict.fromkeys(["id", *(name for name, _ in asked), *self._preferred()]))

    def _preferred(self) -> list[str]:
        prefer = self.settings.prefer
        return [prefer] if prefer and prefer not in self.missing else []

    def run(self, table: Table, context: TableContext) -> Iterable[pa.Table]:
        held, columns = self.held(), _Columns()
        for batch in table.batches(list(self.reads(_fields(table))), rows=65_536, kept_only=True):
            columns.add(batch, held, self._preferred(), context.seed)
        cells = self._cells(held, columns)
        result = quotas.choose(cells, columns.order()) if columns.rows else np.zeros(0, np.int64)
        context.statistics.update(_statistics(cells, result))
        supplies = [part.supply for part in cells]
        start = 0
        for batch in table.batches(kept_only=True):
            yield _judged(batch, cells, supplies, result[start : start + batch.num_rows], start)
            start += batch.num_rows

    def _cells(self, held: list[Quota], columns: _Columns) -> list[Cells]:
        sorts = []
        for number, quota in enumerate(held):
            told = quota.target if quota.cap is None else quota.cap
            named = list(told) if isinstance(told, Mapping) else []
            labels, cell = quotas.crossed([columns.coded(number, quota, name) for name in quota.columns], named)
            if len(labels) > MOST_CELLS:
                names = "/".join(quota.columns)
                raise UsageError(f"Quota {names} has {len(labels)} cells.", "Cross fewer columns, or give bins.")
            sorts.append((quota, labels, cell))
        shares = {k: quotas.shares_of(labels, q.target) for k, (q, labels, _) in enumerate(sorts) if q.target}
        total = self.settings.total
        if total is None and shares:
            supplies = {k: np.bincount(sorts[k][2], minlength=len(sorts[k][1])) for k in shares}
            total = min(quotas.largest_total(supplies[k].astype(np.int64), shares[k]) for k in shares)
        found = []
        for k, (quota, labels, cell) in enumerate(sorts):
            most = quotas.shared_out(total or 0, shares[k]) if k in shares else quotas.caps_of(labels, quota.cap or 0)
            found.append(Cells(quota.columns, labels, cell, most, k in shares))
        return found


class _Columns:
    """The columns of the table that matter, as codes."""

    def __init__(self) -> None:
        self.rows = 0
        self._codes: dict[tuple[int, str], list[Ints]] = {}
        self._seen: dict[tuple[int, str], dict[str, int]] = {}
        self._preferred: list[Any] = []
        self._ties: list[Any] = []

    def add(self, batch: pa.Table, held: list[Quota], preferred: list[str], seed: int) -> None:
        self.rows += batch.num_rows
        self._ties.append(quotas.tie_breaks(batch["id"].to_pylist(), seed))
        for name in preferred:
            value = batch[name].cast(pa.float64()).to_numpy()
            self._preferred.append(np.nan_to_num(value, nan=-np.inf))
        for number, quota in enumerate(held):
            for name in quota.columns:
                key, column = (number, name), batch[name].combine_chunks()
                if name in quota.bins:
                    values = column.cast(pa.float64()).to_numpy(zero_copy_only=False)
                    codes = quotas.interval_of(values, quota.bins[name])
                else:
                    codes = self._coded(column, self._seen.setdefault(key, {}))
                self._codes.setdefault(key, []).append(codes)

    @staticmethod
    def _coded(column: pa.Array, seen: dict[str, int]) -> Ints:
        text = pc.fill_null(column.cast(pa.string()), UNKNOWN).dictionary_encode()
        known = np.array([seen.setdefault(value, len(seen)) for value in text.dictionary.to_pylist()], np.int64)
        return known[np.asarray(text.indices)] if len(known) else np.zeros(len(column), np.int64)

    def coded(self, number: int, quota: Quota, name: str) -> tuple[list[str], Ints]:
        """The labels of a column, `unknown` the last, and the index of each row's."""
        codes = np.concatenate(self._codes.get((number, name), [np.zeros(0, np.int64)]))
        if name in quota.bins:
            return [*quotas.intervals(quota.bins[name]), UNKNOWN], codes
        seen = self._seen.get((number, name), {})
        labels = [*(quota.values[name] if name in quota.values else sorted(set(seen) - {UNKNOWN})), UNKNOWN]
        place = {label: k for k, label in enumerate(labels)}
        known = np.array([place.get(value, len(labels) - 1) for value in seen], np.int64)
        return labels, known[codes] if len(codes) else codes

    def order(self) -> Ints:
        """All rows, those to be preferred first."""
        ties = np.concatenate(self._ties)
        if not self._preferred:
            return np.argsort(ties, kind="stable")
        return np.lexsort((ties, -np.concatenate(self._preferred)))


def _is_plain(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_integer(kind) or pa.types.is_boolean(kind))


def _fields(table: Table) -> dict[str, pa.Field]:
    return {field.name: field for field in table.schema}


def _statistics(cells: list[Cells], result: Ints) -> dict[str, Any]:
    """`rows`, `kept`; per quota every cell's counts; and in words what could not be filled."""
    taken = result < 0
    told = {"/".join(part.columns): part.account(taken) for part in cells}
    unfilled = [
        f"{name}={label}: {cell['kept']} of {cell['wanted']}"
        for name, found in told.items()
        for label, cell in found.items()
        if "short" in cell
    ]
    return {"rows": len(result), "kept": int(taken.sum()), "quotas": told, "unfilled": unfilled}


def _judged(batch: pa.Table, cells: list[Cells], supplies: list[Ints], result: Ints, start: int) -> pa.Table:
    """The rows with outcome columns: those that are taken kept, the others with the quota that had no room."""
    outcome: dict[str, list[Any]] = {name: [None] * batch.num_rows for name in OUTCOME.names}
    outcome["status"] = [KEPT if number < 0 else REJECTED for number in result.tolist()]
    for k in np.flatnonzero(result >= 0).tolist():
        number = int(result[k])
        part, cell = cells[number], int(cells[number].cell[start + k])
        name, most = f"{'/'.join(part.columns)}={part.labels[cell]}", int(part.most[cell])
        outcome["reason"][k], outcome["threshold"][k] = f"balance.{name}", f"<= {most}"
        outcome["value"][k] = float(supplies[number][cell])
        outcome["message"][k] = f"one of {supplies[number][cell]} rows of {name}, of which {most} are kept at most"
    for field in OUTCOME:
        batch = batch.append_column(field, pa.array(outcome[field.name], field.type))
    return batch
