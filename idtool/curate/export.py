"""Export: captioned pairs, or records, to a data set folder in one of several formats (DESIGN §1, §10)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa
from pydantic import Field, field_validator, model_validator

from idtool.curate import facts
from idtool.curate.dataset_writer import Exported, Target, write_dataset
from idtool.curate.destination import LocalFolder, destination_of
from idtool.curate.formats import FORMATS, hub
from idtool.curate.formats.near import faces_of
from idtool.curate.formats.removal import FILE, Leaving
from idtool.curate.layout import PAIRS, RECORDS, Layout
from idtool.curate.record_rows import RecordRows
from idtool.curate.splits import check_shares
from idtool.engine.operator import KEPT, OUTCOME
from idtool.engine.step import Settings, TableContext, TableStep
from idtool.engine.table import KeptRows, Table
from idtool.errors import UsageError
from idtool.registry import did_you_mean, nearest
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
    """Largest size of one Parquet or tar file, in 10^6 bytes (one row group, or one sample, may exceed it)."""
    format: str = "parquet"
    """`parquet`, `webdataset`, `folder`, `folder-diffusers`, `folder-kohya`, `folder-pairs`, `lance` or `fiftyone`."""

    @field_validator("splits")
    @classmethod
    def _positive_and_complete(cls, value: dict[str, float]) -> dict[str, float]:
        try:
            return check_shares(value)
        except UsageError as error:
            raise ValueError(str(error)) from error

    @field_validator("format")
    @classmethod
    def _known(cls, value: str) -> str:
        if value not in FORMATS:
            raise ValueError(f"Unknown format {value!r}. {did_you_mean(value, FORMATS.names())}")
        return value


class RecordsSettings(ExportSettings):
    files: bool = False
    """Also a JSON file per image, with its pictures as files beside: for trainers that read folders. With `parquet`."""

    @model_validator(mode="after")
    def _beside_parquet(self) -> RecordsSettings:
        if self.files and self.format != "parquet":
            raise ValueError(f"files are written beside format parquet only, not {self.format}")
        return self


class Export(TableStep):
    """Writes `RUN/dataset`; its own table has one row per pair with the split and the file that it went to."""

    kind: ClassVar[str] = "export"
    summary: ClassVar[str] = "Write the data set: pairs with their images, splits by identity, a data card."
    reuses_rows: ClassVar[bool] = False
    Settings: ClassVar[type[Settings]] = ExportSettings

    def reads(self, available: Mapping[str, pa.Field]) -> tuple[str, ...]:
        """MissingError where the format needs a package that is not here."""
        FORMATS.get(self.settings.format).check(LAYOUTS[self.kind])
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
            LocalFolder(run_dir / "dataset"),
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
        needed = super().reads(available)
        return tuple(name for name in needed if name != "identity" or name in available)


def rows_of(table: Table, layout: Layout, manifest: facts.Manifest) -> Table:
    """The rows to export of a step's table."""
    return RecordRows(table.path, manifest) if layout is RECORDS else KeptRows(table.path)


def target_of(layout: Layout, settings: ExportSettings) -> Target:
    """The settings of an exporting step, as the writer takes them."""
    files = isinstance(settings, RecordsSettings) and settings.files
    return Target(layout, settings.splits, settings.file_megabytes * 1_000_000, FORMATS.get(settings.format), files)


def _outcomes(batch: pa.Table, done: Exported) -> pa.Table:
    rows = []
    for row in batch["id"].to_pylist():
        if row in done.place:
            split, number = done.place[row]
            rows.append({"split": split, "file": done.files[split][number], "status": KEPT})
        else:
            rows.append(done.failed[row])
    added = pa.Table.from_pylist(rows, schema=pa.schema([*ADDED, *OUTCOME]))
    for name in added.column_names:
        batch = batch.append_column(added.schema.field(name), added[name])
    return batch


@dataclass(frozen=True)
class Pushing:
    """That the data set is to be sent away, and on what terms."""

    to: str
    """hf:OWNER/NAME"""
    public: bool = False
    overrule: bool = False
    """Also images whose licence or consent says no: the user vouches for them."""


