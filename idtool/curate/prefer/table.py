"""The run of a mining: its pairs (quadruples of chosen, rejected, references and prompt), its rejects, its manifest.

run.json                   rule, settings, metrics with their fingerprints, counts, the hash of the pairs
preferences.parquet        the pairs as they stand: as mined, or as reviewed
steps/00-prefer/table/     the pairs as mined; a review never changes them
steps/01-review/table/     the pairs that a review leaves, some with their sides swapped
rejects/00-prefer.parquet  groups and pairs that were dropped, with the reason; 01-review.parquet: by the review
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from idtool.engine.table import Table, file_writer
from idtool.errors import UsageError
from idtool.run import MANIFEST, Run

KIND = "prefer"
NAME = "preferences.parquet"
FOLDER = "preferences"
"""Inside the run of a recipe: where step `prefer` leaves its own."""
MINED, REVIEWED = (0, "prefer"), (1, "review")


def _column(name: str, kind: pa.DataType, doc: str, nullable: bool = True) -> pa.Field:
    return pa.field(name, kind, nullable=nullable, metadata={"doc": doc})


METRIC = pa.struct(
    [
        pa.field("part", pa.string()),
        pa.field("metric", pa.string()),
        pa.field("chosen", pa.float64()),
        pa.field("rejected", pa.float64()),
        pa.field("delta", pa.float64()),
        pa.field("tau", pa.float64()),
    ]
)
SCHEMA = pa.schema(
    [
        _column("id", pa.string(), "hash of group and both images", nullable=False),
        _column("group", pa.string(), "hash of what the images have in common: prompt, references, people"),
        _column("identity", pa.string(), "the people as one label: nobody of one is in two splits"),
        _column("people", pa.list_(pa.string()), "who they are, in the order of the references; null: not said"),
        _column("prompt", pa.string(), "what the images were to show"),
        _column("references", pa.list_(pa.string()), "pictures of the people, one each"),
        _column("chosen", pa.string(), "the preferred image"),
        _column("rejected", pa.string(), "the other one"),
        _column("chosen_sample", pa.string(), "its id in the benchmark"),
        _column("rejected_sample", pa.string(), "its id in the benchmark"),
        _column("chosen_method", pa.string(), "who made it"),
        _column("rejected_method", pa.string(), "who made it"),
        _column("chosen_seed", pa.int64(), "it was made with"),
        _column("rejected_seed", pa.int64(), "it was made with"),
        _column("source", pa.string(), "where both come from: generated, photo or perturbed"),
        _column("margin", pa.float64(), "dmid: the gap of R; idglow: mean of Delta / tau"),
        _column("metrics", pa.list_(METRIC), "each part of the reward: values, Delta, threshold; null: not scored"),
        _column("flags", pa.list_(pa.string()), "what a reviewer should know, e.g. reference_crop"),
        _column("reason", pa.string(), "why they are a pair"),
        _column("judge_score", pa.float64(), "how much the judge prefers the chosen image, -2 to 2; null: not asked"),
        _column("judge_reason", pa.string(), "why, in its words"),
        _column("decision", pa.string(), "of the review: kept or swapped; null: nobody decided"),
        _column("decision_reason", pa.string(), "how the votes fell"),
    ],
    metadata={"idtool.preferences": "1"},
)
REJECTS = pa.schema(
    [
        _column("group", pa.string(), "as in the pairs"),
        _column("id", pa.string(), "of the pair; null: the whole group"),
        _column("identity", pa.string(), "as in the pairs"),
        _column("prompt", pa.string(), "as in the pairs"),
        _column("references", pa.list_(pa.string()), "as in the pairs"),
        _column("chosen", pa.string(), "the image that would have been preferred, where there is one"),
        _column("rejected", pa.string(), "the other one"),
        _column("source", pa.string(), "as in the pairs"),
        _column("status", pa.string(), "rejected, or error: a fault of ours or of the machine"),
        _column("reason", pa.string(), "machine-readable, e.g. gap.quantile"),
        _column("value", pa.float64(), "the value that was judged"),
        _column("threshold", pa.string(), "what it was judged by"),
        _column("message", pa.string(), "one sentence for a person"),
        _column("step", pa.string(), "who dropped it"),
    ]
)
ROWS = 1024


class PairsHash:
    """What tells one set of pairs from another: decisions are only read for the set that they were made on."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256()

    def add(self, pair: str) -> None:
        self._hash.update(pair.encode() + b"\n")

    @property
    def value(self) -> str:
        return self._hash.hexdigest()[:24]


def pair_id(group: str, chosen: tuple[str, str], rejected: tuple[str, str]) -> str:
    """The id of a pair; images are (method, id of the sample). Also the same when their sides are swapped."""
    told = "\0".join((group, *sorted("\1".join(one) for one in (chosen, rejected))))
    return hashlib.sha256(told.encode("utf-8", "surrogatepass")).hexdigest()[:32]


def swapped(row: dict[str, Any]) -> dict[str, Any]:
    """The pair with its sides exchanged: images, samples, methods, seeds, sources, values; differences change sign."""
    new = dict(row)
    for end in ("", "_sample", "_method", "_seed"):
        new[f"chosen{end}"], new[f"rejected{end}"] = row[f"rejected{end}"], row[f"chosen{end}"]
    new["metrics"] = [
        {
            **one,
            "chosen": one["rejected"],
            "rejected": one["chosen"],
            "delta": None if one["delta"] is None else -one["delta"],
        }
        for one in row["metrics"] or ()
    ]
    for name in ("margin", "judge_score"):
        new[name] = None if row[name] is None else -row[name]
    new["source"] = "/".join(reversed(row["source"].split("/")))
    return new


class Buffer:
    """Rows on their way into a Parquet file, a thousand at a time."""

    def __init__(self, writer: pq.ParquetWriter, schema: pa.Schema) -> None:
        self.writer, self.schema = writer, schema
        self._rows: list[dict[str, Any]] = []

    def add(self, row: dict[str, Any]) -> None:
        self._rows.append(row)
        if len(self._rows) >= ROWS:
            self.flush()

    def flush(self) -> None:
        if self._rows:
            self.writer.write_table(pa.Table.from_pylist(self._rows, self.schema))
            self._rows = []


def open_run(path: Path | str) -> Run:
    """A run of `idtool prefer`, or that inside a run of a recipe with step `prefer`. UsageError for anything else."""
    run = Run(path)
    if (run.path / FOLDER / MANIFEST).is_file():
        run = Run(run.path / FOLDER)
    if run.manifest.get("kind") != KIND or not mined(run).files:
        raise UsageError(
            f"{path} holds no preference pairs.",
            "Give what `idtool prefer --output` wrote, or a run of a recipe with step prefer.",
        )
    return run


def mined(run: Run) -> Table:
    """The pairs as mined."""
    return Table(run.step_dir(*MINED) / "table")


def pairs_of(run: Run) -> Iterator[dict[str, Any]]:
    """The pairs as they stand, in order."""
    with pq.ParquetFile(run.path / NAME) as file:
        for batch in file.iter_batches(ROWS):
            yield from batch.to_pylist()


def publish(run: Run, table: Table) -> Path:
    """Write the pairs of a table as preferences.parquet."""
    target = run.path / NAME
    with file_writer(target, SCHEMA) as writer:
        for batch in table.batches():
            writer.write_table(batch)
    return target
