"""`idtool tune`: other thresholds tried on the values that a run has stored, in seconds and without a model."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from idtool.curate.facts import judged_as, settings
from idtool.curate.gate import Bound, GateSettings, verdicts
from idtool.curate.sweeps import Sweep, parse, resolve
from idtool.engine.operator import ERROR, KEPT
from idtool.errors import UsageError
from idtool.run import Run

Mask = npt.NDArray[np.bool_]
Places = npt.NDArray[np.int64]
MAX_CELLS = 10_000

UNKNOWN_NOTE = (
    "`unknown`: rows that the looser bound lets in, which later steps of this run have not seen; "
    "how many of them stay to the end is known only after running the recipe with it"
)
PAIR_NOTE = (
    "pairs: the pairs kept, and the candidates stored as examples of a rejection by this very bound, are judged anew; "
    "candidates that were not stored are missing where the bound is looser, and the limit of pairs per identity and "
    "the choice for diversity are not repeated"
)


def tune(run: Path, sweeps: Sequence[str]) -> dict[str, Any]:
    """Yields for other thresholds, from stored values.

    `sweeps`: `<gate>.<column>.<bound>=start:stop:step` or `=v1,v2`; the gate may be left out where one gate judges
    the column. Returns `{"run", "curves", "joint", "notes"}`. Every curve has `sweep, step, gate, column, bound,
    configured, doc, unit, points`; every point `value`, and in rows of the swept step's input: `measured`, `passing`
    (this bound alone), `at_step` (with the other gates of the step); and at the end of the image steps: `kept`
    (certain), `unknown`, `identities` (of the kept; None before `identify`). `joint` holds `values, kept, unknown,
    identities` for every combination when several bounds of gates are swept. Raises UsageError for a bad sweep.
    """
    opened = Run(run)
    found = [resolve(parse(text), opened) for text in sweeps]
    if not found:
        raise UsageError("No sweep given.", "For example: --sweep aesthetic.min=4.5:6.5:0.1")
    gates = [sweep for sweep in found if sweep.kind == "gate"]
    cells = math.prod(len(sweep.values) for sweep in gates) if len(gates) > 1 else 0
    if cells > MAX_CELLS:
        raise UsageError(f"{cells} combinations are more than {MAX_CELLS}.", "Give fewer values per sweep.")
    yields = _Yields(opened, gates) if gates else None
    curves, notes = [], []
    for sweep in found:
        if sweep.kind == "pair":
            points = _pair_points(opened, sweep)
            notes.append(PAIR_NOTE)
        else:
            assert yields is not None  # noqa: S101 - there is a sweep of a gate
            points = [yields.point(sweep, number) for number in range(len(sweep.values))]
            if any(point["unknown"] for point in points):
                notes.append(UNKNOWN_NOTE)
        curves.append({**sweep.describe(), "points": points})
    joint = []
    if yields is not None and len(gates) > 1:
        for numbers in itertools.product(*(range(len(sweep.values)) for sweep in gates)):
            values = {sweep.text: sweep.values[number] for sweep, number in zip(gates, numbers, strict=True)}
            joint.append({"values": values, **yields.count(dict(zip(gates, numbers, strict=True)))})
    return {"run": str(opened.path), "curves": curves, "joint": joint, "notes": list(dict.fromkeys(notes))}


@dataclass
class _Judged:
    """One swept gate step: which rows came in, which the run kept, and what each bound says of them."""

    index: int
    ids: pa.Array
    kept: Mask
    measured: Mask
    """False for rows that an error took out of the step."""
    configured: dict[tuple[str, str, str], Mask]
    swept: dict[Sweep, list[Mask]] = field(default_factory=dict)

    def passes(self, chosen: Mapping[Sweep, int]) -> Mask:
        """Rows that pass all gates of the step, with the chosen values in place of the configured ones."""
        result = self.measured.copy()
        replaced = {sweep.key for sweep in chosen if sweep.index == self.index}
        for key, mask in self.configured.items():
            if key not in replaced:
                result &= mask
        for sweep, number in chosen.items():
            if sweep.index == self.index:
                result &= self.swept[sweep][number]
        return result


class _Yields:
    """Joint yields of gate steps. Rows are followed from step to step by id, frames also by their video's."""

    def __init__(self, run: Run, sweeps: Sequence[Sweep]) -> None:
        self.steps = [_judged(run, index, sweeps) for index in sorted({sweep.index for sweep in sweeps})]
        last = _last_image_step(run)
        own = self.steps[-1].index == last
        table = run.step_table(last)
        columns = [name for name in ("id", "parent", "identity", "status") if name in table.schema.names]
        rows = table.read(columns)
        if not own:
            rows = rows.filter(pc.equal(rows["status"], KEPT))
        self.final_in = [_places(rows, step.ids) for step in self.steps]
        """For each swept step: where in it the rows are that are at the end of the image steps."""
        self.identities: Places | None = None
        self.identity_count = 0
        if "identity" in rows.column_names:
            coded = _flat(rows["identity"]).dictionary_encode()
            self.identity_count = len(coded.dictionary)
            # Rows of nobody have the last place, -1, of an array that is one longer.
            self.identities = pc.fill_null(pc.cast(coded.indices, pa.int64()), -1).to_numpy(zero_copy_only=False)
        self.own = own
        self.earlier = self._earlier(run)

    def _earlier(self, run: Run) -> dict[tuple[int, int], Places]:
        """(later step, earlier step) -> where the later one's rows are in the earlier one."""
        places = {}
        for later, step in enumerate(self.steps):
            table = run.step_table(step.index)
            columns = [name for name in ("id", "parent") if name in table.schema.names]
            rows = table.read(columns) if later else None
            for earlier in range(later):
                places[later, earlier] = _places(rows, self.steps[earlier].ids)
        return places

    def count(self, chosen: Mapping[Sweep, int]) -> dict[str, int | None]:
        """`kept`, `unknown` and `identities` with the chosen values, everything else as configured."""
        passes = [step.passes(chosen) for step in self.steps]
        final = np.ones(len(self.final_in[0]), np.bool_)
        for mask, places in zip(passes, self.final_in, strict=True):
            final &= _at(mask, places)
        unknown = 0
        for later, step in enumerate(self.steps):
            if self.own and later == len(self.steps) - 1:
                continue  # nothing comes after: its own verdict is final
            newly = passes[later] & ~step.kept
            for earlier in range(later):
                newly &= _at(passes[earlier], self.earlier[later, earlier])
            unknown += int(newly.sum())
        identities = None
        if self.identities is not None:
            found = np.zeros(self.identity_count + 1, np.bool_)
            found[self.identities[final]] = True
            identities = int(found[:-1].sum())
        return {"kept": int(final.sum()), "unknown": unknown, "identities": identities}

    def point(self, sweep: Sweep, number: int) -> dict[str, Any]:
        """One point of the curve of one sweep."""
        step = next(step for step in self.steps if step.index == sweep.index)
        return {
            "value": sweep.values[number],
            "measured": int(step.measured.sum()),
            "passing": int((step.swept[sweep][number] & step.measured).sum()),
            "at_step": int(step.passes({sweep: number}).sum()),
            **self.count({sweep: number}),
        }


