"""Where media come from: folders, single files, manifests, local or on any fsspec file system, as listing rows.

A row is a dict of the columns of `SCHEMA`. Local paths stand in `uri` as `idtool.media.paths.to_uri` writes them, so
that names of any bytes survive a table. Nothing is opened but folders and manifests: whether a file exists and is
what its name says is for the ingest step to find out.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

import pyarrow as pa

from idtool.errors import UsageError
from idtool.media.formats import IMAGE_EXTENSIONS, VIDEO_EXTENSIONS
from idtool.media.manifest import MANIFEST_EXTENSIONS, manifest_rows
from idtool.media.paths import local, printable
from idtool.media.place import Place
from idtool.media.walk import Found, Seen, walk_local, walk_remote

Row = dict[str, Any]

SCHEMA = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False, metadata={"doc": "first 32 hex digits of SHA-256 of the uri"}),
        pa.field("uri", pa.string(), nullable=False, metadata={"doc": "local path or URL of the original"}),
        pa.field("name", pa.string(), metadata={"doc": "file name"}),
        pa.field("group", pa.string(), metadata={"doc": "folder below the source, empty at its root"}),
        pa.field("identity_label", pa.string(), metadata={"doc": "who it shows, as the manifest says"}),
        pa.field("source", pa.string(), metadata={"doc": "where it comes from, as the manifest says"}),
        pa.field("licence", pa.string(), metadata={"doc": "licence, as the manifest says"}),
        pa.field("consent", pa.string(), metadata={"doc": "consent, as the manifest says"}),
        pa.field("extra", pa.string(), metadata={"doc": "other manifest columns, as a JSON object"}),
    ]
)
"""The listing table."""


class Listing(Iterator[Row]):
    """The rows of some sources, one at a time; `listed` and `skipped` count as it goes."""

    def __init__(self, places: Sequence[Place], limit: int | None) -> None:
        self.listed = 0
        self.skipped: Counter[str] = Counter()
        """Files and folders left out: `hidden`, `extension .txt`, `repeated`, `repeated folder`, `unreadable
        folder`, …"""
        self._seen = Seen()
        self._rows = islice(self._all(places), limit)

    def __next__(self) -> Row:
        row = next(self._rows)
        self.listed += 1
        return row

    def _all(self, places: Sequence[Place]) -> Iterator[Row]:
        for place in places:
            left_out = Counter(self.skipped)
            found = False
            for row in self._one(place):
                found = True
                yield row
            left_out = self.skipped - left_out
            if not found and not left_out["repeated"] and not left_out["repeated folder"]:
                raise _nothing(place, left_out)

    def _one(self, place: Place) -> Iterator[Row]:
        if place.is_folder:
            walk = walk_local if place.filesystem is None else walk_remote
            yield from map(_row, walk(place, self._seen, self.skipped))
        elif place.name.lower().endswith(MANIFEST_EXTENSIONS):
            for row in manifest_rows(place):
                if self._is_new(row["uri"]):
                    yield {**row, "id": uri_id(row["uri"])}
        elif self._is_new(place.uri):
            yield _row(Found(place.uri, printable(place.name), ""))

    def _is_new(self, uri: str) -> bool:
        path = local(uri)
        new = self._seen.new_url(uri) if path is None else self._seen.new_file(path)
        self.skipped["repeated"] += not new
        return new


def list_sources(inputs: Sequence[str], limit: int | None = None) -> Listing:
    """List the media of `inputs`, in the order given, each folder sorted by path; every file once.

    An input is a folder (read with all below; symbolic links followed, each real folder once; hidden files and
    unknown extensions left out and counted), a file of any name, a manifest (.csv .tsv .jsonl .ndjson .parquet with a
    column for the path), or an fsspec URL of one of these. Files that a manifest names are listed even when they do
    not exist. Raises UsageError: at once for an input that does not exist; while iterating for one without media, and
    for a broken manifest. Raises MissingError for a URL whose file system is not installed.
    """
    if not inputs:
        raise UsageError("no input given.", "Name a folder, a file or a manifest with --input.")
    return Listing([Place.of(given) for given in inputs], limit)


def uri_id(uri: str) -> str:
    """The id of a listing row: the first 32 hex digits of the SHA-256 of its uri."""
    return hashlib.sha256(uri.encode()).hexdigest()[:32]


def _row(found: Found) -> Row:
    row: Row = dict.fromkeys(SCHEMA.names)
    row.update(id=uri_id(found.uri), uri=found.uri, name=found.name, group=found.group)
    return row


def _nothing(place: Place, left_out: Counter[str]) -> UsageError:
    if not place.is_folder:
        return UsageError(f"manifest {place.shown} has no rows.", "Give it one row for each image or video.")
    counts = ", ".join(f"{count} {what}" for what, count in left_out.most_common(5))
    return UsageError(
        f"no image or video in folder {place.shown}" + (f" (left out: {counts})." if counts else ": it is empty."),
        f"Looked here and in all folders below for {' '.join(sorted(IMAGE_EXTENSIONS))} and "
        f"{' '.join(sorted(VIDEO_EXTENSIONS))}.",
    )
