"""Does a training set hold people or pictures of a benchmark? Every picture of the one against every one of the other.

Three ways to find something, each a row of audit.parquet: `identity` (a face of the training picture is as alike a
reference as the network takes two pictures of one person to be), `perceptual` (the picture or its mirror image has
nearly the DCT hash of a reference) and `copy` (their copy-detection descriptors are close). What is found is a
candidate, to be looked at: of many millions of comparisons some pass any threshold by chance.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from idtool import launch
from idtool.engine.operator import OUTCOME
from idtool.engine.step import Binding
from idtool.engine.table import Table, file_writer
from idtool.errors import MissingError, UsageError
from idtool.evaluate.audit_search import COMPARISONS, Search, make_search
from idtool.evaluate.features import Cursor, Feature, Runtime, ensure
from idtool.evaluate.identities import Identity, pictures_of
from idtool.evaluate.measures import MEASURES
from idtool.evaluate.samples import key_of
from idtool.evaluate.scoring import Seen, look_at, with_needs
from idtool.models.calibration import threshold_of

SCHEMA = pa.schema(
    [
        pa.field("kind", pa.string(), metadata={"doc": "identity, perceptual or copy"}),
        pa.field("picture", pa.string(), metadata={"doc": "of the training set"}),
        pa.field("picture_identity", pa.string(), metadata={"doc": "whom the training set calls it"}),
        pa.field("benchmark_identity", pa.string()),
        pa.field("reference", pa.string(), metadata={"doc": "the nearest picture of that person in the benchmark"}),
        pa.field("value", pa.float32(), metadata={"doc": "cosine; of hashes the bits of 64 that differ"}),
        pa.field("threshold", pa.float32(), metadata={"doc": "least cosine, or most bits"}),
    ],
    metadata={"idtool.audit": "1"},
)
KINDS = {"identity": "people_identity", "perceptual": "pixels", "copy": "copy"}
"""Way of finding -> the measure that it compares."""
WORST = 20


@dataclass(frozen=True)
class Limits:
    """From where on something counts as found. Hash and descriptor as curation takes them (`dedup`, `pair`)."""

    same_person: float | None = None
    """Cosine; None: the network's calibrated `same_person`."""
    hash_bits: int = 3
    """Of 64 that may differ."""
    copy: float = 0.85
    """Cosine of SSCD descriptors."""


@dataclass
class Audit:
    """What was found."""

    path: Path
    """audit.parquet, in the order of the training set's ids."""
    pictures: int = 0
    """Of the training set that were looked at."""
    unreadable: int = 0
    without_face: int = 0
    people: int = 0
    """In the benchmark."""
    references: int = 0
    limits: Mapping[str, float] = field(default_factory=dict)
    found: Counter[str] = field(default_factory=Counter)
    """Kind -> pictures of the training set."""
    leaked: dict[str, set[str]] = field(default_factory=dict)
    """Kind -> people of the benchmark."""
    skipped: Mapping[str, str] = field(default_factory=dict)
    """Kind -> why it was not looked for."""
    unused: Sequence[str] = ()
    """References that could not be compared, with the reason."""
    worst: list[dict[str, Any]] = field(default_factory=list)
    """The most alike of each kind."""

    @property
    def clean(self) -> bool:
        """Nothing was found, and everything was looked for."""
        return not self.found and not self.skipped

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        told = {name: value for name, value in vars(self).items() if name not in ("path", "leaked")}
        leaked = {kind: sorted(labels) for kind, labels in self.leaked.items()}
        return {"audit": str(self.path), **told, "found": dict(self.found), "leaked": leaked, "clean": self.clean}


