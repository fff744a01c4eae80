"""Manifests: a CSV, TSV, JSON-lines or Parquet file that names media and what is known of them."""

from __future__ import annotations

import csv
import json
import math
import posixpath
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import IO, Any

from idtool.errors import UsageError
from idtool.media.paths import holds_login, is_url, printable, to_uri, without_login
from idtool.media.place import Place

MANIFEST_EXTENSIONS = (".csv", ".tsv", ".jsonl", ".ndjson", ".parquet")
PATH_COLUMNS = ("path", "file", "file_name", "filename", "image", "video", "uri", "url")
"""Accepted names of the column that holds the path; of several, the first that has a value in the row."""
_MEANING = {
    "identity": "identity_label",
    "identity_label": "identity_label",
    "source": "source",
    "licence": "licence",
    "license": "licence",
    "consent": "consent",
}
Row = dict[str, Any]


def manifest_rows(place: Place) -> Iterator[Row]:
    """Listing columns (without `id`) of every row, in order. Paths are relative to the manifest's folder; columns of
    no known meaning go into `extra`, pictures and other bytes left out. A row without a path gets the uri
    `<manifest>#<row number>`, which names no file, so that it is accounted for. Raises UsageError for a manifest that
    cannot be read or has no path column."""

    def check(names: Iterable[str]) -> None:
        if not _path_columns(names):
            raise _no_path_column(place.shown, names)

    for number, values in enumerate(records(place, check), start=1):
        columns = _path_columns(values)
        if number == 1 and not columns:
            raise _no_path_column(place.shown, values)
        column = next((name for name in columns if not is_missing(values[name])), None)
        row = _known_columns(values, column)
        if column is None:
            row.update(uri=f"{place.uri}#{number}", name="", group="")
        elif isinstance(values[column], Mapping | list | bytes):
            raise UsageError(
                f"manifest {place.shown}, row {number}: column {column!r} holds no path but "
                f"{'bytes' if isinstance(values[column], bytes) else 'a structure'}.",
                "Name the column of paths `path`. Pictures inside a manifest are not read; export them to files.",
            )
        else:
            path = str(values[column])
            if is_url(path) and holds_login(path):
                raise UsageError(
                    f"manifest {place.shown}, row {number}: a password stands in the URL {without_login(path)}, which "
                    "the run would keep.",
                    "Give the login to the file system instead, for example in fsspec's configuration.",
                )
            row.update(_located(path, place))
        yield row


def _path_columns(names: Iterable[str]) -> list[str]:
    """Those that may hold the path, the most telling first."""
    plain = {str(name).strip().lower(): name for name in names}
    return [plain[name] for name in PATH_COLUMNS if name in plain]


def _no_path_column(shown: str, names: Iterable[str]) -> UsageError:
    return UsageError(
        f"manifest {shown} has no column for the path; its columns: {', '.join(map(str, names)) or 'none'}.",
        f"Name the column one of: {', '.join(PATH_COLUMNS)}.",
    )


def _known_columns(values: Mapping[str, Any], path_column: str | None) -> Row:
    row: Row = dict.fromkeys(("identity_label", "source", "licence", "consent", "extra"))
    extra: dict[str, Any] = {}
    for key, value in values.items():
        if key == path_column or is_missing(value) or isinstance(value, bytes):
            continue
        meaning = _MEANING.get(str(key).strip().lower())
        if meaning is None:
            extra[str(key)] = value
        elif row[meaning] is None:
            row[meaning] = printable(str(value))
    if extra:
        row["extra"] = printable(json.dumps(extra, sort_keys=True, ensure_ascii=False, default=str))
    return row