def _judged(run: Run, index: int, sweeps: Sequence[Sweep]) -> _Judged:
    table = run.step_table(index)
    here = [sweep for sweep in sweeps if sweep.index == index]
    gates = GateSettings.model_validate(settings(run.entry(index))).gates
    names = set(table.schema.names)
    checks = [
        (gate, column, bound) for gate, columns in gates.items() for column, bound in columns.items() if column in names
    ]
    columns = {column for _, column, _ in checks} | {sweep.column for sweep in here}
    rows = table.read(["id", "status", *sorted(columns - {"id", "status"})])
    values = {column: _flat(rows[column]) for column in columns}
    configured = {}
    for gate, column, bound in checks:
        for name, limit in bound.model_dump(exclude_none=True).items():
            configured[gate, column, name] = _mask(values[column], Bound.model_validate({name: limit}))
    swept = {
        sweep: [_mask(values[sweep.column], Bound.model_validate({sweep.bound: value})) for value in sweep.values]
        for sweep in here
    }
    status = _flat(rows["status"])
    return _Judged(
        index,
        _flat(rows["id"]),
        pc.equal(status, KEPT).to_numpy(zero_copy_only=False),
        pc.not_equal(status, ERROR).to_numpy(zero_copy_only=False),
        configured,
        swept,
    )