def export_run(
    run: Path,
    output: Path | str | None = None,
    *,
    remove_identity: tuple[str, ...] = (),
    splits: Mapping[str, float] | None = None,
    format: str | None = None,
    same_person: float | None = None,
    remove_alike: bool = False,
    push: Pushing | None = None,
) -> dict[str, Any]:
    """Write the data set of a finished run (again): to `RUN/dataset` as the recipe says, or to `output`, then also
    with other `splits`, in another `format` or without the people in `remove_identity`; and `push` it. `output` is a
    folder, or a URL of one on an object store (`StoreFolder`).

    `same_person`: cosine from which another's face counts as a removed person's; None: that of the run's `identify`.
    `remove_alike`: rows with such a face are left out, too, in place of failing.

    Returns `{path, format, pairs or records, removed, failed, files, splits…}`. Raises UsageError when the run has
    nothing to export, when an identity is unknown, and when `output` holds something else than a data set of this
    tool; QualityError when a removed person would still be in it; what `hub.push` and `StoreFolder` raise.
    """
    opened = Run(run)
    if output is None and (remove_identity or splits or format):
        raise UsageError(
            "A data set that differs from the run's recipe goes to a folder of its own.", "Add --output DIR."
        )
    if not remove_identity and (remove_alike or same_person is not None):
        raise UsageError("--remove-alike and --same-person are for --remove-identity.", "Name a person to remove.")
    repo, token = (hub.repository(push.to), hub.ready()) if push else ("", "")
    layout, table, own = _exportable(opened)
    settings = _settings(layout, own, splits, format)
    rows = rows_of(table, layout, opened.manifest)
    _check_known(rows, remove_identity, f"{run} has no {layout.nouns}")
    destination = destination_of(output, opened.path)
    if push and not isinstance(destination, LocalFolder):
        raise UsageError("--push sends a data set that is on this machine.", "Give a folder with --output.")
    leaving = None
    if remove_identity:
        leaving = Leaving(frozenset(remove_identity), faces_of(opened, rows, layout, same_person), remove_alike)
    with opened:
        done = write_dataset(
            rows,
            destination,
            opened.manifest,
            target_of(layout, settings),
            seed=int(opened.manifest.get("seed", 0)),
            store_root=opened.store_root,
            leaving=leaving,
        )
    result = {
        "path": destination.shown,
        "format": settings.format,
        layout.nouns: len(done.place),
        "removed": done.removed.rows,
        "failed": len(done.failed),
        "files": done.files,
        **done.tally.statistics(),
    }
    if FORMATS.get(settings.format).texts:
        result["without_text"] = done.without_text
    if done.proof:
        checked, file = done.proof["checked"], f"{destination.shown}/{FILE}"
        result["proof"] = {"file": file, "checked": f"{checked['rows']} rows", "faces": checked["faces"]}
        result["left_out_as_alike"] = done.proof["removed"]["rows_left_out_as_alike"]
    if push and isinstance(destination, LocalFolder):
        terms = done.tally.provenance
        result["pushed"] = hub.push(destination.target, repo, token, terms, public=push.public, overrule=push.overrule)
    return result


def _settings(
    layout: Layout, own: Mapping[str, Any], splits: Mapping[str, float] | None, format: str | None
) -> ExportSettings:
    """Those of the recipe with what the command changes."""
    changes: dict[str, Any] = {"splits": check_shares(splits)} if splits else {}
    if format is not None:
        FORMATS.get(format).check(layout)
        changes["format"] = format
        if format != "parquet":
            changes["files"] = False
    model = RecordsSettings if layout is RECORDS else ExportSettings
    wanted = {**own, **changes}
    return model.model_validate({key: value for key, value in wanted.items() if key in model.model_fields})


def _check_known(rows: Table, names: tuple[str, ...], where: str) -> None:
    known = {name for name in rows.read(["identity"])["identity"].to_pylist() if name is not None}
    for name in names:
        if name not in known:
            guess = nearest(name, known)
            hint = f"Did you mean {guess!r}?" if guess else f"It has {len(known)} identities."
            raise UsageError(f"{where} of an identity {name!r}.", hint)


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
