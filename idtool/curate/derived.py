"""Images that a step makes of images in the table: rows of their own beside the ones that they were made of, with the
columns that ingest gives, and measured as those were."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from idtool.curate.made import MADE
from idtool.engine.apply import INPUT_ID
from idtool.engine.operator import (
    Context,
    Operator,
    Row,
    is_fatal,
    is_out_of_memory,
    outcome_of,
    unchanged,
)
from idtool.engine.step import Binding, Env, RowStep
from idtool.evaluate.measure_rows import MeasureRows
from idtool.evaluate.measures import MEASURES
from idtool.evaluate.measures.base import Measure, in_order
from idtool.media.sources import SCHEMA as SOURCES
from idtool.models.resources import resources

Pixels = npt.NDArray[np.uint8]

NEW = pa.field("made_here", pa.bool_(), metadata={"doc": "whether the step has just made the row"})
"""Passes between the operators of one step only."""
ASKED = frozenset({"prompt", "group", "references", "people", "boxes"})
"""What a picture was made to show (`idtool.curate.dpo.columns`): a worse copy is to show the same."""
INHERITED = frozenset({*SOURCES.names, *ASKED, "identity", "identity_how", "time_ms", "shot", INPUT_ID}) - {"id"}
"""What a new row has of its parent: whom it shows, when, and where that comes from. Everything else was told of other
pixels."""


class Derives(RowStep):
    """A step that makes images. Rows of other kinds than `image` pass as they are."""

    needs: ClassVar[tuple[str, ...]] = ("id", "kind", "media", "width", "height")

    def __init__(self, settings: Any, env: Env) -> None:
        super().__init__(settings, env)
        self._measures: list[Measure] = []

    def reads(self, available: Mapping[str, pa.Field]) -> tuple[str, ...]:
        """Also settles which measures are made of the new images: those whose columns are there."""
        if self.remeasures:
            self._measures = measures_of(available, self.env)
        return self.needs

    @property
    def remeasures(self) -> bool:
        return bool(getattr(self.settings, "remeasure", True))

    def writes(self, available: Mapping[str, pa.Field]) -> pa.Schema:
        return MADE

    def models(self) -> list[Binding]:
        return [binding for measure in self._measures for binding in measure.bindings()]

    def config(self) -> dict[str, Any]:
        # How many at a time, and where, changes no value.
        return {"settings": self.settings.model_dump(mode="json", exclude={"gpus"})}

    def measuring(self) -> list[Operator]:
        """The operators that measure the new rows; none where nothing is measured."""
        if not self._measures:
            return []
        need = resources(self.env, self.models(), self.settings.gpus)
        return [Remeasure(MeasureRows(self._measures, {}, 8, self.settings.max_pixels, need))]


class Remeasure(Operator):
    """Measures the new rows and leaves the others alone."""

    def __init__(self, measure: MeasureRows) -> None:
        self.measure = measure
        self.reads, self.writes, self.resources = (NEW.name, *measure.reads), measure.writes, measure.resources

    def config(self) -> dict[str, Any]:
        return self.measure.config()

    def setup(self, context: Context) -> None:
        self.measure.setup(context)

    def __call__(self, batch: pa.Table) -> pa.Table:
        new, old = new_and_old(batch)
        parts = [unchanged(old, self.writes)]
        if new.num_rows:
            parts.append(self.measure(new).select(parts[0].column_names))
        return pa.concat_tables(parts)


def measures_of(available: Iterable[str], env: Env) -> list[Measure]:
    """The measures of images whose columns are all there and whose models the profile has, ready to be loaded."""
    columns = set(available)
    found = [
        cls
        for _, cls in MEASURES.items()
        if cls.kind == "image" and columns.issuperset(cls.writes.names) and cls.why_not(env) is None
    ]
    return [cls.made(env) for cls in in_order(found)]


def new_and_old(batch: pa.Table) -> tuple[pa.Table, pa.Table]:
    """The rows that the step has made, and those that it found."""
    new = pc.fill_null(batch[NEW.name], False)
    return batch.filter(new), batch.filter(pc.invert(new))


def derived_id(parent: str, origin: str, *told: Any) -> str:
    """The id of what a step makes of a row: the same from the same row, settings and models, whatever the pixels."""
    text = json.dumps([parent, origin, *told], sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def child_of(row: Row, new: str, origin: str) -> Row:
    """The new row of that id, with what it has of its parent."""
    child: Row = {name: None for name in row if name not in INHERITED}
    return child | {"id": new, "kind": "image", "origin": origin, "parent": row["id"], NEW.name: True}


def attempt(row: Row, new: str, origin: str, make: Callable[[], Row]) -> Row:
    """The new row with the columns that `make` gives. What `make` raises is the outcome of the new row; the row that
    it was to be made of stays."""
    child = child_of(row, new, origin)
    try:
        return child | make()
    except Exception as error:
        if is_fatal(error) or is_out_of_memory(error):
            raise
        return child | outcome_of(error)


def pixels_of(media: str, store_root: Path, max_pixels: int) -> Pixels:
    """The image behind a reference, RGB (H, W, 3). Raises Rejected as `images.decode`."""
    from idtool.media import images, store
    from idtool.media.limits import Limits

    limits = Limits(max_pixels=max_pixels, max_bytes=sys.maxsize)
    return images.decode(store.open_bytes(media, store_root), limits)


def stored(pixels: Pixels, store: Any, format: Literal["jpeg", "png"] = "jpeg", quality: int = 95) -> Row:
    """RGB (H, W, 3) in the media store, as the columns that ingest gives."""
    from idtool.media import images

    data = images.encode(np.ascontiguousarray(pixels), format, quality)
    height, width = pixels.shape[:2]
    return {
        "media": store.put(data, ".jpg" if format == "jpeg" else ".png"),
        "format": format,
        "bytes": len(data),
        "width": width,
        "height": height,
        "short_side": min(width, height),
    }
