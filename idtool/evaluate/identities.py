"""The people of a benchmark: their reference pictures and what labels say of them, from wherever they are kept.

A source is a folder (a sub-folder per person; a picture beside them is a person by itself, named like the file), a
manifest (.csv .tsv .jsonl .ndjson .parquet with columns path, identity, and any of age, ethnicity, gender, class,
caption …), a run of `idtool curate`, a data set that one exported, or `sample`, the built-in synthetic people.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow.parquet as pq

from idtool.engine.table import KeptRows
from idtool.errors import UsageError
from idtool.evaluate.samples import key_of
from idtool.media.formats import IMAGE_EXTENSIONS
from idtool.media.paths import from_uri, printable, to_uri
from idtool.media.place import Place
from idtool.media.sources import list_sources
from idtool.media.store import SCHEME, MediaStore
from idtool.models.weights import cache_dir
from idtool.run import MANIFEST, Run

SAMPLE = "sample"
CAPTIONS = ("caption", "text")
"""Columns that hold a caption, the first that has one."""
PEOPLE = 6
"""In the synthetic sample: fewer, and no difference between two methods could ever be significant."""
_PORTRAIT = re.compile(r"portrait_\d+\.png")
"""Files of the built-in sample that are not made bad on purpose."""
_SIDES = ("", "a_", "b_")
"""Prefixes of image columns, in tables of images and of pairs."""
_COLUMNS = ("kind", "identity_label", "extra", *CAPTIONS)
"""What is read of an image besides the image."""
Announce = Callable[[str], None]


@dataclass(frozen=True)
class Identity:
    """A person, or whatever else a suite is about."""

    label: str
    references: tuple[str, ...]
    """Table text of their pictures (`idtool.media.paths.to_uri`), sorted."""
    attributes: Mapping[str, str] = field(default_factory=dict)
    """What labels of the source say: age, ethnicity, gender, class word and the like. Never guessed."""
    captions: Mapping[str, str] = field(default_factory=dict)
    """Picture -> its caption, where it has one."""

    def without(self, uris: Collection[str]) -> Identity:
        """The person without some of their pictures."""
        return replace(self, references=tuple(uri for uri in self.references if uri not in uris))


@dataclass(frozen=True)
class Picture:
    """One picture of a source."""

    uri: str
    label: str | None
    """Who it shows; None: the source does not say."""
    attributes: Mapping[str, str] = field(default_factory=dict)
    caption: str | None = None


def read_identities(
    source: str | None, *, limit: int | None = None, folder: Path | None = None, announce: Announce | None = None
) -> list[Identity]:
    """The people of a source, sorted by label, whatever the order of its files. `limit`: the first so many. `folder`:
    see `pictures_of`. An attribute is what the first picture says that says it. UsageError for a source that cannot be
    read, that has no pictures, or that does not say whose one of them is."""
    if not source:
        raise UsageError("Nothing says who is to be shown.", "Give --identities a folder, a manifest or a curated run.")
    found: dict[str, list[Picture]] = {}
    for picture in pictures_of(source, folder=folder, announce=announce):
        if picture.label is None:
            name = printable(from_uri(picture.uri))
            raise UsageError(f"{source} does not say who {name} shows.", "Fill the column `identity` in every row.")
        found.setdefault(picture.label, []).append(picture)
    if not found:
        raise UsageError(f"{source} has no pictures of people.", "Give a folder with a sub-folder for each person.")
    return [_identity(label, found[label]) for label in sorted(found)][:limit]


def pictures_of(source: str, *, folder: Path | None = None, announce: Announce | None = None) -> Iterator[Picture]:
    """Every picture of a source once; videos are left out. An exported data set holds its pictures inside tables: they
    are written to `folder`, by default below the cache."""
    path = Path(source).expanduser()
    if source == SAMPLE:
        from idtool.sample import make_sample

        manifest = make_sample(cache_dir() / "sample", people=PEOPLE, announce=announce) / "manifest.csv"
        listed = (one for one in _listed(str(manifest)) if _PORTRAIT.fullmatch(PurePosixPath(one.uri).name))
        yield from listed
    elif (path / MANIFEST).is_file():
        yield from _of_run(Run(path))
    elif path.is_dir() and (tables := sorted((path / "data").glob("*.parquet"))):
        yield from _of_dataset(tables, MediaStore(folder or cache_dir() / "references"))
    else:
        yield from _listed(source)


def with_measured(people: Sequence[Identity], rows: Mapping[str, Mapping[str, Any]]) -> list[Identity]:
    """The people with age (years) and gender by measure `attributes` where no label says them. `rows`: columns by the
    key of a picture (`idtool.evaluate.samples.key_of`); the first picture that was measured counts."""
    out = []
    for one in people:
        looked = (rows.get(key_of(uri), {}) for uri in one.references)
        seen = next((columns for columns in looked if columns.get("age") is not None), None)
        measured = {}
        if seen is not None:
            measured = {"age": f"{seen['age']:.0f}", "gender": "female" if seen["female"] >= 0.5 else "male"}
        out.append(replace(one, attributes={**measured, **one.attributes}))
    return out


def _identity(label: str, pictures: Sequence[Picture]) -> Identity:
    ordered = sorted(pictures, key=lambda one: one.uri)
    attributes: dict[str, str] = {}
    for one in ordered:
        for name, value in one.attributes.items():
            attributes.setdefault(name, value)
    captions = {one.uri: one.caption for one in ordered if one.caption}
    return Identity(label, tuple(one.uri for one in ordered), attributes, captions)


def _listed(source: str) -> Iterator[Picture]:
    """Pictures of a folder or a manifest."""
    in_folder = Place.of(source).is_folder
    for row in list_sources([source]):
        if not row["name"]:
            raise UsageError(f"{row['uri'].replace('#', ', row ')} has no path.", "Give every row its picture.")
        if PurePosixPath(row["name"]).suffix.lower() not in IMAGE_EXTENSIONS:
            continue
        told = _told(row["extra"])
        of_place = row["group"].split("/")[0] or PurePosixPath(row["name"]).stem
        label = of_place if in_folder else row["identity_label"]
        yield Picture(row["uri"], label, _attributes(told), _caption(None, told))


def _of_run(run: Run) -> Iterator[Picture]:
    """Pictures of the last table of a curated run that has any: those of its data set where it came so far."""
    for entry in reversed(run.steps):
        if entry["state"] != "done":
            continue
        table = KeptRows(run.step_table(entry["index"]).path)
        sides = [side for side in _SIDES if f"{side}media" in table.schema.names]
        if sides and {"identity", *(f"{side}identity_label" for side in sides)} & set(table.schema.names):
            break
    else:
        raise UsageError(f"{run.path} has no pictures of people.", "Give the folder of a run of `idtool curate`.")
    columns = ["identity", *(f"{side}{name}" for side in sides for name in ("media", *_COLUMNS))]
    seen: set[str] = set()
    for batch in table.batches([name for name in columns if name in table.schema.names]):
        for row in batch.to_pylist():
            for side in sides:
                media = row[f"{side}media"]
                if media.startswith(SCHEME):
                    media = to_uri(MediaStore(run.store_root).path(media))
                if media not in seen and row.get(f"{side}kind") != "video":
                    seen.add(media)
                    yield _of_row(row, side, media)


def _of_dataset(tables: Sequence[Path], store: MediaStore) -> Iterator[Picture]:
    """Pictures of an exported data set, put into `store` on the way."""
    seen: set[str] = set()
    for path in tables:
        with pq.ParquetFile(path) as file:
            names = file.schema_arrow.names
            sides = [side for side in _SIDES if f"{side}image" in names]
            if not sides:
                raise UsageError(f"{path} has no column image, nor a_image and b_image.", "Is it a data set of idtool?")
            wanted = ["identity", *(f"{side}{name}" for side in sides for name in ("image", *_COLUMNS))]
            for batch in file.iter_batches(batch_size=16, columns=[name for name in wanted if name in names]):
                for row in batch.to_pylist():
                    for side in sides:
                        image = row[f"{side}image"]
                        ref = store.put(image["bytes"], PurePosixPath(image["path"]).suffix)
                        if ref not in seen:
                            seen.add(ref)
                            yield _of_row(row, side, to_uri(store.path(ref)))


def _of_row(row: Mapping[str, Any], side: str, uri: str) -> Picture:
    told = _told(row.get(f"{side}extra"))
    label = row.get("identity") or row.get(f"{side}identity_label")
    written = next((row[f"{side}{name}"] for name in CAPTIONS if row.get(f"{side}{name}")), None)
    return Picture(uri, label, _attributes(told), _caption(written, told))


def _told(extra: str | None) -> dict[str, Any]:
    """Further columns of a manifest, by lower-case name."""
    return {name.strip().lower(): value for name, value in json.loads(extra).items()} if extra else {}


def _attributes(told: Mapping[str, Any]) -> dict[str, str]:
    return {
        name: str(value)
        for name, value in told.items()
        if name not in CAPTIONS and isinstance(value, str | int | float) and not isinstance(value, bool)
    }


def _caption(written: str | None, told: Mapping[str, Any]) -> str | None:
    found = written or next((told[name] for name in CAPTIONS if told.get(name)), None)
    return " ".join(str(found).split()) or None if found else None
