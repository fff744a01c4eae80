"""Export: captioned pairs to a data set folder that `datasets.load_dataset` opens with images (DESIGN §1, §10)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa
from pydantic import Field, field_validator

from idtool.curate import facts, folders
from idtool.curate.dataset_writer import Exported, Target, write_dataset
from idtool.curate.layout import PAIRS, RECORDS, Layout
from idtool.curate.record_rows import RecordRows
from idtool.curate.splits import check_shares
from idtool.engine.operator import KEPT, OUTCOME
from idtool.engine.step import Settings, TableContext, TableStep
from idtool.engine.table import KeptRows, Table
from idtool.errors import UsageError
from idtool.registry import nearest
from idtool.run import Run

ADDED = pa.schema(
    [
        pa.field("split", pa.string(), metadata={"doc": "split of the data set that the row is in"}),
        pa.field("file", pa.string(), metadata={"doc": "file of the data set that the row is in"}),
    ]
)
LAYOUTS = {"export": PAIRS, "records": RECORDS}
"""Kind of step -> what it exports."""


class ExportSettings(Settings):
    splits: dict[str, float] = Field(default={"train": 0.9, "val": 0.1})
    """Share of the rows that each split gets; no identity is in two splits."""
    file_megabytes: int = Field(default=500, ge=1)
    """Largest size of one Parquet file, in 10^6 bytes (one row group may exceed it)."""

    @field_validator("splits")
    @classmethod
    def _positive_and_complete(cls, value: dict[str, float]) -> dict[str, float]:
        try:
            return check_shares(value)
        except UsageError as error:
            raise ValueError(str(error)) from error


class RecordsSettings(ExportSettings):
    files: bool = False
    """Also a JSON file per image, with its pictures as files beside: for trainers that read folders."""


class Export(TableStep):
    """Writes `RUN/dataset`; its own table has one row per pair with the split and the file that it went to."""

    kind: ClassVar[str] = "export"
    summary: ClassVar[str] = "Write the data set: Parquet with images, splits by identity, a data card."
    reuses_rows: ClassVar[bool] = False
    Settings: ClassVar[type[Settings]] = ExportSettings

    def reads(self, available: Mapping[str, pa.Field]) -> tuple[str, ...]:
        return LAYOUTS[self.kind].needed

    def is_in_place(self, run_dir: Path) -> bool:
        return (run_dir / "dataset").is_dir()

    def writes(self, available: Mapping[str, pa.Field]) -> pa.Schema:
        return ADDED

    def run(self, table: Table, context: TableContext) -> Iterator[pa.Table]:
        run_dir = Path(context.run_dir)
        manifest = Run(run_dir).manifest
        layout = LAYOUTS[self.kind]
        done = write_dataset(
            rows_of(table, layout, manifest),
            run_dir / "dataset",
            manifest,
            target_of(layout, self.settings),
            seed=context.seed,
            store_root=run_dir / "media",
        )
        context.statistics.update(done.tally.statistics())
        context.statistics["files"] = done.files
        for batch in KeptRows(table.path).batches():
            yield _outcomes(batch, done)


class Records(Export):
    """The same of images in place of pairs: all that was found out about an image in one record (FGID)."""

    kind: ClassVar[str] = "records"
    summary: ClassVar[str] = "Write the data set: one record per image, splits by identity, a data card."
    Settings: ClassVar[type[Settings]] = RecordsSettings

    def reads(self, available: Mapping[str, pa.Field]) -> tuple[str, ...]:
        # Without a step that says who it is, the label that the image came with will do.
        return tuple(name for name in RECORDS.needed if name != "identity" or name in available)


def rows_of(table: Table, layout: Layout, manifest: facts.Manifest) -> Table:
    """The rows to export of a step's table."""
    return RecordRows(table.path, manifest) if layout is RECORDS else KeptRows(table.path)


def target_of(layout: Layout, settings: ExportSettings) -> Target:
    """The settings of an exporting step, as the writer takes them."""
    files = isinstance(settings, RecordsSettings) and settings.files
    return Target(layout, settings.splits, settings.file_megabytes * 1_000_000, files)


