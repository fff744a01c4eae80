"""The rows that become records: those of a table of images, with the columns of steps that were skipped as nulls."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa

from idtool.curate import describe, facts, regions
from idtool.engine.table import KeptRows

SKIPPABLE = {"describe": describe.WRITES, "regions": regions.WRITES}
"""Kind of step -> the columns that a record has whether or not the step ran."""
IDENTITY = pa.field("identity", pa.string(), metadata={"doc": "the person: the label that the image came with"})


class RecordRows(KeptRows):
    """As `KeptRows`; of a step that the manifest calls skipped, every column is null and `…_reason` says why. Where no
    step said who is seen, `identity` is the label that the image came with, or null."""

    def __init__(self, path: Path | str, manifest: facts.Manifest) -> None:
        super().__init__(path)
        own = super().schema
        self._added: list[tuple[pa.Field, str | None]] = []
        for entry in manifest.get("steps", []):
            if entry.get("state") == "skipped":
                for field in SKIPPABLE.get(entry.get("kind"), ()):
                    if field.name not in own.names:
                        why = entry.get("skipped_because") if field.name.endswith("_reason") else None
                        self._added.append((field, why))
        self._unnamed = "identity" not in own.names

    @property
    def schema(self) -> pa.Schema:
        own = super().schema
        first = [IDENTITY] if self._unnamed else []
        return pa.schema([*own, *first, *(field for field, _ in self._added)], metadata=own.metadata)

    def batches(
        self, columns: Sequence[str] | None = None, rows: int = 4096, *, kept_only: bool = True
    ) -> Iterator[pa.Table]:
        stored = super().schema.names
        wanted = self.schema.names if columns is None else list(columns)
        source = "identity_label" if "identity_label" in stored else "id"
        narrow = [name for name in wanted if name in stored]
        for batch in super().batches(list(dict.fromkeys([*narrow, source])), rows):
            size = batch.num_rows
            if self._unnamed:
                label = batch[source] if source == "identity_label" else pa.nulls(size, pa.string())
                batch = batch.append_column(IDENTITY, label)
            for field, value in self._added:
                values = pa.nulls(size, field.type) if value is None else pa.array([value] * size, field.type)
                batch = batch.append_column(field, values)
            yield batch.select(wanted)
