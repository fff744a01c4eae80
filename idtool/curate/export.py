"""Export: captioned pairs to a data set folder that `datasets.load_dataset` opens with images (DESIGN §1, §10)."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field, field_validator

from idtool.curate import card, dataset, facts, folders
from idtool.curate.splits import assign, check_shares
from idtool.engine.operator import ERROR, KEPT, OUTCOME, STORAGE_ERRNOS, Rejected, outcome_of
from idtool.engine.step import Settings, TableContext, TableStep
from idtool.engine.table import KeptRows, Table
from idtool.errors import QualityError, UsageError
from idtool.registry import nearest
from idtool.run import Run

NEEDED = ("id", "identity", "a_id", "b_id", "a_media", "b_media")
ADDED = pa.schema(
    [
        pa.field("split", pa.string(), metadata={"doc": "split of the data set that the pair is in"}),
        pa.field("file", pa.string(), metadata={"doc": "file of the data set that the pair is in"}),
    ]
)


class ExportSettings(Settings):
    splits: dict[str, float] = Field(default={"train": 0.9, "val": 0.1})
    """Share of the pairs that each split gets; no identity is in two splits."""
    file_megabytes: int = Field(default=500, ge=1)
    """Largest size of one Parquet file, in 10^6 bytes (one row group may exceed it)."""

    @field_validator("splits")
    @classmethod
    def _positive_and_complete(cls, value: dict[str, float]) -> dict[str, float]:
        try:
            return check_shares(value)
        except UsageError as error:
            raise ValueError(str(error)) from error


@dataclass
class Exported:
    """What `write_dataset` did."""

    tally: card.Tally
    files: dict[str, list[str]]
    """Split -> file names below `data/`."""
    place: dict[str, tuple[str, int]]
    """Pair id -> split and number of its file."""
    failed: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Pair id -> outcome of a pair whose images could not be shipped."""
    removed: int = 0


class Export(TableStep):
    """Writes `RUN/dataset`; its own table has one row per pair with the split and the file that it went to."""

    kind: ClassVar[str] = "export"
    summary: ClassVar[str] = "Write the data set: Parquet with images, splits by identity, a data card."
    reuses_rows: ClassVar[bool] = False
    Settings: ClassVar[type[Settings]] = ExportSettings

    def reads(self, available: Mapping[str, pa.Field]) -> tuple[str, ...]:
        return NEEDED

    def is_in_place(self, run_dir: Path) -> bool:
        return (run_dir / "dataset").is_dir()

    def writes(self, available: Mapping[str, pa.Field]) -> pa.Schema:
        return ADDED

    def run(self, table: Table, context: TableContext) -> Iterator[pa.Table]:
        run_dir = Path(context.run_dir)
        manifest = Run(run_dir).manifest
        done = write_dataset(
            table, run_dir / "dataset", manifest, self.settings, seed=context.seed, store_root=run_dir / "media"
        )
        context.statistics.update(done.tally.statistics())
        context.statistics["files"] = done.files
        for batch in KeptRows(table.path).batches():
            yield _outcomes(batch, done)


def _outcomes(batch: pa.Table, done: Exported) -> pa.Table:
    rows = []
    for pair in batch["id"].to_pylist():
        if pair in done.place:
            split, number = done.place[pair]
            rows.append({"split": split, "file": f"data/{done.files[split][number]}", "status": KEPT})
        else:
            rows.append(done.failed[pair])
    added = pa.Table.from_pylist(rows, schema=pa.schema([*ADDED, *OUTCOME]))
    for name in added.column_names:
        batch = batch.append_column(added.schema.field(name), added[name])
    return batch


def write_dataset(
    table: Table,
    target: Path,
    manifest: facts.Manifest,
    settings: ExportSettings,
    *,
    seed: int,
    store_root: Path,
    remove: frozenset[str] = frozenset(),
) -> Exported:
    """Write the kept pairs of `table` to the folder `target`, replacing it as a whole at the end.

    Reads the table twice: narrow columns to assign identities to splits, then all of it, some 100 rows at a time;
    memory holds one row group per split, and ids of the pairs and images. Identities in `remove` are left out, and the
    splits of the others do not change by that. Raises QualityError when no pair is left.
    """
    pairs = KeptRows(table.path)
    sizes: dict[str, int] = {}
    for batch in pairs.batches(["identity"], 65_536):
        for counted in pc.value_counts(batch["identity"]).to_pylist():
            sizes[counted["values"]] = sizes.get(counted["values"], 0) + counted["counts"]
    if not sum(size for identity, size in sizes.items() if identity not in remove):
        raise QualityError("No pair is left to export.", "Loosen the gates (`idtool tune`), or give other input.")
    split_of = assign(sizes, settings.splits, seed)
    work = target.with_name(f".{target.name}.writing")
    target.parent.mkdir(parents=True, exist_ok=True)
    folders.recover(target)
    shutil.rmtree(work, ignore_errors=True)
    (work / "data").mkdir(parents=True)
    try:
        schema = dataset.dataset_schema(pairs.schema)
        done, removed_images = _write_files(pairs, work, schema, settings, split_of, store_root, remove)
        if not done.place:
            reasons = "; ".join(sorted({outcome["message"] for outcome in done.failed.values()})[:3])
            raise QualityError(f"No pair could be exported: {reasons}.", "See `idtool explain` on one of them.")
        (work / "README.md").write_text(card.render(manifest, done.tally, schema, settings.splits), encoding="utf-8")
        dataset.verify(work, len(done.place), set(remove), removed_images)
        folders.write_checksums(work)
        folders.replace_folder(work, target)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return done


