"""The `gate` step: structured thresholds on measured columns (DESIGN §5).

    resolution: {short_side: {min: 768}}
    pose: {yaw: {abs_max: 60}, pitch: {abs_max: 35}}

A row that fails is rejected with the reason `<gate>.<column>`, the value and the bound it was judged by; the first
failing gate in the order of the recipe decides. The values themselves stay in the table, so any other threshold can
be tried on them later without a model.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from functools import reduce
from typing import Any, ClassVar

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import BaseModel, ConfigDict, Field, model_validator

from idtool.engine.operator import KEPT, OUTCOME, REJECTED
from idtool.engine.step import Env, Settings, TableContext, TableStep
from idtool.engine.table import Table
from idtool.errors import UsageError
from idtool.registry import did_you_mean

Scalar = bool | int | float | str


class Bound(BaseModel):
    """What a column's value must satisfy; all that are given must hold. A null or NaN value satisfies nothing."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    min: int | float | None = None
    """Smallest value that passes."""
    max: int | float | None = None
    """Largest value that passes."""
    abs_max: float | None = Field(default=None, ge=0)
    """Largest absolute value that passes."""
    equals: Scalar | None = None
    one_of: tuple[Scalar, ...] | None = None
    not_null: bool | None = None
    """True: any value passes, no value does not."""

    @model_validator(mode="after")
    def _consistent(self) -> Bound:
        if not self.model_fields_set:
            raise ValueError(f"give at least one of {', '.join(type(self).model_fields)}")
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError(f"min {self.min} is above max {self.max}: no value can pass")
        return self

    @property
    def active(self) -> bool:
        """False when every bound is null (`{min: null}`): the check is switched off."""
        return any(value is not None and value is not False for value in self.model_dump().values())

    @property
    def numeric(self) -> bool:
        return any(value is not None for value in (self.min, self.max, self.abs_max))


class GateSettings(Settings):
    """`<gate name>: {<column>: <bound>}`, any number of gates, judged in this order."""

    model_config = ConfigDict(extra="allow", frozen=True)
    __pydantic_extra__: dict[str, dict[str, Bound]]

    @model_validator(mode="after")
    def _gates(self) -> GateSettings:
        if not self.__pydantic_extra__:
            raise ValueError("a gate step needs at least one gate, e.g. resolution: {short_side: {min: 768}}")
        empty = [name for name, columns in self.__pydantic_extra__.items() if not columns]
        if empty:
            raise ValueError(f"gate {empty[0]!r} judges no column")
        return self

    @property
    def gates(self) -> dict[str, dict[str, Bound]]:
        return dict(self.__pydantic_extra__)


class Gate(TableStep):
    """Keeps the rows whose measured values are within bounds. Streams the table; memory is one batch."""

    kind = "gate"
    Settings: ClassVar[type[Settings]] = GateSettings
    summary = "keep rows whose measured values are within bounds"
    selects_only = True

    settings: GateSettings

    def __init__(self, settings: GateSettings, env: Env) -> None:
        super().__init__(settings, env)

    def checks(self) -> Iterator[tuple[str, str, Bound]]:
        """(gate, column, bound) of every check that can be made here, in order."""
        for gate, columns in self.settings.gates.items():
            for column, bound in columns.items():
                if bound.active and column not in self.missing:
                    yield gate, column, bound

    def skip_reason(self) -> str | None:
        if any(True for _ in self.checks()):
            return None
        notes = self.notes()
        return "; ".join(notes) if notes else "all of its bounds are null"

    def reads(self, available: Mapping[str, pa.Field]) -> tuple[str, ...]:
        """The judged columns. UsageError for a column that no step before writes, or that is no number but is
        held against one."""
        for gate, column, bound in self.checks():
            if column not in available:
                raise UsageError(
                    f"Gate {gate!r} judges column {column!r}, which no step before it writes.",
                    did_you_mean(column, sorted({*available, *self.missing}), listed_as="Columns here"),
                )
            kind = available[column].type
            if bound.numeric and not (pa.types.is_integer(kind) or pa.types.is_floating(kind)):
                raise UsageError(
                    f"Gate {gate!r} holds column {column!r} against a number, but it is {kind}.",
                    "Use equals, one_of or not_null for it.",
                )
        return tuple(dict.fromkeys(column for _, column, _ in self.checks()))

    def notes(self) -> list[str]:
        return [
            f"gate {gate}.{column} is skipped: {self.missing[column]}"
            for gate, columns in self.settings.gates.items()
            for column, bound in columns.items()
            if bound.active and column in self.missing
        ]

    def run(self, table: Table, context: TableContext) -> Iterable[pa.Table]:
        checks = list(self.checks())
        for batch in table.batches(kept_only=True):
            yield judge(batch, checks)