def audit(
    dataset: str, identities: Sequence[Identity], output: Path, runtime: Runtime, limits: Limits | None = None
) -> Audit:
    """Look for a benchmark's people and pictures in a training set: a curated run, an exported data set, a manifest or
    any folder of pictures. What networks saw stays below `output`, so that a second audit costs what is new.

    Raises UsageError for a network without a calibrated `same_person`, MissingError for a profile without networks of
    roles `faces` and `identity`, and what the engine raises.
    """
    limits = limits or Limits()
    env = runtime.env
    if why := MEASURES.get(KINDS["identity"]).why_not(env):
        raise MissingError(f"People cannot be told apart: {why}.", "Choose a profile with roles faces and identity.")
    why_no_copy = MEASURES.get(KINDS["copy"]).why_not(env)
    thresholds = {"identity": _same_person(env.require("identity"), limits), "perceptual": float(limits.hash_bits)}
    if why_no_copy is None:
        thresholds["copy"] = limits.copy
    measures = with_needs([KINDS[kind] for kind in thresholds])
    rows = _rows(dataset, output / "dataset")
    uris = [uri for one in identities for uri in one.references]
    seen = look_at(output / "benchmark", "media", uris, measures, runtime)
    features = ensure(output / "dataset", rows, measures, runtime, "the training set")
    result = Audit(
        output / "audit.parquet",
        people=len(identities),
        references=len(uris),
        limits=thresholds,
        skipped={"copy": why_no_copy} if why_no_copy else {},
        unused=_unused(identities, seen),
    )
    searches = [search for kind in thresholds if (search := make_search(kind, identities, seen, thresholds[kind]))]
    signs = {search.kind: search.sign for search in searches}
    worst: dict[str, list[tuple[float, int, dict[str, Any]]]] = {}
    with file_writer(result.path, SCHEMA) as writer:
        for batch in _compared(rows, features, searches, result):
            writer.write_table(pa.Table.from_pylist(batch, SCHEMA))
            for row in batch:
                result.leaked.setdefault(row["kind"], set()).add(row["benchmark_identity"])
                alike = signs[row["kind"]] * row["value"]
                kept = worst.setdefault(row["kind"], [])
                heapq.heappush(kept, (alike, id(row), row))
                if len(kept) > WORST:
                    heapq.heappop(kept)
    result.worst = [row for kind in KINDS for _, _, row in sorted(worst.get(kind, ()), key=lambda one: -one[0])]
    return result


def _same_person(binding: Binding, limits: Limits) -> float:
    if limits.same_person is not None:
        return limits.same_person
    found = binding.thresholds.get("same_person") or threshold_of(binding)
    if found is None:
        raise UsageError(
            f"Identity network {binding.model!r} has no calibrated threshold `same_person`.",
            "Find it with `idtool models calibrate identity --pairs FOLDER`, or give --same-person.",
        )
    return found


def _rows(dataset: str, folder: Path) -> Table:
    """The pictures of the training set as the table that measures are made of."""
    schema = pa.schema([(name, pa.string()) for name in ("id", "media", "identity")])

    def rows() -> Iterator[dict[str, Any]]:
        for one in pictures_of(dataset, folder=folder / "media"):
            yield {"id": key_of(one.uri), "media": one.uri, "identity": one.label}

    table = launch.first_table(folder / "rows", rows(), pa.schema([*schema, *OUTCOME]))
    if not table.rows:
        raise UsageError(f"{dataset} has no pictures.", "Give the training set that is to be audited.")
    return table


def _compared(
    rows: Table, features: Mapping[str, Feature], searches: Sequence[Search], result: Audit
) -> Iterator[list[dict[str, Any]]]:
    """Rows of `SCHEMA`, batch by batch of the training set; counts go into `result`."""
    cursors = {name: Cursor(one.table, ["id", *one.measure.writes.names]) for name, one in features.items()}
    most = max((len(search.uris) for search in searches), default=1)
    for batch in rows.batches(rows=max(64, min(4096, COMPARISONS // most))):
        ids = batch["id"].to_pylist()
        for cursor in cursors.values():
            taken = cursor.take(ids)
            for name in taken.column_names[1:]:
                batch = batch.append_column(taken.schema.field(name), taken[name])
        faces = pc.list_value_length(batch["people_embeddings"])
        result.pictures += batch.num_rows
        result.unreadable += faces.null_count
        result.without_face += pc.sum(pc.equal(faces, 0)).as_py() or 0
        told = batch.select(["media", "identity"]).to_pylist()
        out: list[dict[str, Any]] = []
        for search in searches:
            hits = search.hits(batch)
            result.found[search.kind] += len({row for row, _ in hits})
            for (row, person), (value, reference) in sorted(hits.items()):
                out.append(
                    {
                        "kind": search.kind,
                        "picture": told[row]["media"],
                        "picture_identity": told[row]["identity"],
                        "benchmark_identity": search.labels[person],
                        "reference": search.uris[reference],
                        "value": search.sign * value,
                        "threshold": search.sign * search.least,
                    }
                )
        yield out
    result.found = +result.found


def _unused(identities: Sequence[Identity], seen: Seen) -> list[str]:
    """References that cannot be found by face, one sentence each."""
    out = []
    for one in identities:
        for uri in one.references:
            key = key_of(uri)
            if why := next(iter(seen.why.get(key, {}).values()), None):
                out.append(f"{uri}: {why}")
            elif not seen.rows[key].get("people_embeddings"):
                out.append(f"{uri}: no face")
    return out