def _outcomes(batch: pa.Table, done: Exported) -> pa.Table:
    rows = []
    for row in batch["id"].to_pylist():
        if row in done.place:
            split, number = done.place[row]
            rows.append({"split": split, "file": f"data/{done.files[split][number]}", "status": KEPT})
        else:
            rows.append(done.failed[row])
    added = pa.Table.from_pylist(rows, schema=pa.schema([*ADDED, *OUTCOME]))
    for name in added.column_names:
        batch = batch.append_column(added.schema.field(name), added[name])
    return batch


def export_run(
    run: Path,
    output: Path | None = None,
    *,
    remove_identity: tuple[str, ...] = (),
    splits: Mapping[str, float] | None = None,
) -> dict[str, Any]:
    """Write the data set of a finished run (again): to `RUN/dataset` as the recipe says, or to `output`, then also
    with other `splits` or without the people in `remove_identity`.

    Returns `{path, pairs or records, removed, failed, files, splits…}`. Raises UsageError when the run has nothing to
    export, when an identity is unknown, and when `output` holds something else than a data set of this tool.
    """
    opened = Run(run)
    if output is None and (remove_identity or splits):
        raise UsageError(
            "A data set that differs from the run's recipe goes to a folder of its own.", "Add --output DIR."
        )
    layout, table, own = _exportable(opened)
    changes = {"splits": check_shares(splits)} if splits else {}
    model = RecordsSettings if layout is RECORDS else ExportSettings
    own = {key: value for key, value in own.items() if key in model.model_fields}
    settings = model.model_validate({**own, **changes})
    rows = rows_of(table, layout, opened.manifest)
    known = {name for name in rows.read(["identity"])["identity"].to_pylist() if name is not None}
    for name in remove_identity:
        if name not in known:
            guess = nearest(name, known)
            hint = f"Did you mean {guess!r}?" if guess else f"It has {len(known)} identities."
            raise UsageError(f"{run} has no {layout.nouns} of an identity {name!r}.", hint)
    target = (output or opened.path / "dataset").absolute()
    if output is not None and target.exists() and any(target.iterdir()) and not (target / folders.CHECKSUMS).exists():
        raise UsageError(f"{output} is not empty and holds no data set of this tool.", "Choose another --output.")
    with opened:
        done = write_dataset(
            rows,
            target,
            opened.manifest,
            target_of(layout, settings),
            seed=int(opened.manifest.get("seed", 0)),
            store_root=opened.store_root,
            remove=frozenset(remove_identity),
        )
    return {
        "path": str(target),
        layout.nouns: len(done.place),
        "removed": done.removed,
        "failed": len(done.failed),
        "files": done.files,
        **done.tally.statistics(),
    }


def _exportable(run: Run) -> tuple[Layout, Table, dict[str, Any]]:
    """What the run's recipe exports, the last finished table of such rows before, and the settings of the export."""
    own: dict[str, Any] = {}
    layout = PAIRS
    found: Table | None = None
    for entry in run.steps:
        if entry["kind"] in LAYOUTS:
            layout = LAYOUTS[entry["kind"]]
            own = facts.settings(entry) if entry["state"] == "done" else _asked_for(run, entry["kind"])
    for entry in run.steps:
        if entry["state"] == "done" and entry["kind"] not in LAYOUTS:
            table = run.step_table(entry["index"])
            here = set(table.schema.names)
            needed = set(layout.needed) - ({"identity"} if layout is RECORDS else set())
            if needed <= here and (layout is PAIRS or "a_id" not in here):
                found = table
    if found is None:
        hint = "Run a recipe with a `pair` step to its end." if layout is PAIRS else "Run the recipe to its end."
        raise UsageError(f"{run.path} has no {layout.nouns} to export.", hint)
    return layout, found, own


def _asked_for(run: Run, kind: str) -> dict[str, Any]:
    """Settings of the export in the recipe of a run that did not come to it."""
    import yaml

    recipe = run.path / "recipe.yaml"
    steps = yaml.safe_load(recipe.read_text(encoding="utf-8"))["steps"] if recipe.is_file() else []
    return next((dict(step) for step in steps if step["step"] == kind), {})
