"""Writing a data set: rows to splits by person, pictures beside them, a card, checksums; all of it or nothing."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

from idtool.curate import card, dataset, facts, formats, record_files
from idtool.curate.destination import Destination
from idtool.curate.formats.base import target_side, text_of
from idtool.curate.formats.check import checked
from idtool.curate.formats.removal import FILE, Leaving, Proof, Removed, in_colour, prove, still_there
from idtool.curate.layout import Layout, further_pictures
from idtool.curate.splits import assign
from idtool.engine.operator import ERROR, STORAGE_ERRNOS, Rejected, outcome_of
from idtool.engine.table import Table
from idtool.errors import QualityError
from idtool.manifest_folder import write_json
from idtool.models.caption_checks import mentions

Images = dict[str, dict[str, Any] | None]


@dataclass(frozen=True)
class Target:
    """What is asked for."""

    layout: Layout
    splits: Mapping[str, float]
    file_bytes: int
    """Of one file that holds many rows, at most about so many."""
    format: type[formats.Format]
    files: bool = False
    """Also a JSON file per row, with its pictures as files."""


@dataclass
class Exported:
    """What `write_dataset` did."""

    tally: card.Tally
    files: dict[str, list[str]]
    """Split -> its files, relative to the folder."""
    place: dict[str, tuple[str, int]]
    """Row id -> split and number of its file."""
    removed: Removed
    failed: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Row id -> outcome of a row whose images could not be shipped."""
    without_text: int = 0
    """Rows whose caption for trainers is empty."""
    proof: dict[str, Any] | None = None


def write_dataset(
    rows: Table,
    destination: Destination,
    manifest: facts.Manifest,
    wanted: Target,
    *,
    seed: int,
    store_root: Path,
    leaving: Leaving | None = None,
) -> Exported:
    """Write all of `rows` to `destination`, replacing what is there as a whole at the end.

    Reads the table twice: narrow columns to assign identities to splits, then all of it, some 100 rows at a time;
    memory holds one row group per split, and ids of the rows and images. A row of no identity is a person of its own.
    The people `leaving` are left out, and the splits of the others do not change by that; that they are out is proved
    by reading back what was written, before it takes its place (`removal.json`). Raises QualityError when no row is
    left and when the proof fails; what it found is then in the destination's `failure`.
    """
    wanted.format.check(wanted.layout)
    noun = wanted.layout.noun
    remove = leaving.identities if leaving else frozenset()
    sizes: dict[str, int] = {}
    for batch in rows.batches(["identity", "id"], 65_536):
        for row in batch.to_pylist():
            sizes[_person(row)] = sizes.get(_person(row), 0) + 1
    if not sum(size for person, size in sizes.items() if person not in remove):
        raise QualityError(f"No {noun} is left to export.", "Loosen the gates (`idtool tune`), or give other input.")
    split_of = assign(sizes, wanted.splits, seed)
    manifest = {**manifest, "inputs": _inputs(manifest, remove)} if remove else manifest
    failure = destination.failure
    alike: set[str] = set()
    with destination:
        done, proof = _written(rows, destination, manifest, wanted, split_of, store_root, leaving, alike)
        if leaving and leaving.alike and proof and proof.alike:
            alike = proof.alike
            done, proof = _written(rows, destination, manifest, wanted, split_of, store_root, leaving, alike)
        if proof is not None:
            done.proof = proof.as_json(wanted.format.name, len(alike))
            if not proof.holds:
                write_json(failure, done.proof)
                raise still_there(proof, destination.shown, failure)
            write_json(destination.work / FILE, done.proof)
            failure.unlink(missing_ok=True)
        destination.commit()
    return done


