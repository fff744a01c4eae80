"""The engine step that makes measures of samples, references or prompts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa
from pydantic import Field

from idtool.engine.operator import Context, Operator, Resources, build, outcome_of, output_schema
from idtool.engine.step import Binding, Env, RowStep, Settings
from idtool.evaluate.measure_rows import MeasureRows, call, decode
from idtool.evaluate.measures.base import Image, Item, Measure, SampleItem
from idtool.models.resources import resources
from idtool.run import write_json

MAX_PIXELS = 100_000_000


class LookSettings(Settings):
    batch: int = Field(default=16, ge=1)
    """Images per model call."""


class Look(RowStep):
    """Makes measures of one kind, given as classes in the order of their dependence."""

    kind = "look"
    Settings: ClassVar[type[Settings]] = LookSettings
    summary = "look at samples with the networks that metrics need"

    settings: LookSettings

    def __init__(self, settings: LookSettings, env: Env, measures: tuple[type[Measure], ...]) -> None:
        super().__init__(settings, env)
        self._made = [cls.made(env) for cls in measures]
        # What a killed run loses at most: judges of samples are slow, images are not.
        self.shard_rows = 8 if any(one.kind == "sample" for one in self._made) else 64

    def reads(self, available: Mapping[str, pa.Field]) -> tuple[str, ...]:
        own = {name for one in self._made for name in one.writes.names}
        return tuple(dict.fromkeys(name for one in self._made for name in one.reads if name not in own))

    def writes(self, available: Mapping[str, pa.Field]) -> pa.Schema:
        return pa.schema([field for one in self._made for field in one.writes])

    def config(self) -> dict[str, Any]:
        return {}  # the operator says all; batch changes no value

    def models(self) -> list[Binding]:
        return [binding for one in self._made for binding in one.bindings()]

    def operators(self) -> list[Operator]:
        need = resources(self.env, self.models())
        kinds = {one.kind for one in self._made}
        if kinds == {"image"}:
            return [LookRows(self._made, {}, self.settings.batch, MAX_PIXELS, need)]
        if kinds == {"text"}:
            return [TextRows(self._made, self.settings.batch, need)]
        return [SampleRows(self._made, self.settings.batch, need)]


def load_all(measures: Sequence[Measure], context: Context) -> None:
    """Every measure's network, and what it says of itself, for `feature.json`."""
    for measure in measures:
        measure.load(context)
        facts: dict[str, Any] = {}
        for name, model in measure.networks().items():
            told = getattr(model, "fingerprint", None)
            if callable(told):
                facts |= told() if name == measure.role else {name: told()}
        write_json(_facts_file(context, measure), facts)


def _facts_file(context: Context, measure: Measure) -> Path:
    folder = Path(context.run_dir) / "models"
    folder.mkdir(parents=True, exist_ok=True)
    return folder / f"{measure.name}.json"


class LookRows(MeasureRows):
    """Measures of images."""

    def load_measures(self, context: Context) -> None:
        load_all(self.measures, context)


class TextRows(Operator):
    """Measures of texts: no picture is opened."""

    reads = ("id", "text")

    def __init__(self, measures: Sequence[Measure], batch: int, need: Resources) -> None:
        self.measures, self.batch, self.resources = list(measures), batch, need
        self.writes = pa.schema([field for measure in measures for field in measure.writes])

    def config(self) -> dict[str, Any]:
        return {"measures": {measure.name: measure.config() for measure in self.measures}}

    def setup(self, context: Context) -> None:
        load_all(self.measures, context)

    def __call__(self, batch: pa.Table) -> pa.Table:
        rows = batch.to_pylist()
        items = [Item(row, _NOTHING) for row in rows]
        return build(_through(self.measures, items, rows, self.batch), output_schema(batch.schema, self.writes))


class SampleRows(Operator):
    """Measures of an image together with its references and its prompt."""

    reads = ("id", "media", "references", "prompt")

    def __init__(self, measures: Sequence[Measure], batch: int, need: Resources) -> None:
        self.measures, self.batch, self.resources = list(measures), batch, need
        self.writes = pa.schema([field for measure in measures for field in measure.writes])

    def config(self) -> dict[str, Any]:
        return {"measures": {measure.name: measure.config() for measure in self.measures}}

    def setup(self, context: Context) -> None:
        import cv2

        cv2.setNumThreads(max(1, context.threads))
        self.store_root = Path(context.run_dir) / "media"
        load_all(self.measures, context)

    def __call__(self, batch: pa.Table) -> pa.Table:
        rows = batch.to_pylist()
        results: list[dict[str, Any]] = [dict(row) for row in rows]
        held: dict[str, Image | Exception] = {}
        items: list[SampleItem] = []
        places: list[int] = []
        for k, row in enumerate(rows):
            pictures = [row["media"], *row["references"]]
            for uri in pictures:
                if uri not in held:
                    held[uri] = decode(uri, self.store_root, MAX_PIXELS)
            opened = [held[uri] for uri in pictures]
            broken = next((one for one in opened if isinstance(one, Exception)), None)
            if broken is not None:
                results[k].update(outcome_of(broken))
                continue
            images = [one for one in opened if not isinstance(one, Exception)]
            items.append(SampleItem(row, images[0], references=tuple(images[1:])))
            places.append(k)
        made = _through(self.measures, items, [rows[k] for k in places], self.batch)
        for k, row in zip(places, made, strict=True):
            results[k] = row
        return build(results, output_schema(batch.schema, self.writes))


def _through(
    measures: Sequence[Measure], items: Sequence[Item], rows: Sequence[Mapping[str, Any]], size: int
) -> list[dict[str, Any]]:
    """The rows with what every measure says of them; one that fails keeps what it had."""
    out: list[dict[str, Any]] = [dict(row) for row in rows]
    for start in range(0, len(items), size):
        left = list(enumerate(items))[start : start + size]
        for measure in measures:
            values = call(measure, [item for _, item in left])
            still = []
            for (k, item), value in zip(left, values, strict=True):
                if isinstance(value, Exception):
                    out[k].update(outcome_of(value))
                else:
                    item.values.update(value)
                    out[k].update(value)
                    still.append((k, item))
            left = still
    return out


def _nothing() -> Image:
    import numpy as np

    return np.zeros((1, 1, 3), np.uint8)


_NOTHING = _nothing()
