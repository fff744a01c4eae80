"""Scoring of a benchmark's folder: every method's samples are looked at, metrics are made, tables are written."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa

from idtool.engine.table import Table, file_writer
from idtool.evaluate import samples
from idtool.evaluate.features import Runtime, ensure
from idtool.evaluate.folder import Bench
from idtool.evaluate.scoring import SCHEMA, Chosen, Scorer, Seen, images_of, look_at

SAMPLES = pa.schema(
    [pa.field("suite", pa.string()), pa.field("method", pa.string()), *samples.SCHEMA],
    metadata={"idtool.samples": "1"},
)


def score_methods(
    bench: Bench,
    rows: Mapping[str, Iterable[Mapping[str, Any]]],
    chosen: Chosen,
    runtime: Runtime,
    *,
    real: Sequence[str] = (),
    force: bool = False,
) -> None:
    """Score the samples of every method (`rows`: method -> rows of `samples.SCHEMA`) and write scores.parquet,
    samples.parquet and the manifest's `metrics`, `skipped` and `set_scores`.

    What was looked at before is not looked at again. `real`: pictures that set-level metrics compare with; the
    references where there are none. `force`: set-level metrics also of sets too small for them.
    """
    suite, profile = bench.manifest["suite"]["name"], bench.manifest["profile"]
    tables = {name: samples.write(bench.scores(name) / "samples", told) for name, told in rows.items()}
    uris, prompts = _distinct(tables.values())
    references = look_at(bench.path / "references", "media", uris, chosen.measures("reference"), runtime)
    real_ones = (
        references if not real else look_at(bench.path / "real", "media", real, chosen.measures("reference"), runtime)
    )
    texts = look_at(bench.path / "prompts", "text", prompts, chosen.measures("prompt"), runtime)
    set_scores: dict[str, Any] = {}
    described: dict[str, Any] = {}
    with ExitStack() as stack:
        writer = stack.enter_context(file_writer(bench.path / "scores.parquet", SCHEMA))
        told = stack.enter_context(file_writer(bench.path / "samples.parquet", SAMPLES))
        for name, table in tables.items():
            scorer = _scorer(bench, name, table, chosen, references, texts, runtime)
            described |= scorer.describe()
            for batch in scorer.scores(table, suite, profile, name):
                writer.write_table(batch)
            set_scores[name] = {
                metric: asdict(score)
                for metric, score in scorer.set_scores(table, real_ones.rows.values(), force=force).items()
            }
            for batch in _told(table, bench.path, suite, name):
                told.write_table(batch)
    bench.save(metrics=described, skipped=dict(chosen.skipped), set_scores=set_scores)


def _scorer(
    bench: Bench, name: str, table: Table, chosen: Chosen, references: Seen, texts: Seen, runtime: Runtime
) -> Scorer:
    folder = bench.scores(name)
    images = images_of(folder / "images", table)
    try:
        features = ensure(folder / "features", images, chosen.measures("image"), runtime, name) if images.rows else {}
    finally:
        shutil.rmtree(folder / "images", ignore_errors=True)
    return Scorer(chosen, references, texts, features)


def _distinct(tables: Iterable[Table]) -> tuple[set[str], set[str]]:
    uris: set[str] = set()
    prompts: set[str] = set()
    for table in tables:
        for batch in table.batches(["references", "prompt"]):
            for found in batch["references"].to_pylist():
                uris.update(found)
            prompts.update(batch["prompt"].to_pylist())
    return uris, prompts


def _told(table: Table, root: Path, suite: str, method: str) -> Iterator[pa.Table]:
    """The samples as samples.parquet has them: images by their place below the folder, where they are there."""
    for batch in table.batches(samples.SCHEMA.names):
        rows = batch.to_pylist()
        for row in rows:
            if row["media"] and Path(row["media"]).is_relative_to(root):
                row["media"] = Path(row["media"]).relative_to(root).as_posix()
            row |= {"suite": suite, "method": method}
        yield pa.Table.from_pylist(rows, SAMPLES)
