"""The engine step that makes measures of samples, references or prompts."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa
from pydantic import Field

from idtool.engine.operator import Context, Operator, Resources, build, outcome_of, output_schema
from idtool.engine.step import Binding, Env, RowStep, Settings
from idtool.evaluate.measure_rows import MeasureRows, decode, run_through
from idtool.evaluate.measures.base import Image, Item, Measure, SampleItem
from idtool.manifest_folder import write_json
from idtool.models.resources import resources

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


class ItemRows(Operator):
    """Measures of what is no single picture."""

    def __init__(self, measures: Sequence[Measure], batch: int, need: Resources) -> None:
        self.measures, self.batch, self.resources = list(measures), batch, need
        self.writes = pa.schema([field for measure in measures for field in measure.writes])

    def config(self) -> dict[str, Any]:
        return {"measures": {measure.name: measure.config() for measure in self.measures}}

    def setup(self, context: Context) -> None:
        load_all(self.measures, context)

    def __call__(self, batch: pa.Table) -> pa.Table:
        results: list[dict[str, Any]] = batch.to_pylist()
        items = self.items(results)
        for start in range(0, len(items), self.batch):
            run_through(self.measures, items[start : start + self.batch], results)
        return build(results, output_schema(batch.schema, self.writes))

    @abstractmethod
    def items(self, rows: Sequence[dict[str, Any]]) -> list[tuple[int, Item]]:
        """What the measures get of each row, with its place; rows that cannot be looked at get their outcome."""


class TextRows(ItemRows):
    """Measures of texts: no picture is opened."""

    reads = ("id", "text")

    def items(self, rows: Sequence[dict[str, Any]]) -> list[tuple[int, Item]]:
        import numpy as np

        nothing = np.zeros((1, 1, 3), np.uint8)
        return [(k, Item(dict(row), nothing)) for k, row in enumerate(rows)]


class SampleRows(ItemRows):
    """Measures of an image together with its references and its prompt."""

    reads = ("id", "media", "references", "prompt")

    def setup(self, context: Context) -> None:
        import cv2

        cv2.setNumThreads(max(1, context.threads))
        self.store_root = Path(context.run_dir) / "media"
        super().setup(context)

    def items(self, rows: Sequence[dict[str, Any]]) -> list[tuple[int, Item]]:
        held: dict[str, Image | Exception] = {}
        found: list[tuple[int, Item]] = []
        for k, row in enumerate(rows):
            images: list[Image] = []
            for uri in (row["media"], *row["references"]):
                if uri not in held:
                    held[uri] = decode(uri, self.store_root, MAX_PIXELS)
                opened = held[uri]
                if isinstance(opened, Exception):
                    row.update(outcome_of(opened))
                    break
                images.append(opened)
            else:
                found.append((k, SampleItem(dict(row), images[0], references=tuple(images[1:]))))
        return found
