"""The `charis_gate` step: bounds on the axes that step `charis` wrote (Instruct Identity: "Only samples passing
stringent criteria for identity consistency, prompt adherence, and transformation diversity are retained").

The paper prints no threshold. A bound is a number, or a quantile of the values in the table, which calibrates itself to
judge and generator; without bounds the step only reports how the values are spread. No model is loaded: other bounds on
the same values cost seconds.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
from pydantic import Field

from idtool.curate.charis import COLUMNS
from idtool.engine.operator import KEPT, OUTCOME, REJECTED
from idtool.engine.step import Env, Settings, TableContext, TableStep
from idtool.engine.table import Table
from idtool.errors import UsageError

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


class Least(Settings):
    """The least value that passes; with both, the higher of the two counts."""

    min: float | None = Field(default=None, ge=0, le=1)
    quantile: float | None = Field(default=None, ge=0, lt=1)
    """Of the values in the table: .3 lets the upper 70 % pass."""


class CharisGateSettings(Settings):
    id: Least = Least()
    prompt: Least = Least()
    """(VLM + CLIP) / 2 with the raw cosine: about .66 at best."""
    color: Least = Least()
    quality: Least = Least()
    diversity: Least = Least()
    score: Least = Least()
    """CHARIS in filter mode, the weighted geometric mean of the axes."""
    unscored: bool = False
    """Whether rows pass that have no value where one is asked for."""

    def asked(self) -> dict[str, Least]:
        """Axis -> its bound, of those that have one."""
        bounds = {name: getattr(self, name) for name in COLUMNS}
        return {name: one for name, one in bounds.items() if one.min is not None or one.quantile is not None}


class CharisGate(TableStep):
    """Rejects `charis.<axis>` with the value and the bound. Reads the table twice; holds a number per row and axis."""

    kind = "charis_gate"
    Settings: ClassVar[type[Settings]] = CharisGateSettings
    summary = "keep pairs whose CHARIS axes are high enough"
    selects_only = True

    settings: CharisGateSettings

    def __init__(self, settings: CharisGateSettings, env: Env) -> None:
        super().__init__(settings, env)

    def _judged(self) -> list[str]:
        return [name for name in COLUMNS if COLUMNS[name] not in self.missing]

    def skip_reason(self) -> str | None:
        return None if self._judged() else "; ".join(dict.fromkeys(self.missing[COLUMNS[name]] for name in COLUMNS))

    def reads(self, available: Mapping[str, pa.Field]) -> tuple[str, ...]:
        if lost := [name for name in self._judged() if COLUMNS[name] not in available]:
            raise UsageError(
                f"Step 'charis_gate' judges column {COLUMNS[lost[0]]!r}, which no step before it writes.",
                "Put `- step: charis` before it.",
            )
        return tuple(COLUMNS[name] for name in self._judged())

    def notes(self) -> list[str]:
        return [
            f"charis.{name} is not judged: {self.missing[COLUMNS[name]]}"
            for name in self.settings.asked()
            if COLUMNS[name] in self.missing
        ]

    def run(self, table: Table, context: TableContext) -> Iterable[pa.Table]:
        values = self._values(table)
        bounds = {
            name: bound
            for name, least in self.settings.asked().items()
            if name in values and (bound := _bound(least, values[name])) is not None
        }
        context.statistics.update(bounds=bounds, axes={name: _spread(found) for name, found in values.items()})
        for batch in table.batches(kept_only=True):
            yield self._gated(batch, bounds)

    def _values(self, table: Table) -> dict[str, Any]:
        names = [COLUMNS[name] for name in self._judged()]
        found: dict[str, list[Any]] = {name: [] for name in self._judged()}
        for batch in table.batches(names, rows=65_536, kept_only=True):
            for name, held in found.items():
                held.append(batch[COLUMNS[name]].cast(pa.float64()).to_numpy())
        return {name: np.concatenate(held) if held else np.zeros(0) for name, held in found.items()}

    def _gated(self, batch: pa.Table, bounds: Mapping[str, float]) -> pa.Table:
        outcomes = [self._outcome(row, bounds) for row in batch.select([COLUMNS[name] for name in bounds]).to_pylist()]
        if not bounds:
            outcomes = [{"status": KEPT}] * batch.num_rows
        for field in OUTCOME:
            batch = batch.append_column(field, pa.array([one.get(field.name) for one in outcomes], field.type))
        return batch

    def _outcome(self, row: Mapping[str, Any], bounds: Mapping[str, float]) -> dict[str, Any]:
        """The first axis that fails decides."""
        for name, reason, value, message in self._failures(row, bounds):
            threshold = f">= {bounds[name]:.4g}"
            return {"status": REJECTED, "reason": reason, "value": value, "threshold": threshold, "message": message}
        return {"status": KEPT}

    def _failures(
        self, row: Mapping[str, Any], bounds: Mapping[str, float]
    ) -> Iterator[tuple[str, str, float | None, str]]:
        for name, bound in bounds.items():
            value = row[COLUMNS[name]]
            if value is None and not self.settings.unscored:
                yield name, f"charis.{name}", None, f"no value for {COLUMNS[name]}; charis_why says why"
            elif value is not None and value < np.float32(bound):
                yield name, f"charis.{name}", value, f"{COLUMNS[name]} is {value:.4g}, must be >= {bound:.4g}"


def _bound(least: Least, values: Any) -> float | None:
    """The bound that counts; None where only a quantile is asked for and there are no values."""
    known = values[~np.isnan(values)]
    found = [least.min] if least.min is not None else []
    if least.quantile is not None and len(known):
        found.append(float(np.quantile(known, least.quantile)))
    return max(found, default=None)


def _spread(values: Any) -> dict[str, Any]:
    known = values[~np.isnan(values)]
    spread = {f"{q:g}": round(float(np.quantile(known, q)), 4) for q in QUANTILES} if len(known) else {}
    return {"scored": len(known), "unscored": int(len(values) - len(known)), "quantiles": spread}