def _located(path: str, manifest: Place) -> Row:
    """Where a path of a manifest points to, and its name and group. One on a remote file system is taken below its
    own folder or by URL: it cannot name files of this machine."""
    if is_url(path) and (manifest.filesystem is None or not path.startswith("file://")):
        target = path.removeprefix("file://")
        uri = to_uri(target)
    elif manifest.filesystem is None:
        target = posixpath.normpath(posixpath.join(manifest.folder, path))
        uri = to_uri(target)
    else:
        inside = posixpath.normpath(posixpath.join("/", path.removeprefix("file://"))).lstrip("/")
        target = posixpath.join(manifest.folder, inside)
        uri = manifest.uri_of(target)
    folder, name = posixpath.split(target)
    group = folder.removeprefix(manifest.folder).strip("/") if folder.startswith(f"{manifest.folder}/") else ""
    return {"uri": uri, "name": printable(name), "group": printable(group)}


def is_missing(value: Any) -> bool:
    """Whether a cell of a table holds nothing."""
    return value is None or value == "" or (isinstance(value, float) and math.isnan(value))


def listed(value: Any) -> list[Any]:
    """A list of a Parquet or JSON file, or text with parts between semicolons."""
    if value is None:
        return []
    if isinstance(value, str):
        return [part.strip() for part in value.split(";") if part.strip()]
    return list(value) if isinstance(value, list | tuple) else [value]


def located(text: Any, place: Place) -> str:
    """Table text of a picture that a cell names: a URL, or a path relative to the table at `place`, below whose folder
    it stays where that is remote. ValueError for what is no text."""
    if not isinstance(text, str):
        raise ValueError(f"a reference is no path: {text!r}")
    if is_url(text):
        return to_uri(text)
    if place.filesystem is None:
        return to_uri(posixpath.normpath(posixpath.join(place.folder, text)))
    return place.uri_of(posixpath.join(place.folder, posixpath.normpath(posixpath.join("/", text)).lstrip("/")))


def whole(value: Any, name: str) -> int:
    """A whole number of a cell. ValueError, with the column's name, for anything else."""
    number = float(value)
    if number != int(number):
        raise ValueError(f"{name} is no whole number: {value!r}")
    return int(number)


def records(place: Place, check: Callable[[Iterable[str]], None] = lambda _: None) -> Iterator[Mapping[str, Any]]:
    """The rows of a CSV, TSV, JSON-lines or Parquet file, in order. `check` gets the header of a CSV, also of one
    without rows, and may refuse it. Raises UsageError for a file that cannot be read as its extension says."""
    extension = posixpath.splitext(place.name)[1].lower()
    with place.open() as file:
        if extension == ".parquet":
            yield from _parquet(file, place.shown)
        elif extension in (".jsonl", ".ndjson"):
            yield from _json_lines(_lines(file), place.shown)
        else:
            yield from _delimited(_lines(file), place.shown, "\t" if extension == ".tsv" else ",", check)


def _lines(file: IO[bytes]) -> Iterator[str]:
    """Text lines; bytes that are no UTF-8 are kept as surrogate escapes, as file names have them."""
    for number, line in enumerate(file):
        yield line.decode("utf-8-sig" if number == 0 else "utf-8", "surrogateescape")


def _delimited(
    lines: Iterator[str], shown: str, delimiter: str, check: Callable[[Iterable[str]], None]
) -> Iterator[Mapping[str, Any]]:
    reader = csv.DictReader(lines, delimiter=delimiter, strict=True, restkey="")
    try:
        if reader.fieldnames:
            check(reader.fieldnames)
        for record in reader:
            if record.get(""):
                raise UsageError(f"{shown}, line {reader.line_num}: more fields than the header has.")
            yield record
    except csv.Error as error:
        raise UsageError(f"{shown}, line {reader.line_num}: {error}.") from error


def _json_lines(lines: Iterator[str], shown: str) -> Iterator[Mapping[str, Any]]:
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except ValueError as error:
            raise UsageError(f"{shown}, line {number}: not JSON ({error}).") from error
        if not isinstance(record, dict):
            raise UsageError(f"{shown}, line {number}: expected a JSON object.")
        yield record


def _parquet(file: IO[bytes], shown: str) -> Iterator[Mapping[str, Any]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.ParquetFile(file)
        for batch in table.iter_batches(batch_size=1024):
            yield from batch.to_pylist()
    except pa.ArrowException as error:
        raise UsageError(f"{shown} is not a readable Parquet file: {error}.") from error
