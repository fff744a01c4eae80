"""The `repair` step: which images of a person a face swap may bring closer to the others, and whose face that is.

DMID: "For pairs with low similarity, the model fails to learn consistent ID representations" (App. A.4);
"Low-similarity data undergoes face swapping to enhance ID consistency" (section 4.1.2). It names no bounds. Here an
image is repaired when its cosine to the person's source image is below the gate that pairs have to pass, but not below
the floor from which it surely shows the same person. Step `swap` does it.

Similarity is judged within an identity, so the step comes after `identify`, and before `pair`, which judges what came
of it.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from idtool.curate.cluster import normalise
from idtool.curate.grouped import by_identity, vectors
from idtool.curate.identify import same_person
from idtool.engine.operator import KEPT, OUTCOME
from idtool.engine.step import Binding, Env, Settings, TableContext, TableStep
from idtool.engine.table import Table
from idtool.evaluate.measures.base import VECTOR, column
from idtool.models import why_not

SWAPPER = "swapper"
PROVENANCE = ("source", "licence", "consent")

WRITES = pa.schema(
    [
        column("repair_id", pa.string(), "image whose face goes in; null: nothing to repair"),
        column("repair_similarity", pa.float32(), "cosine to that image, before", "[-1, 1]"),
        column("repair_media", pa.string(), "where that image is"),
        column("repair_kps", pa.list_(pa.float32()), "the five points of its face", "px"),
        column("repair_embedding", VECTOR, "its identity embedding, of length 1"),
        *(column(f"repair_{name}", pa.string(), f"its {name}") for name in PROVENANCE),
    ]
)
"""Columns that step `swap` uses up."""


class RepairSettings(Settings):
    floor: float | None = Field(default=None, ge=-1, le=1)
    """Cosine from which an image is repaired; null: the network's calibrated `same_person`."""
    below: float = Field(default=0.8, ge=-1, le=1)
    """Cosine below which it needs to be; the paper's gate of pairs is 0.8."""
    sources: tuple[str, ...] = ("photo",)
    """Origins of images that a face is taken from, where the person has any of them; else from any image."""
    per_identity: int | None = Field(default=20, ge=1)
    """Most repairs of one person, those most alike first; null: all."""