def _write_files(
    pairs: Table,
    work: Path,
    schema: pa.Schema,
    settings: ExportSettings,
    split_of: Mapping[str, str],
    store_root: Path,
    remove: frozenset[str],
) -> tuple[Exported, set[str]]:
    source = dataset.ImageSource(store_root)
    size = settings.file_megabytes * 1_000_000
    # A share that no identity could fill has no files: an empty split would not open.
    names = [split for split in settings.splits if split in {split_of[name] for name in split_of if name not in remove}]
    writers = {split: dataset.SplitWriter(work / "data", split, schema, size) for split in names}
    done = Exported(card.Tally(settings.splits), {}, {})
    removed_images: set[str] = set()
    for batch in pairs.batches(rows=dataset.GROUP_ROWS):
        public = dataset.without_paths(batch)
        for number, row in enumerate(batch.select([*NEEDED, *_origins(batch)]).to_pylist()):
            if row["identity"] in remove:
                removed_images |= {row["a_id"], row["b_id"]}
                # Without their files, which may be gone already, the ids have to do.
                with contextlib.suppress(Rejected, OSError, ValueError):
                    removed_images |= {dataset.digest(image) for image in _images(source, row).values()}
                done.removed += 1
                continue
            try:
                images = _images(source, row)
            except (Rejected, OSError, ValueError) as error:
                if isinstance(error, OSError) and error.errno in STORAGE_ERRNOS:
                    raise
                # The data passed every gate before: that it cannot be read now is no fault of its own.
                done.failed[row["id"]] = {**outcome_of(error), "status": ERROR}
                continue
            split = split_of[row["identity"]]
            one = public.slice(number, 1)
            done.place[row["id"]] = (split, writers[split].add(one, images))
            done.tally.add(split, one.to_pylist()[0], images)
    done.files = {split: writer.close() for split, writer in writers.items() if writer.rows}
    return done, removed_images


def _images(source: dataset.ImageSource, row: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """`a_image` and `b_image` of a pair."""
    return {
        f"{side}_image": source.get(row[f"{side}_id"], row[f"{side}_media"], row.get(f"{side}_origin"))
        for side in dataset.SIDES
    }


def _origins(batch: pa.Table) -> list[str]:
    return [name for name in ("a_origin", "b_origin") if name in batch.column_names]


def export_run(
    run: Path,
    output: Path | None = None,
    *,
    remove_identity: tuple[str, ...] = (),
    splits: Mapping[str, float] | None = None,
) -> dict[str, Any]:
    """Write the data set of a finished run (again): to `RUN/dataset` as the recipe says, or to `output`, then also
    with other `splits` or without the people in `remove_identity`.

    Returns `{path, pairs, removed, failed, files, splits…}`. Raises UsageError when the run has no pairs, when an
    identity is unknown, and when `output` holds something else than a data set of this tool.
    """
    opened = Run(run)
    if output is None and (remove_identity or splits):
        raise UsageError(
            "A data set that differs from the run's recipe goes to a folder of its own.", "Add --output DIR."
        )
    table, own = _captioned(opened)
    changes = {"splits": check_shares(splits)} if splits else {}
    settings = ExportSettings.model_validate({**own, **changes})
    known = set(table.read(["identity"], kept_only=True)["identity"].to_pylist())
    for name in remove_identity:
        if name not in known:
            guess = nearest(name, known)
            hint = f"Did you mean {guess!r}?" if guess else f"It has {len(known)} identities."
            raise UsageError(f"{run} has no pairs of an identity {name!r}.", hint)
    target = (output or opened.path / "dataset").absolute()
    if output is not None and target.exists() and any(target.iterdir()) and not (target / folders.CHECKSUMS).exists():
        raise UsageError(f"{output} is not empty and holds no data set of this tool.", "Choose another --output.")
    with opened:
        done = write_dataset(
            table,
            target,
            opened.manifest,
            settings,
            seed=int(opened.manifest.get("seed", 0)),
            store_root=opened.store_root,
            remove=frozenset(remove_identity),
        )
    return {
        "path": str(target),
        "pairs": len(done.place),
        "removed": done.removed,
        "failed": len(done.failed),
        "files": done.files,
        **done.tally.statistics(),
    }


def _captioned(run: Run) -> tuple[Table, dict[str, Any]]:
    """The last finished table of pairs before the export, and the settings of the recipe's export."""
    own: dict[str, Any] = {}
    found: Table | None = None
    for entry in run.steps:
        if entry["kind"] == "export":
            own = facts.settings(entry) if entry["state"] == "done" else _asked_for(run)
        elif entry["state"] == "done":
            table = run.step_table(entry["index"])
            if set(NEEDED) <= set(table.schema.names):
                found = table
    if found is None:
        raise UsageError(f"{run.path} has no pairs to export.", "Run a recipe with a `pair` step to its end.")
    return found, {key: value for key, value in own.items() if key in ExportSettings.model_fields}


def _asked_for(run: Run) -> dict[str, Any]:
    """Settings of the export in the recipe of a run that did not come to it."""
    import yaml

    recipe = run.path / "recipe.yaml"
    steps = yaml.safe_load(recipe.read_text(encoding="utf-8"))["steps"] if recipe.is_file() else []
    return next((dict(step) for step in steps if step["step"] == "export"), {})