def judge(batch: pa.Table, checks: Iterable[tuple[str, str, Bound]]) -> pa.Table:
    """The rows with outcome columns added: rejected with the first check (in order) that they fail, else kept."""
    rows = batch.num_rows
    outcome: dict[str, Any] = {name: pa.nulls(rows, OUTCOME.field(name).type) for name in OUTCOME.names}
    outcome["status"] = pa.repeat(KEPT, rows)
    undecided = pa.repeat(True, rows)
    for gate, column, bound in checks:
        values = batch[column].combine_chunks()
        for passes, threshold in verdicts(values, bound):
            fails = pc.and_(undecided, pc.invert(passes))
            if not pc.any(fails).as_py():
                continue
            undecided = pc.and_(undecided, passes)
            found = {
                "status": REJECTED,
                "reason": f"{gate}.{column}",
                "value": _number(values),
                "threshold": threshold,
                "message": _message(column, values, threshold),
            }
            outcome = {name: pc.if_else(fails, found[name], held) for name, held in outcome.items()}
    for field in OUTCOME:
        batch = batch.append_column(field, outcome[field.name].cast(field.type))
    return batch


def verdicts(values: pa.Array, bound: Bound) -> Iterator[tuple[pa.Array, str]]:
    """For each bound that is set: which values pass (a boolean without nulls) and the bound in words."""
    tests: list[tuple[Any, str]] = []
    if bound.min is not None:
        tests.append((pc.greater_equal(values, _alike(bound.min, values)), f">= {_plain(bound.min)}"))
    if bound.max is not None:
        tests.append((pc.less_equal(values, _alike(bound.max, values)), f"<= {_plain(bound.max)}"))
    if bound.abs_max is not None:
        limit = _alike(bound.abs_max, values)
        tests.append((pc.less_equal(pc.abs(values), limit), f"|x| <= {_plain(bound.abs_max)}"))
    if bound.equals is not None:
        tests.append((_any_equal(values, [bound.equals]), f"== {_plain(bound.equals)}"))
    if bound.one_of is not None:
        tests.append((_any_equal(values, bound.one_of), f"one of {', '.join(_plain(v) for v in bound.one_of)}"))
    if bound.not_null:
        tests.append((pc.true_unless_null(values), "not null"))
    present = _present(values)
    for passes, threshold in tests:
        yield pc.and_(pc.fill_null(passes, False), present), threshold


def _present(values: pa.Array) -> pa.Array:
    """Neither null nor NaN. (NaN would pass an equality with itself in `one_of`, and a bound on its negation.)"""
    return pc.invert(pc.is_null(values, nan_is_null=pa.types.is_floating(values.type)))


def _any_equal(values: pa.Array, accepted: Iterable[Scalar]) -> pa.Array:
    """Whether each value equals one of `accepted`; a value of another kind (text against a number) equals none."""
    nothing = pa.repeat(False, len(values))
    matches = []
    for scalar in accepted:
        alike = pa.types.is_string(values.type) == isinstance(scalar, str) and (
            pa.types.is_boolean(values.type) == isinstance(scalar, bool)
        )
        matches.append(pc.equal(values, _alike(scalar, values)) if alike else nothing)
    return reduce(pc.or_, matches, nothing)


def _alike(scalar: Scalar, values: pa.Array) -> Any:
    """The bound as the column would store it: a float32 0.4 is a little more than 0.4 and must pass `max: 0.4`."""
    if pa.types.is_floating(values.type):
        return pa.scalar(float(scalar), pa.float64()).cast(values.type)
    return scalar


def _number(values: pa.Array) -> pa.Array:
    if pa.types.is_integer(values.type) or pa.types.is_floating(values.type) or pa.types.is_boolean(values.type):
        # Via int8, because a boolean casts to no float.
        return (values.cast(pa.int8()) if pa.types.is_boolean(values.type) else values).cast(pa.float64(), safe=False)
    return pa.nulls(len(values), pa.float64())


def _message(column: str, values: pa.Array, threshold: str) -> pa.Array:
    shown = values
    if pa.types.is_floating(values.type):
        shown = pc.round(values.cast(pa.float64()), 4)
    if pa.types.is_nested(values.type) or pa.types.is_binary(values.type):
        shown = pc.if_else(pc.is_null(values), pa.scalar(None, pa.string()), "a value")
    text = pc.binary_join_element_wise(f"{column} is ", shown.cast(pa.string()), f", must be {threshold}", "")
    missing = f"no value for {column}, must be {threshold}"
    return pc.if_else(_present(values), text, missing)


def _plain(value: Scalar) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