class Repair(TableStep):
    """Reads identity by identity, as step `pair` does; keeps every row.

    The source is the most typical image of the person: that of the highest mean cosine to all of theirs."""

    kind = "repair"
    Settings: ClassVar[type[Settings]] = RepairSettings
    summary = "find images that another image's face would bring closer to their person"

    settings: RepairSettings

    def __init__(self, settings: RepairSettings, env: Env) -> None:
        super().__init__(settings, env)

    @property
    def floor(self) -> float:
        stated = self.settings.floor
        return same_person(self.env.require("identity")) if stated is None else stated

    def skip_reason(self) -> str | None:
        return why_not(self.env, SWAPPER)

    def reads(self, available: Mapping[str, pa.Field]) -> tuple[str, ...]:
        return ("id", "kind", "media", "origin", "identity", "embedding", "face_kps", *PROVENANCE)

    def writes(self, available: Mapping[str, pa.Field]) -> pa.Schema:
        return WRITES

    def config(self) -> dict[str, Any]:
        return {**super().config(), "bounds": {"floor": self.floor}}

    def models(self) -> list[Binding]:
        return list(self.env.all("identity")[:1])

    def run(self, table: Table, context: TableContext) -> Iterable[pa.Table]:
        counts = dict.fromkeys(("identities", "images", "alike", "to_repair", "too_many", "too_far"), 0)
        for rows in by_identity(table, context.step_dir / "identities"):
            yield self._told(rows, counts)
        for batch in table.batches(kept_only=True):  # images of nobody
            nobody = batch.filter(pc.is_null(batch["identity"]))
            if nobody.num_rows:
                yield _with(nobody, [{} for _ in range(nobody.num_rows)])
        context.statistics.update(counts)

    def _told(self, rows: pa.Table, counts: dict[str, int]) -> pa.Table:
        """Rows of whole identities, sorted by identity and id, with the columns of this step."""
        raw = vectors(rows["embedding"])
        unit = normalise(raw)[0] if raw.shape[1] else np.zeros((rows.num_rows, 1), np.float32)
        usable = np.any(unit, axis=1) & np.asarray(pc.is_valid(rows["face_kps"]), np.bool_)
        usable &= np.asarray(pc.fill_null(pc.equal(rows["kind"], "image"), False), np.bool_)
        origin = np.array(rows["origin"].to_pylist(), dtype=object)
        told: list[dict[str, Any]] = [{} for _ in range(rows.num_rows)]
        for first, end in _spans(rows["identity"]):
            mine = np.arange(first, end)[usable[first:end]]
            counts["identities"] += 1
            counts["images"] += end - first
            if len(mine) < 2:
                continue
            source = self._source(unit, mine, origin)
            similar = unit[mine] @ unit[source]
            found = self._window(mine, similar, source, origin, counts)
            if len(found):
                of_source = _facts(rows, source, unit[source])
                for row in found.tolist():
                    told[row] = {**of_source, "repair_similarity": float(unit[row] @ unit[source])}
        return _with(rows, told)

    def _source(self, unit: npt.NDArray[np.float32], mine: npt.NDArray[np.int64], origin: npt.NDArray[Any]) -> int:
        """The row whose face is given to others; of equally typical ones the lowest id."""
        typical = unit[mine] @ unit[mine].mean(axis=0)
        preferred = np.isin(origin[mine].astype(str), self.settings.sources)
        return int(mine[np.argmax(np.where(preferred, typical + 2, typical))])

    def _window(
        self,
        mine: npt.NDArray[np.int64],
        similar: npt.NDArray[np.float32],
        source: int,
        origin: npt.NDArray[Any],
        counts: dict[str, int],
    ) -> npt.NDArray[np.int64]:
        """The rows to repair, the most alike first."""
        # A swap is not swapped again, or a second step would repair what the first one could not.
        others = (mine != source) & (origin[mine] != "swap")
        far = similar < np.float32(self.floor)
        inside = others & ~far & (similar < np.float32(self.settings.below))
        found = mine[inside][np.argsort(-similar[inside], kind="stable")]
        most = len(found) if self.settings.per_identity is None else self.settings.per_identity
        counts["alike"] += int(np.count_nonzero(others & ~far & ~inside))
        counts["too_far"] += int(np.count_nonzero(others & far))
        counts["to_repair"] += min(most, len(found))
        counts["too_many"] += max(0, len(found) - most)
        chosen: npt.NDArray[np.int64] = found[:most]
        return chosen


def _facts(rows: pa.Table, source: int, embedding: npt.NDArray[np.float32]) -> dict[str, Any]:
    [row] = rows.select(["id", "media", "face_kps", *PROVENANCE]).slice(source, 1).to_pylist()
    facts = {"repair_id": row["id"], "repair_media": row["media"], "repair_kps": row["face_kps"]}
    return {**facts, "repair_embedding": embedding, **{f"repair_{name}": row[name] for name in PROVENANCE}}


def _spans(identity: pa.ChunkedArray) -> Iterator[tuple[int, int]]:
    """First and end row of each run of equal names."""
    codes = np.asarray(identity.combine_chunks().dictionary_encode().indices)
    edges = [0, *(np.flatnonzero(np.diff(codes)) + 1).tolist(), len(codes)]
    return itertools.pairwise(edges)


def _with(rows: pa.Table, told: list[dict[str, Any]]) -> pa.Table:
    """The rows, all kept, with the columns of this step."""
    rows = rows.drop_columns([name for name in (*WRITES.names, *OUTCOME.names) if name in rows.column_names])
    for field in WRITES:
        rows = rows.append_column(field, pa.array([one.get(field.name) for one in told], field.type))
    for field in OUTCOME:
        kept = pa.repeat(KEPT, rows.num_rows) if field.name == "status" else pa.nulls(rows.num_rows, field.type)
        rows = rows.append_column(field, kept)
    return rows