def _written(
    rows: Table,
    destination: Destination,
    manifest: facts.Manifest,
    wanted: Target,
    split_of: Mapping[str, str],
    store_root: Path,
    leaving: Leaving | None,
    alike: Collection[str],
) -> tuple[Exported, Proof | None]:
    """Write the data set, without the rows `alike`, and read it back."""
    layout, form = wanted.layout, wanted.format
    destination.begin()
    work = destination.work
    done = _write_files(rows, destination, wanted, split_of, store_root, leaving, alike)
    if not done.place:
        reasons = "; ".join(sorted({outcome["message"] for outcome in done.failed.values()})[:3])
        why = f"No {layout.noun} could be exported: {reasons}." if reasons else f"No {layout.noun} is left to export."
        raise QualityError(why, "See `idtool explain` on one of them.")
    schema = _schema(rows, wanted)
    text = card.render(manifest, done.tally, schema, wanted.splits, files=wanted.files, format=form)
    (work / "README.md").write_text(text, encoding="utf-8")
    if wanted.files:
        record_files.verify(work, done.place)
    whole = leaving is not None
    back = destination.read_back(form, layout, whole=whole)
    found = checked(back, destination.shown, layout, done.place, whole=whole)
    proof = None
    if leaving is None:
        deque(found, maxlen=0)
    else:
        proof = prove(found, done.removed, leaving.faces, layout)
    return done, proof


def _inputs(manifest: facts.Manifest, remove: frozenset[str]) -> list[str]:
    """The inputs that the card may name: none that is called like a removed person."""
    named = [(str(source), card.public_name(str(source))) for source in manifest.get("inputs", [])]
    return [source for source, name in named if name not in remove and not mentions(name, remove)]


def _schema(rows: Table, wanted: Target) -> pa.Schema:
    """Of the data set; without pictures that steps made where the format has none."""
    schema = dataset.dataset_schema(rows.schema, wanted.layout)
    if wanted.format.made:
        return schema
    made = set(further_pictures(rows.schema))
    return pa.schema([column for column in schema if column.name not in made], metadata=schema.metadata)


def _person(row: Mapping[str, Any]) -> str:
    """By whom a row is counted and assigned to a split."""
    return row["identity"] if row["identity"] is not None else f"\0{row['id']}"


def _write_files(
    rows: Table,
    destination: Destination,
    wanted: Target,
    split_of: Mapping[str, str],
    store_root: Path,
    leaving: Leaving | None,
    alike: Collection[str],
) -> Exported:
    layout = wanted.layout
    source = dataset.ImageSource(store_root)
    schema = _schema(rows, wanted)
    writer = wanted.format(destination.work, schema, layout, wanted.file_bytes)
    writer.spool = destination
    remove = leaving.identities if leaving else frozenset()
    done = Exported(card.Tally(wanted.splits, layout), {}, {}, Removed(remove))
    made = further_pictures(rows.schema)
    shipped = made if wanted.format.made else []
    for batch in rows.batches(rows=dataset.GROUP_ROWS):
        public = dataset.without_paths(batch, layout)
        for number, row in enumerate(batch.select(_looked_at(batch, layout, made)).to_pylist()):
            if _person(row) in remove:
                _leave_out(row, source, layout, made, done.removed)
                continue
            if row["id"] in alike:
                continue
            try:
                images = _images(source, row, layout, shipped)
            except (Rejected, OSError, ValueError) as error:
                if isinstance(error, OSError) and error.errno in STORAGE_ERRNOS:
                    raise
                # The data passed every gate before: that it cannot be read now is no fault of its own.
                done.failed[row["id"]] = {**outcome_of(error), "status": ERROR}
                continue
            split = split_of[_person(row)]
            one = public.slice(number, 1)
            plain = one.to_pylist()[0]
            shown = {name: plain[name] for name in schema.names if name in plain and name not in images}
            done.place[row["id"]] = (split, writer.add(split, formats.Item(row["id"], one, shown, images)))
            done.tally.add(split, plain, images)
            done.without_text += wanted.format.texts and not text_of(plain, target_side(layout))
            if wanted.files:
                record_files.write(destination.work, split, shown, images)
    files = writer.close()
    done.files = {split: files[split] for split in wanted.splits if split in files}
    return done


def _leave_out(
    row: Mapping[str, Any], source: dataset.ImageSource, layout: Layout, made: Iterable[str], removed: Removed
) -> None:
    """Remember what must not be in the data set: ids, and the bytes of what would have been shipped. Masks are shapes,
    which two people may share; pictures in colour are of the person."""
    removed.rows += 1
    removed.images |= {row[name] for name in layout.ids}
    try:
        images = _images(source, row, layout, made)
    except (Rejected, OSError, ValueError):
        # Without their files, which may be gone already, the ids have to do.
        removed.unread += 1
        return
    for name, image in images.items():
        if image and (name in layout.images or in_colour(image["bytes"])):
            removed.digests.add(dataset.digest(image))


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
