"""Samples: what is scored. One row for each image that a method was asked for, whether it came out or not."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

from idtool.engine.operator import KEPT, OUTCOME
from idtool.engine.table import Table
from idtool.run import Run

MADE = "made"

SCHEMA = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False, metadata={"doc": "of the request; the same for every method"}),
        pa.field("media", pa.string(), metadata={"doc": "the image; null where none was made"}),
        pa.field("references", pa.list_(pa.string()), metadata={"doc": "pictures of the people, one each"}),
        pa.field("people", pa.list_(pa.string()), metadata={"doc": "who they are, in the same order"}),
        pa.field("identity", pa.string(), metadata={"doc": "the people as one label: the cluster of all statistics"}),
        pa.field("prompt", pa.string(), metadata={"doc": "what the image was to show"}),
        pa.field("seed", pa.int64()),
        pa.field("slices", pa.string(), metadata={"doc": "what the sample counts for, such as age: a JSON object"}),
        pa.field("targets", pa.string(), metadata={"doc": "per person: expression, orientation; a JSON object"}),
        pa.field("outcome", pa.string(), metadata={"doc": "made, rejected or error"}),
        pa.field("why", pa.string(), metadata={"doc": "why there is no image"}),
        pa.field("seconds", pa.float32(), metadata={"doc": "of making it", "unit": "s"}),
        pa.field("peak_memory", pa.int64(), metadata={"doc": "on the device", "unit": "bytes"}),
        pa.field("nsfw", pa.float32(), metadata={"doc": "probability of unfit content, as the run judged"}),
    ]
)


@dataclass(frozen=True, eq=False)
class Sample:
    """One sample with what is known of its pictures and its prompt; what metrics take."""

    row: Mapping[str, Any]
    """Columns of `SCHEMA`."""
    image: Mapping[str, Any] = field(default_factory=dict)
    """Columns that measures made of the image, and of image, references and prompt together. A column that could not
    be made is missing or None; `why` then says why, by measure."""
    references: tuple[Mapping[str, Any], ...] = ()
    """The same for each reference, in order."""
    prompt: Mapping[str, Any] = field(default_factory=dict)
    """The same for the prompt."""
    why: Mapping[str, str] = field(default_factory=dict)

    @property
    def made(self) -> bool:
        return bool(self.row["outcome"] == MADE)

    @property
    def targets(self) -> Mapping[str, Any]:
        """What each person was to show: `expression` and `orientation`, lists in the order of the references."""
        found: Mapping[str, Any] = json.loads(self.row["targets"]) if self.row.get("targets") else {}
        return found


def identity_of(people: Sequence[str | None], references: Sequence[str]) -> str:
    """The label that statistics cluster by: who is in the picture, or else which pictures were given."""
    labels = [label or uri for label, uri in zip(people or [None] * len(references), references, strict=True)]
    return " + ".join(sorted(labels)) or "nobody"


def of_run(path: Path) -> Iterator[dict[str, Any]]:
    """Samples of a generation run (`idtool generate`), in the order of their ids."""
    run = Run(path)
    entry = run.steps[0]
    table = Table(run.step_dir(entry["index"], entry["name"]) / "table")
    for batch in table.batches():
        for row in batch.to_pylist():
            extra = json.loads(row["extra"]) if row.get("extra") else {}
            made = row["status"] == KEPT
            references, people = row["references"] or [], row.get("people") or []
            yield {
                "id": row["id"],
                "media": str(run.store_root / row["media"].removeprefix("store:")) if made else None,
                "references": references,
                "people": people or [None] * len(references),
                "identity": identity_of(people, references),
                "prompt": row["prompt"] or "",
                "seed": row["seed"],
                "slices": json.dumps(extra.get("slices") or {}, sort_keys=True, ensure_ascii=False),
                "targets": json.dumps(extra.get("targets") or {}, sort_keys=True),
                "outcome": MADE if made else row["status"],
                "why": None if made else f"{row['reason']}: {row['message'] or row['reason']}",
                "seconds": row["seconds"],
                "peak_memory": row["peak_memory"],
                "nsfw": row["nsfw"],
            }


def key_of(text: str) -> str:
    """Id of a reference (by its path) or of a prompt."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:32]


def write(folder: Path, rows: Iterable[Mapping[str, Any]]) -> Table:
    """The samples as a table in `folder`, sorted by id."""
    from idtool.launch import first_table

    return first_table(folder, rows, pa.schema([*SCHEMA, *OUTCOME]))
