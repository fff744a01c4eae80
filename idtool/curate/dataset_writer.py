"""Writing a data set: rows to splits by person, pictures beside them, a card, checksums; all of it or nothing."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

from idtool.curate import card, dataset, facts, folders, record_files
from idtool.curate.layout import Layout, further_pictures
from idtool.curate.splits import assign
from idtool.engine.operator import ERROR, STORAGE_ERRNOS, Rejected, outcome_of
from idtool.engine.table import Table
from idtool.errors import QualityError

Images = dict[str, dict[str, Any] | None]


@dataclass(frozen=True)
class Target:
    """What is asked for."""

    layout: Layout
    splits: Mapping[str, float]
    file_bytes: int
    """Of one Parquet file, at most about so many."""
    files: bool = False
    """Also a JSON file per row, with its pictures as files."""


@dataclass
class Exported:
    """What `write_dataset` did."""

    tally: card.Tally
    files: dict[str, list[str]]
    """Split -> file names below `data/`."""
    place: dict[str, tuple[str, int]]
    """Row id -> split and number of its file."""
    failed: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Row id -> outcome of a row whose images could not be shipped."""
    removed: int = 0


def write_dataset(
    rows: Table,
    target: Path,
    manifest: facts.Manifest,
    wanted: Target,
    *,
    seed: int,
    store_root: Path,
    remove: frozenset[str] = frozenset(),
) -> Exported:
    """Write all of `rows` to the folder `target`, replacing it as a whole at the end.

    Reads the table twice: narrow columns to assign identities to splits, then all of it, some 100 rows at a time;
    memory holds one row group per split, and ids of the rows and images. A row of no identity is a person of its own.
    Identities in `remove` are left out, and the splits of the others do not change by that. Raises QualityError when
    no row is left.
    """
    noun = wanted.layout.noun
    sizes: dict[str, int] = {}
    for batch in rows.batches(["identity", "id"], 65_536):
        for row in batch.to_pylist():
            sizes[_person(row)] = sizes.get(_person(row), 0) + 1
    if not sum(size for person, size in sizes.items() if person not in remove):
        raise QualityError(f"No {noun} is left to export.", "Loosen the gates (`idtool tune`), or give other input.")
    split_of = assign(sizes, wanted.splits, seed)
    work = target.with_name(f".{target.name}.writing")
    target.parent.mkdir(parents=True, exist_ok=True)
    folders.recover(target)
    shutil.rmtree(work, ignore_errors=True)
    (work / "data").mkdir(parents=True)
    try:
        schema = dataset.dataset_schema(rows.schema, wanted.layout)
        done, removed_images = _write_files(rows, work, schema, wanted, split_of, store_root, remove)
        if not done.place:
            reasons = "; ".join(sorted({outcome["message"] for outcome in done.failed.values()})[:3])
            raise QualityError(f"No {noun} could be exported: {reasons}.", "See `idtool explain` on one of them.")
        text = card.render(manifest, done.tally, schema, wanted.splits, files=wanted.files)
        (work / "README.md").write_text(text, encoding="utf-8")
        dataset.verify(work, len(done.place), set(remove), removed_images, wanted.layout)
        if wanted.files:
            record_files.verify(work, done.place)
        folders.write_checksums(work)
        folders.replace_folder(work, target)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return done


def _person(row: Mapping[str, Any]) -> str:
    """By whom a row is counted and assigned to a split."""
    return row["identity"] if row["identity"] is not None else f"\0{row['id']}"


def _write_files(
    rows: Table,
    work: Path,
    schema: pa.Schema,
    wanted: Target,
    split_of: Mapping[str, str],
    store_root: Path,
    remove: frozenset[str],
) -> tuple[Exported, set[str]]:
    layout = wanted.layout
    source = dataset.ImageSource(store_root)
    # A share that no identity could fill has no files: an empty split would not open.
    names = [split for split in wanted.splits if split in {split_of[name] for name in split_of if name not in remove}]
    writers = {split: dataset.SplitWriter(work / "data", split, schema, wanted.file_bytes) for split in names}
    done = Exported(card.Tally(wanted.splits, layout), {}, {})
    removed_images: set[str] = set()
    made = further_pictures(rows.schema)
    for batch in rows.batches(rows=dataset.GROUP_ROWS):
        public = dataset.without_paths(batch, layout)
        for number, row in enumerate(batch.select(_looked_at(batch, layout, made)).to_pylist()):
            if _person(row) in remove:
                removed_images |= {row[name] for name in layout.ids}
                # Without their files, which may be gone already, the ids have to do.
                with contextlib.suppress(Rejected, OSError, ValueError):
                    removed_images |= {
                        dataset.digest(image) for image in _images(source, row, layout).values() if image
                    }
                done.removed += 1
                continue
            try:
                images = _images(source, row, layout, made)
            except (Rejected, OSError, ValueError) as error:
                if isinstance(error, OSError) and error.errno in STORAGE_ERRNOS:
                    raise
                # The data passed every gate before: that it cannot be read now is no fault of its own.
                done.failed[row["id"]] = {**outcome_of(error), "status": ERROR}
                continue
            split = split_of[_person(row)]
            one = public.slice(number, 1)
            plain = one.to_pylist()[0]
            done.place[row["id"]] = (split, writers[split].add(one, images))
            done.tally.add(split, plain, images)
            if wanted.files:
                shown = {name: plain[name] for name in schema.names if name in plain and name not in images}
                record_files.write(work, split, shown, images)
    done.files = {split: writer.close() for split, writer in writers.items() if writer.rows}
    return done, removed_images


def _looked_at(batch: pa.Table, layout: Layout, made: Sequence[str]) -> list[str]:
    origins = [f"{side}origin" for side in layout.sides]
    return [name for name in dict.fromkeys((*layout.needed, *origins, *made)) if name in batch.column_names]


def _images(source: dataset.ImageSource, row: Mapping[str, Any], layout: Layout, made: Iterable[str] = ()) -> Images:
    """The pictures of a row, by column of the data set."""
    images: Images = {
        name: source.get(row[f"{side}id"], row[f"{side}media"], row.get(f"{side}origin"))
        for name, side in layout.images.items()
    }
    return images | {name: source.made(row[name], f"{row['id']}-{name}") for name in made}
