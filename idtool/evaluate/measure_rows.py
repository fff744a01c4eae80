"""The operator of the `measure` step: one decode per image, decoded ahead while models run, all measures on it."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa

from idtool.engine.local import available_cpus
from idtool.engine.operator import OUTCOME, Context, Operator, Resources, is_fatal, is_out_of_memory, outcome_of
from idtool.evaluate.measures.base import Image, Item, Measure, Values

DECODERS, MOST_DECODERS = 2, 16
"""Threads that decode ahead, per call: beside models on the CPU, and at most, where an accelerator waits for them."""
PIXEL_BUDGET = 48_000_000
"""Decoded pixels held at once, per call (144 MB of RGB); a larger image is held alone."""

Decoded = Image | Exception


class MeasureRows(Operator):
    """Runs measures in the given order on the images of the rows."""

    def __init__(
        self,
        measures: Sequence[Measure],
        where: Mapping[str, Any],
        batch: int,
        max_pixels: int,
        resources: Resources | None = None,
    ) -> None:
        self.measures = list(measures)
        self.resources = resources or Resources()
        self.where = {name: _as_set(value) for name, value in where.items()}
        self.batch, self.max_pixels = batch, max_pixels
        written = {name for measure in measures for name in measure.writes.names}
        needed = [name for measure in measures for name in measure.reads if name not in written]
        self.reads = tuple(dict.fromkeys(["id", "media", "width", "height", *where, *needed]))
        self.uses = [name for measure in measures for name in measure.uses if name not in written]
        self.writes = pa.schema([field for measure in measures for field in measure.writes])

    def config(self) -> dict[str, Any]:
        return {"measures": {measure.name: measure.config() for measure in self.measures}}

    def setup(self, context: Context) -> None:
        import cv2

        # Workers are the parallelism; OpenCV would start a thread per core in each of them.
        cv2.setNumThreads(max(1, context.threads))
        self.store_root = Path(context.run_dir) / "media"
        accelerated = self.resources.gpus > 0 or context.device.startswith("cuda")
        self.decoders = min(MOST_DECODERS, max(DECODERS, available_cpus())) if accelerated else DECODERS
        self.load_measures(context)

    def load_measures(self, context: Context) -> None:
        """Get the networks ready."""
        for measure in self.measures:
            measure.load(context)

    def __call__(self, batch: pa.Table) -> pa.Table:
        columns = [name for name in [*self.reads, *self.uses] if name in batch.column_names]
        rows = batch.select(columns).to_pylist()
        results: list[dict[str, Any]] = [{} for _ in rows]
        chosen = [k for k, row in enumerate(rows) if self._wanted(row)]
        ahead = DecodeAhead(partial(self._decode, rows), [pixels_of(rows[k]) for k in chosen], chosen, self.decoders)
        with ahead:
            for chunk in ahead.chunks(self.batch):
                run_through(self.measures, self._items(chunk, rows, results), results)
        return self._assemble(batch, results)

    def _wanted(self, row: Mapping[str, Any]) -> bool:
        return all(row[name] in accepted for name, accepted in self.where.items())

    def _decode(self, rows: Sequence[Mapping[str, Any]], k: int) -> Decoded:
        return decode(rows[k]["media"], self.store_root, self.max_pixels)

    def _items(
        self, chunk: list[tuple[int, Decoded]], rows: Sequence[Mapping[str, Any]], results: list[dict[str, Any]]
    ) -> list[tuple[int, Item]]:
        """What could be decoded; empties the chunk, so that images live no longer than their items."""
        items: list[tuple[int, Item]] = []
        while chunk:
            k, image = chunk.pop()
            if isinstance(image, Exception):
                results[k].update(outcome_of(image))
            else:
                items.append((k, Item(rows[k], image)))
        return items[::-1]

    def _assemble(self, batch: pa.Table, results: list[dict[str, Any]]) -> pa.Table:
        for result in results:
            result.setdefault("status", "kept")
        added = pa.schema([*self.writes, *OUTCOME])
        batch = batch.drop_columns([name for name in added.names if name in batch.column_names])
        for field in added:
            batch = batch.append_column(field, pa.array([row.get(field.name) for row in results], field.type))
        return batch


def decode(media: str, store_root: Path, max_pixels: int) -> Decoded:
    """The image behind a `media` reference, or why there is none."""
    from idtool.media import images, store
    from idtool.media.limits import Limits

    try:
        # How many bytes a file may have was judged at ingest.
        return images.decode(store.open_bytes(media, store_root), Limits(max_pixels=max_pixels, max_bytes=sys.maxsize))
    except Exception as error:
        if is_fatal(error) or is_out_of_memory(error):
            raise
        return error


def call(measure: Measure, items: Sequence[Item]) -> Sequence[Values | Exception]:
    """The measure on all items at once; if that fails, one by one, so that only the faulty item is lost."""
    if not items:
        return []
    try:
        return measure(items)
    except Exception as error:
        if is_fatal(error) or is_out_of_memory(error):
            raise
        if len(items) == 1:
            return [error]
        return [call(measure, [item])[0] for item in items]


def run_through(
    measures: Sequence[Measure], items: Sequence[tuple[int, Item]], results: Sequence[dict[str, Any]]
) -> None:
    """Every measure on the items, each with its place in `results`, which gets the columns or the outcome. An item on
    which a measure fails takes no part in what follows, and keeps what it has."""
    for measure in measures:
        left: list[tuple[int, Item]] = []
        for (k, item), value in zip(items, call(measure, [item for _, item in items]), strict=True):
            if isinstance(value, Exception):
                results[k].update(outcome_of(value))
            else:
                item.values.update(value)
                results[k].update(value)
                left.append((k, item))
        items = left


class DecodeAhead:
    """Decodes jobs in order in a few threads, never holding more than two batches nor `PIXEL_BUDGET` pixels."""

    def __init__(self, decode: Any, pixels: Sequence[int], jobs: Sequence[int], threads: int = DECODERS) -> None:
        self._decode, self._pixels, self._jobs = decode, pixels, jobs
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="decode")
        self._next = 0
        self._held = 0
        self._running: deque[tuple[int, Future[Decoded]]] = deque()

    def __enter__(self) -> DecodeAhead:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(cancel_futures=True)

    def chunks(self, size: int) -> Iterator[list[tuple[int, Decoded]]]:
        """(job, image or the exception) in order, up to `size` at a time; while the caller works on a chunk, the
        next is decoded. The images of a chunk must be let go before the next chunk is asked for."""
        while self._next < len(self._jobs) or self._running:
            self._fill(2 * size)
            chunk: list[tuple[int, Decoded]] = []
            weight = 0
            # Half of the budget for the models, half for the decoders.
            while self._running and len(chunk) < size and (not chunk or weight < PIXEL_BUDGET // 2):
                position, future = self._running.popleft()
                chunk.append((self._jobs[position], future.result()))
                weight += self._pixels[position]
                self._fill(2 * size, taken=len(chunk))
            yield chunk
            self._held -= weight

    def _fill(self, limit: int, taken: int = 0) -> None:
        while self._next < len(self._jobs) and len(self._running) + taken < limit:
            pixels = self._pixels[self._next]
            if self._held and self._held + pixels > PIXEL_BUDGET:
                return
            self._running.append((self._next, self._pool.submit(self._decode, self._jobs[self._next])))
            self._held += pixels
            self._next += 1


def pixels_of(row: Mapping[str, Any]) -> int:
    """How many pixels an image has by its header; a guess where that was not read."""
    return int(row.get("width") or 1024) * int(row.get("height") or 1024)


def _as_set(value: Any) -> frozenset[Any]:
    return frozenset(value) if isinstance(value, list | tuple) else frozenset([value])
