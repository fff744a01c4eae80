"""The `charis` step: how well the second picture of a pair shows the subject of the first, axis by axis (Instruct
Identity, Algorithm 2 in filter mode). The first picture is the reference, the second the generated one, its prompt T.

Networks and formulas are those of evaluation: measures look, metrics `charis_…` count. Nothing is rejected here: bounds
are the matter of step `charis_gate`, so that another bound asks no judge again.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import pyarrow as pa
from pydantic import Field

from idtool.engine.operator import Context, Operator, Row, build, outcome_of, output_schema
from idtool.engine.step import Binding, Env, RowStep, Settings
from idtool.evaluate.measure_rows import call, decode
from idtool.evaluate.measures.base import Image, Item, Measure, SampleItem, column
from idtool.evaluate.metrics.base import Unscored
from idtool.evaluate.metrics.charis import AXES, Charis, CharisAlg2, CharisFilter
from idtool.evaluate.samples import MADE, Sample
from idtool.evaluate.scoring import with_needs
from idtool.media.limits import PILLOW_MAX_PIXELS
from idtool.models.resources import Gpus, resources

MODES: Mapping[str, type[Charis]] = {"filter": CharisFilter, "alg2": CharisAlg2}
COLUMNS: Mapping[str, str] = {**{axis: f"charis_{axis}" for axis in AXES}, "score": "charis_filter"}
"""Axis, or `score` -> its column."""
WRITES = pa.schema(
    [
        *(column(COLUMNS[axis], pa.float32(), cls.summary, "[0, 1]") for axis, cls in AXES.items()),
        column(COLUMNS["score"], pa.float32(), "weighted geometric mean of the axes that have a number", "[0, 1]"),
        column("charis_why", pa.string(), "why axes have no number, a line each"),
        column("charis_reasons", pa.string(), "what the judge gave as its reasons on the identity, a line each"),
    ]
)
SLICES = {"human": "person", "anthropomorphic": "character"}
"""Class of a subject -> what ColorScore's lists of parts call it; the others have the same name there."""


class CharisSettings(Settings):
    mode: Literal["filter", "alg2"] = "filter"
    """`filter`: id, prompt, color, quality and diversity, weights .3 .2 .2 .1 .2. `alg2`: without the prompt, as line
    12 of Algorithm 2 has it, though the text filters by it. The weights are ours in both."""
    batch: int = Field(default=8, ge=1)
    """Pairs per call of a network."""
    max_pixels: int = Field(default=100_000_000, ge=1, le=PILLOW_MAX_PIXELS)
    gpus: Gpus = None


class CharisStep(RowStep):
    """An axis whose networks the profile has not is left out with its weight, and says so."""

    kind = "charis"
    Settings: ClassVar[type[Settings]] = CharisSettings
    summary = "score pairs by CHARIS: identity, prompt, colour, quality, diversity"
    shard_rows = 8  # a judge's votes on a pair are slow: what a killed run loses at most

    settings: CharisSettings

    def __init__(self, settings: CharisSettings, env: Env) -> None:
        super().__init__(settings, env)
        self._lost = {axis: why for axis in MODES[settings.mode].weights if (why := _why_not(axis, env))}

    def axes(self) -> list[str]:
        """The axes that can be scored under the profile."""
        return [axis for axis in MODES[self.settings.mode].weights if axis not in self._lost]

    def skip_reason(self) -> str | None:
        return None if self.axes() else "; ".join(dict.fromkeys(self._lost.values()))

    def notes(self) -> list[str]:
        return [f"axis {axis} is left out: {why}" for axis, why in self._lost.items()]

    def provides_none(self) -> Mapping[str, str]:
        lost = dict(self._lost)
        if not self.axes():
            lost["score"] = str(self.skip_reason())
        return {COLUMNS[axis]: why for axis, why in lost.items()}

    def reads(self, available: Mapping[str, pa.Field]) -> tuple[str, ...]:
        return ScorePairs.reads

    def writes(self, available: Mapping[str, pa.Field]) -> pa.Schema:
        out = {COLUMNS[axis] for axis in AXES if axis not in self.axes()}
        return pa.schema([field for field in WRITES if field.name not in out])

    def config(self) -> dict[str, Any]:
        return {"settings": {"mode": self.settings.mode}}

    def models(self) -> list[Binding]:
        found = (binding for one in self._measures() for binding in one.bindings())
        return list({(one.role, one.model): one for one in found}.values())

    def operators(self) -> list[Operator]:
        need = resources(self.env, self.models(), self.settings.gpus)
        score = ScorePairs(self._measures(), self.axes(), self.settings, self.writes({}))
        score.resources = need
        return [score]

    def _measures(self) -> list[Measure]:
        parts = [AXES[axis]() for axis in self.axes()]
        return [cls.made(self.env) for cls in with_needs(name for one in parts for name in (*one.image, *one.prompt))]