def _mask(values: pa.Array, bound: Bound) -> Mask:
    result: Mask = np.ones(len(values), np.bool_)
    for passes, _ in verdicts(values, bound):
        result = result & passes.to_numpy(zero_copy_only=False)
    return result


def _flat(column: pa.ChunkedArray) -> pa.Array:
    return column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column


def _places(rows: pa.Table, ids: pa.Array) -> Places:
    """Where each row is among `ids`: by its own id, else by its parent's; -1 where it is not."""
    places = pc.index_in(rows["id"], ids)
    if "parent" in rows.column_names:
        places = pc.coalesce(places, pc.index_in(rows["parent"], ids, skip_nulls=True))
    found: Places = pc.fill_null(_flat(places), -1).to_numpy(zero_copy_only=False).astype(np.int64)
    return found


def _at(mask: Mask, places: Places) -> Mask:
    """The mask's value at each place; False for rows that are not there."""
    if not len(mask):
        return np.zeros(len(places), np.bool_)
    picked: Mask = mask[np.maximum(places, 0)] & (places >= 0)
    return picked


def _last_image_step(run: Run) -> int:
    """The last finished step whose rows are images: what comes before pairing."""
    last = 0
    for entry in run.steps:
        if entry["state"] == "done":
            if "a_id" in run.step_table(entry["index"]).schema.names:
                break
            last = entry["index"]
    return last


def _pair_points(run: Run, sweep: Sweep) -> list[dict[str, Any]]:
    """Points of a sweep over a bound of the pairing, on the stored candidates (see PAIR_NOTE)."""
    table = run.step_table(sweep.index)
    rows = table.read(list(dict.fromkeys(["identity", "branch", "status", "reason", "similarity", sweep.column])))
    branches = [name for name in pc.unique(rows["branch"]).to_pylist() if judged_as(name) in sweep.judges]
    rows = rows.filter(pc.is_in(rows["branch"], pa.array(branches, pa.string())))
    kept = pc.equal(rows["status"], KEPT)
    judged_by_it = pc.and_(pc.invert(kept), pc.match_substring_regex(pc.fill_null(rows["reason"], ""), sweep.reason))
    candidates = rows.filter(pc.or_(kept, judged_by_it))
    points = []
    for value in sweep.values:
        passes = _pair_mask(candidates, sweep, value)
        points.append(
            {
                "value": value,
                "measured": rows.num_rows,
                "passing": int(_pair_mask(rows, sweep, value).sum()),
                "at_step": int(passes.sum()),
                "kept": int(passes.sum()),
                "unknown": 0,
                "identities": len(pc.unique(candidates["identity"].filter(pa.array(passes)))),
            }
        )
    return points


def _pair_mask(rows: pa.Table, sweep: Sweep, value: float) -> Mask:
    """Which pairs pass with the swept bound at `value`. A copy test lets pass what it is not made of: pairs of lower
    similarity, and those without the value."""
    values = _flat(rows[sweep.column])
    passes = _mask(values, Bound.model_validate({sweep.bound: value}))
    if sweep.above is None:
        return passes
    similar = pc.fill_null(rows["similarity"], -1.0).to_numpy()
    passes |= values.is_null().to_numpy(zero_copy_only=False)
    passes |= similar < np.float32(sweep.above)
    return passes
