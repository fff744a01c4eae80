"""Planning: which columns each step finds and leaves, which steps are skipped and why, and what is already done."""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

from idtool.engine.apply import INPUT_ID
from idtool.engine.fingerprint import fingerprint
from idtool.engine.operator import OUTCOME
from idtool.engine.step import RowStep, Step
from idtool.errors import UsageError


@dataclass
class Planned:
    """A step of a recipe with what planning found out about it."""

    index: int
    name: str
    step: Step
    own: dict[str, Any] = field(default_factory=dict)
    """What the step itself contributes to fingerprints: settings, operators, models, code versions."""
    schema: pa.Schema = field(default_factory=lambda: pa.schema([]))
    """Schema of the step's table, outcome columns and `input_id` included."""
    carried: tuple[str, ...] = ()
    """Columns of the sources, which rows carry along: a change in them makes another row."""
    skipped: str | None = None
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Upstream:
    """What a step's result depends on: how its input's values were made, and which rows there are."""

    content: str
    digest: str

    def after(self, planned: Planned) -> str:
        """Fingerprint of the step's result on this input."""
        return fingerprint(planned.own, self.content, self.digest)

    def content_after(self, planned: Planned) -> str:
        """How the values in the step's table come about, leaving out steps that only select rows."""
        if planned.step.selects_only:
            return self.content
        if isinstance(planned.step, RowStep):
            return fingerprint(planned.own, self.content)
        return self.after(planned)


def plan_steps(steps: Sequence[tuple[str, Step]], columns: pa.Schema) -> list[Planned]:
    """Walk the recipe: `columns` is what the sources give. Raises UsageError for a column that nobody writes."""
    available = {f.name: f for f in columns if f.name not in OUTCOME.names}
    carried = tuple(name for name in available if name != "id")
    missing: dict[str, str] = {}
    planned: list[Planned] = []
    for index, (name, step) in enumerate(steps, start=1):
        step.missing = dict(missing)
        entry = Planned(index, name, step, carried=carried, skipped=step.skip_reason())
        planned.append(entry)
        missing.update(step.provides_none())
        if entry.skipped:
            continue
        for column in step.reads(available):
            if column not in available:
                raise UsageError(*_unreadable(name, column, available, missing))
        writes = step.writes(available)
        kept = [] if step.new_table else [f for f in available.values() if f.name not in writes.names]
        available = {f.name: f for f in [*kept, *writes]}
        missing = {column: why for column, why in missing.items() if column not in available}
        entry.schema = pa.schema([*available.values(), *OUTCOME, pa.field(INPUT_ID, pa.string())])
        entry.notes = step.notes()
        entry.own = _own(step)
    return planned


def _unreadable(name: str, column: str, available: Mapping[str, Any], missing: Mapping[str, str]) -> tuple[str, str]:
    if column in missing:
        return f"Step {name!r} needs column {column!r}, which is not made here: {missing[column]}.", (
            "Leave the step out, or choose another --profile."
        )
    close = difflib.get_close_matches(column, available, 1)
    hint = f"Did you mean {close[0]!r}?" if close else "Add the step that measures it before this one."
    return f"Step {name!r} reads column {column!r}, which no step before it writes.", hint


def _own(step: Step) -> dict[str, Any]:
    own: dict[str, Any] = {"kind": step.kind, "version": step.version, **step.config()}
    if isinstance(step, RowStep):
        own["operators"] = [
            {"name": type(operator).__name__, "version": operator.version, "config": operator.config()}
            for operator in step.operators()
        ]
    own["seed"] = step.env.seed
    plain: dict[str, Any] = json.loads(json.dumps(own, default=str))
    return plain


def stored_entry(step_dir: Path) -> dict[str, Any] | None:
    """The manifest entry of a step that was completed, or None."""
    try:
        entry: dict[str, Any] = json.loads((step_dir / "step.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return entry


def differences(old: Any, new: Any, path: str = "") -> list[str]:
    """What changed between two fingerprinted contents, as `settings.clarity.sharpness.min: 40 -> 60`."""
    if isinstance(old, dict) and isinstance(new, dict):
        keys = [*old, *(key for key in new if key not in old)]
        return [
            line for key in keys for line in differences(old.get(key), new.get(key), f"{path}.{key}" if path else key)
        ]
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        pairs = enumerate(zip(old, new, strict=True))
        return [line for i, (a, b) in pairs for line in differences(a, b, f"{path}[{i}]")]
    return [] if old == new else [f"{path}: {old} -> {new}"]


def done_entry(planned: Planned, run_dir: Path) -> dict[str, Any] | None:
    """The stored entry of a step whose results are all still in the run, or None."""
    stored = stored_entry(step_dir(run_dir, planned.index, planned.name))
    return stored if stored is not None and planned.step.is_in_place(run_dir) else None


def step_dir(run_dir: Path, index: int, name: str) -> Path:
    """Where a step keeps its table."""
    return run_dir / "steps" / f"{index:02d}-{name}"


def state_of(planned: Sequence[Planned], run_dir: Path, sources: Upstream | None) -> list[tuple[str, str]]:
    """For each step `(state, why)`: `skipped`, `done`, `run`, or `depends` when it hangs on what runs before it."""
    states: list[tuple[str, str]] = []
    upstream = sources
    cause = "its input"
    for entry in planned:
        stored = done_entry(entry, run_dir)
        if entry.skipped:
            states.append(("skipped", entry.skipped))
        elif upstream is None and stored is not None and not differences(stored["own"], entry.own):
            states.append(("depends", f"runs again for the rows that {cause} changes, if any"))
        elif stored is None:
            states.append(("run", "not done yet"))
            upstream, cause = None, entry.name
        elif differences(stored["own"], entry.own):
            states.append(("run", "; ".join(differences(stored["own"], entry.own)[:3])))
            upstream, cause = None, entry.name
        elif upstream is not None and stored["fingerprint"] != upstream.after(entry):
            states.append(("run", "its input changed"))
            upstream, cause = None, entry.name
        else:
            states.append(("done", f"{stored['kept']} rows kept"))
            upstream = Upstream(stored["content"], stored["digest"])
    return states
