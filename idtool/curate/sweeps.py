"""Sweeps as a person writes them, `aesthetic.min=4.5:6.5:0.1`, and the threshold of a run that each one means."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa

from idtool.curate import facts
from idtool.curate.gate import GateSettings
from idtool.curate.histograms import is_number
from idtool.errors import UsageError
from idtool.registry import did_you_mean
from idtool.run import Run

BOUNDS = ("min", "max", "abs_max", "equals")
MAX_VALUES = 1_000
EXAMPLE = "For example: aesthetic.min=4.5:6.5:0.1 or pose.yaw.abs_max=30,45,60"


@dataclass(frozen=True)
class Parsed:
    """A sweep as written."""

    text: str
    path: tuple[str, ...]
    """What comes before the bound, e.g. `("pose", "yaw")`."""
    bound: str
    values: tuple[float, ...]


@dataclass(frozen=True)
class Sweep:
    """A threshold of one step of a run, and the values to try."""

    text: str
    kind: str
    """`gate` or `pair`."""
    index: int
    step: str
    gate: str
    column: str
    bound: str
    values: tuple[float, ...]
    configured: float | None
    doc: str = ""
    unit: str = ""
    branch: str = ""
    judges: tuple[str, ...] = ()
    """Of a pairing: the branches of the recipe whose pairs it judges."""
    above: float | None = None
    """Of a copy test: the identity similarity from which it is made."""

    @property
    def key(self) -> tuple[str, str, str]:
        return self.gate, self.column, self.bound

    @property
    def reason(self) -> str:
        """A pattern for the reasons of pairs that were rejected by this threshold and no other."""
        bounds = {"min": "(min|low)", "max": "(max|high)"}
        return rf"(^|\.){self.column}(\.{bounds.get(self.bound, self.bound)})?$"

    def describe(self) -> dict[str, Any]:
        names = ("step", "gate", "column", "bound", "configured", "doc", "unit", "branch")
        return {"sweep": self.text, **{name: getattr(self, name) for name in names}}


def parse(text: str) -> Parsed:
    """Raises UsageError for anything but `<path>.<bound>=start:stop:step` (both ends included) and `=v1,v2,…`."""
    left, equals, right = text.partition("=")
    *path, bound = left.strip().split(".")
    if not equals or not path or not all(path):
        raise UsageError(f"{text!r} is not a sweep.", EXAMPLE)
    if bound not in BOUNDS:
        raise UsageError(f"{text!r}: {bound!r} is not a bound.", did_you_mean(bound, BOUNDS))
    try:
        values = tuple(_values(right))
    except ValueError as error:
        raise UsageError(f"{text!r}: {error}.", EXAMPLE) from error
    return Parsed(text, tuple(path), bound, values)


def _values(text: str) -> Iterator[float]:
    if ":" not in text:
        numbers = [float(part) for part in text.split(",")]
    else:
        parts = [float(part) for part in text.split(":")]
        if len(parts) != 3:
            raise ValueError("a range is start:stop:step")
        start, stop, step = parts
        if not step or not all(math.isfinite(part) for part in parts) or (stop - start) / step < 0:
            raise ValueError("the step does not lead from start to stop")
        count = math.floor((stop - start) / step + 1e-9) + 1
        if count > MAX_VALUES:
            raise ValueError(f"{count} values are more than {MAX_VALUES}")
        numbers = [round(start + number * step, 10) for number in range(count)]
    if not all(math.isfinite(number) for number in numbers):
        raise ValueError("values must be finite")
    yield from numbers


def resolve(parsed: Parsed, run: Run) -> Sweep:
    """The threshold that is meant. Raises UsageError when the run has none of that name, or several."""
    gates = list(_gate_sweeps(parsed, run))
    pairs = [] if gates else list(_pair_sweeps(parsed, run))
    found = gates or pairs
    if len(found) > 1:
        # Written short, the one that is configured is meant rather than one that would be new.
        found = [sweep for sweep in found if sweep.configured is not None] or found
    if len(found) == 1:
        return found[0]
    if found:
        names = ", ".join(f"{sweep.step}.{sweep.gate}.{sweep.column}" for sweep in found)
        raise UsageError(f"{parsed.text!r} could mean {names}.", "Write step, gate and column.")
    raise _unknown(parsed, run)


def _gate_sweeps(parsed: Parsed, run: Run) -> Iterator[Sweep]:
    for entry, gates, schema in _gate_steps(run):
        path = _without_step(parsed.path, entry["name"])
        for gate, columns in gates.items():
            for column, bound in columns.items():
                named = (gate, column) == path or (column,) == path or ((gate,) == path and len(columns) == 1)
                if named and column in schema.names:
                    limit = getattr(bound, parsed.bound)
                    yield _sweep(parsed, "gate", entry, gate, schema.field(column), limit)


def _gate_steps(run: Run) -> Iterator[tuple[dict[str, Any], dict[str, Any], pa.Schema]]:
    for entry in run.steps:
        if entry["state"] == "done" and entry["kind"] == "gate":
            gates = GateSettings.model_validate(facts.settings(entry)).gates
            yield entry, gates, run.step_table(entry["index"]).schema


def _pair_sweeps(parsed: Parsed, run: Run) -> Iterator[Sweep]:
    for entry in run.steps:
        if entry["state"] != "done" or entry["kind"] != "pair":
            continue
        schema = run.step_table(entry["index"]).schema
        settings = facts.settings(entry)
        *where, column = _without_step(parsed.path, entry["name"])
        branches = settings.get("branches") or {}
        if column not in schema.names or not is_number(schema.field(column).type):
            continue
        field = schema.field(column)
        own = tuple(branch for branch, bounds in branches.items() if bounds.get("copy"))
        shared = tuple(branch for branch in branches if branch not in own)
        if where in ([], ["copy"]) and shared and column in facts.pair_copy(entry, shared[0]):
            yield _copy_sweep(parsed, entry, "copy", field, shared)
            continue
        for branch, bounds in branches.items():
            here: tuple[list[str], ...] = ([], [branch], ["branches", branch])
            if branch in own and column in facts.pair_copy(entry, branch):
                if where in (*here, ["copy"], [branch, "copy"], ["branches", branch, "copy"]):
                    yield _copy_sweep(parsed, entry, f"branches.{branch}.copy", field, (branch,))
            elif column in bounds and where in here:
                limit = facts.pair_bound(entry, branch, column, parsed.bound)
                yield _sweep(parsed, "pair", entry, f"branches.{branch}", field, limit, (branch,))


def _copy_sweep(parsed: Parsed, entry: dict[str, Any], gate: str, column: pa.Field, branches: tuple[str, ...]) -> Sweep:
    """A sweep over a bound of the copy test that these branches share."""
    test = facts.pair_copy(entry, branches[0])
    limit = (test[column.name] or {}).get(parsed.bound)
    return replace(_sweep(parsed, "pair", entry, gate, column, limit, branches), above=test.get("above", -1.0))


def _sweep(
    parsed: Parsed,
    kind: str,
    entry: dict[str, Any],
    gate: str,
    column: pa.Field,
    limit: Any,
    branches: tuple[str, ...] = (),
) -> Sweep:
    if not is_number(column.type):
        raise UsageError(f"{parsed.text!r}: column {column.name!r} is {column.type}, not a number.", EXAMPLE)
    metadata = column.metadata or {}
    return Sweep(
        text=parsed.text.partition("=")[0].strip(),
        kind=kind,
        index=entry["index"],
        step=entry["name"],
        gate=gate,
        column=column.name,
        bound=parsed.bound,
        values=parsed.values,
        configured=None if limit is None else float(limit),
        doc=metadata.get(b"doc", b"").decode(),
        unit=metadata.get(b"unit", b"").decode(),
        branch=branches[0] if len(branches) == 1 else "",
        judges=branches,
    )


def _without_step(path: tuple[str, ...], step: str) -> tuple[str, ...]:
    """The path without the step's name in front, which may hold a dot itself (`gate.2`)."""
    name = tuple(step.split("."))
    return path[len(name) :] if path[: len(name)] == name and len(path) > len(name) else path


def _unknown(parsed: Parsed, run: Run) -> UsageError:
    known: list[str] = []
    for entry, gates, schema in _gate_steps(run):
        for gate, columns in gates.items():
            for column in columns:
                if column in schema.names:
                    known.append(f"{gate}.{column}")
                elif parsed.path[-1] in (gate, column):
                    why = next((note for note in entry.get("notes") or [] if column in note), "no step wrote it")
                    return UsageError(f"{parsed.text!r}: {column!r} was not measured in this run: {why}.")
    name = ".".join(parsed.path)
    return UsageError(f"{run.path} has no threshold {name!r}.", did_you_mean(name, known, listed_as="It has"))