def _why_not(axis: str, env: Env) -> str | None:
    metric = AXES[axis]()
    needs = with_needs((*metric.image, *metric.prompt))
    return next((why for cls in needs if (why := cls.why_not(env))), None)


class ScorePairs(Operator):
    """The axes of each pair."""

    reads = ("id", "a_media", "b_media", "b_prompt")

    def __init__(
        self, measures: Sequence[Measure], axes: Sequence[str], settings: CharisSettings, writes: pa.Schema
    ) -> None:
        self.measures, self.axes, self.settings, self.writes = list(measures), list(axes), settings, writes

    def config(self) -> dict[str, Any]:
        metrics = {axis: [AXES[axis].version, AXES[axis]().settings()] for axis in self.axes}
        return {"measures": {one.name: one.config() for one in self.measures}, "axes": metrics}

    def setup(self, context: Context) -> None:
        import cv2

        cv2.setNumThreads(max(1, context.threads))
        self.store_root = Path(context.run_dir) / "media"
        for one in self.measures:
            one.load(context)

    def __call__(self, batch: pa.Table) -> pa.Table:
        rows = batch.to_pylist()
        out: list[Row] = []
        for start in range(0, len(rows), self.settings.batch):
            out += self._scored(rows[start : start + self.settings.batch])
        return build(out, output_schema(batch.schema, self.writes))

    def _scored(self, rows: Sequence[Row]) -> list[Row]:
        held: dict[str, Image | Exception] = {}
        for row in rows:
            for name in (row["a_media"], row["b_media"]):
                if name not in held:
                    held[name] = decode(name, self.store_root, self.settings.max_pixels)
        seen: list[dict[str, Any] | Exception] = [
            next((one for one in (held[row["a_media"]], held[row["b_media"]]) if isinstance(one, Exception)), {})
            for row in rows
        ]
        for measure in self.measures:
            at = [k for k, one in enumerate(seen) if not isinstance(one, Exception)]
            found = call(measure, [self._item(measure, rows[k], held, seen[k]) for k in at])
            for k, values in zip(at, found, strict=True):
                before = seen[k]
                assert not isinstance(before, Exception)  # noqa: S101 - `at` leaves them out
                seen[k] = values if isinstance(values, Exception) else {**before, **values}
        return [
            {**row, **(outcome_of(one) if isinstance(one, Exception) else self._values(row, one))}
            for row, one in zip(rows, seen, strict=True)
        ]

    def _item(self, measure: Measure, row: Row, held: Mapping[str, Any], seen: Any) -> Item:
        """What a measure looks at: the second picture, its prompt, or it beside the first."""
        told = {"prompt": row["b_prompt"] or "", "text": row["b_prompt"] or "", "slices": _slices(row)}
        image = held[row["b_media"]]
        if measure.kind == "sample":
            return SampleItem(told, image, dict(seen), references=(held[row["a_media"]],))
        return Item(told, image, dict(seen))

    def _values(self, row: Row, seen: Mapping[str, Any]) -> Row:
        sample = Sample({"id": row["id"], "outcome": MADE, "prompt": row["b_prompt"]}, seen, ({},), seen)
        out: Row = {}
        why: list[str] = []
        for axis in self.axes:
            try:
                out[COLUMNS[axis]] = AXES[axis]()(sample)
            except Unscored as reason:
                why.append(f"{axis}: {reason}")
        try:
            out[COLUMNS["score"]] = MODES[self.settings.mode]()(sample)
        except Unscored as reason:
            why.append(f"score: {reason}")
        return {**out, "charis_why": "\n".join(why) or None, "charis_reasons": seen.get("judge_identity_reasons")}


def _slices(row: Row) -> str | None:
    name = row.get("subject_class")
    return json.dumps({"class": SLICES.get(name, name)}) if name else None
