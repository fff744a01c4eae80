"""The files of a data set: Parquet that the `datasets` library opens with images, in small row groups, replaced
as a whole or not at all."""

from __future__ import annotations

import hashlib
import json
import re
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import pyarrow as pa
import pyarrow.parquet as pq

from idtool.curate import metadata
from idtool.curate.layout import PAIRS, Layout, further_pictures
from idtool.curate.spool import Spool
from idtool.media import paths

GROUP_ROWS = 100
GROUP_BYTES = 64 << 20
CACHE_BYTES = 128 << 20
IMAGE = pa.struct([pa.field("bytes", pa.binary()), pa.field("path", pa.string())])

_KEEP_FORMATS = {"jpeg": "jpg", "png": "png", "webp": "webp"}
_SIGNED = re.compile(r"(^|&)(x-(amz|goog)-|awsaccesskeyid=|sig(nature)?=|[a-z_-]*(token|key|secret)=)", re.IGNORECASE)
_KEEP_MODES = {"RGB", "L"}


def dataset_schema(rows: pa.Schema, layout: Layout = PAIRS) -> pa.Schema:
    """The schema of the data set for a table of rows: the source images (`a_image` and `b_image`, or `image`) after the
    identity, pictures in place of references to them, no paths into this machine, and the metadata by which `datasets`
    decodes the images."""
    doc = "the image; boxes and points of this side are in its pixels" if layout is PAIRS else "the image"
    images = [pa.field(name, IMAGE, metadata={"doc": doc}) for name in layout.images]
    made = further_pictures(rows)
    rest = [
        pa.field(field.name, IMAGE, metadata=_without_mark(field)) if field.name in made else field
        for field in rows
        if field.name not in (*layout.media, *layout.dropped)
    ]
    first = [field for field in rest if field.name in ("id", "identity")]
    rest = [field for field in rest if field.name not in ("id", "identity")]
    features = {name: {"_type": "Image"} for name in (*layout.images, *made)}
    metadata = {"huggingface": json.dumps({"info": {"features": features}}, sort_keys=True)}
    return pa.schema([*first, *images, *rest], metadata=metadata)


def _without_mark(field: pa.Field) -> dict[bytes, bytes]:
    return {key: value for key, value in (field.metadata or {}).items() if key != b"holds"}


def encode_for_export(data: bytes) -> tuple[bytes, str]:
    """The bytes to ship and their file ending: the original file without its metadata if any reader shows it as the
    measures saw it (JPEG, PNG or WebP; grey or RGB; one frame; upright), else a PNG of the decoded pixels.

    Raises Rejected when the image cannot be decoded.
    """
    from idtool.media import images

    info = images.probe(data)
    if info.format in _KEEP_FORMATS and info.mode in _KEEP_MODES and info.frames == 1 and info.orientation == 1:
        bare = metadata.strip(data, info.format)
        if bare is not None:
            return bare, _KEEP_FORMATS[info.format]
    return images.encode(images.decode(data), "png"), "png"


def without_paths(batch: pa.Table, layout: Layout = PAIRS) -> pa.Table:
    """The rows as they may leave this machine: a local file's URI becomes its path inside the input, a URL loses
    user name and password."""
    for side in layout.sides:
        column = f"{side}uri"
        if column in batch.column_names:
            names = [f"{side}uri", f"{side}group", f"{side}name"]
            rows = batch.select([name for name in names if name in batch.column_names]).to_pylist()
            uris = [_public_uri(row[names[0]], row.get(names[1]), row.get(names[2])) for row in rows]
            index = batch.column_names.index(column)
            batch = batch.set_column(index, batch.schema.field(column), pa.array(uris, pa.string()))
    return batch


def _public_uri(uri: str | None, group: str | None, name: str | None) -> str | None:
    if uri is None:
        return None
    if paths.local(uri) is None:
        return public_url(uri)
    return "/".join(part for part in (group, name or PurePosixPath(uri).name) if part)


def public_url(url: str) -> str:
    """The URL without user name and password, and without its query where that holds a signature or a key."""
    parts = urlsplit(url)
    query = "" if _SIGNED.search(parts.query) else parts.query
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2], query=query))


class ImageSource:
    """Encoded images by reference. Neighbouring pairs share images, so the last ones read are kept (bounded)."""

    def __init__(self, store_root: Path) -> None:
        self.store_root = store_root
        self._cache: OrderedDict[str, dict[str, Any]] = OrderedDict()
        self._bytes = 0

    def get(self, image_id: str, media: str, origin: str | None) -> dict[str, Any]:
        """`{"bytes", "path"}` of one source image. Raises Rejected or OSError when it cannot be read, or is no longer
        the one that was measured."""
        if image_id in self._cache:
            self._cache.move_to_end(image_id)
            return self._cache[image_id]
        from idtool.media import store

        data = store.open_bytes(media, self.store_root)
        if origin == "photo" and not hashlib.sha256(data).hexdigest().startswith(image_id):
            raise OSError("the file has changed since it was measured; run curate again")
        encoded, ending = encode_for_export(data)
        image = {"bytes": encoded, "path": f"{image_id}.{ending}"}
        self._cache[image_id] = image
        self._bytes += len(encoded)
        while self._bytes > CACHE_BYTES and len(self._cache) > 1:
            self._bytes -= len(self._cache.popitem(last=False)[1]["bytes"])
        return image

    def made(self, ref: str | None, name: str) -> dict[str, Any] | None:
        """The same of a picture that a step put into the store, unchanged; None where there is none."""
        if ref is None:
            return None
        from idtool.media import store

        ending = ref.rpartition(".")[2]
        return {"bytes": store.open_bytes(ref, self.store_root), "path": f"{name}.{ending}"}


class SplitWriter:
    """Writes the files of one split: `<split>-00000-of-00003.parquet`, each at most about `file_bytes` long."""

    def __init__(
        self, folder: Path, split: str, schema: pa.Schema, file_bytes: int, spool: Spool | None = None
    ) -> None:
        self.folder, self.split, self.schema, self.file_bytes = folder, split, schema, file_bytes
        self.spool = spool or Spool()
        self.rows = 0
        self.files: list[Path] = []
        self._writer: pq.ParquetWriter | None = None
        self._written = 0
        self._rows: list[pa.Table] = []
        self._images: dict[str, list[dict[str, Any] | None]] = {
            field.name: [] for field in schema if field.type == IMAGE
        }
        self._buffered = 0

    def add(self, row: pa.Table, images: Mapping[str, dict[str, Any] | None]) -> int:
        """Add one row with its pictures; returns the number of the file that it is in."""
        size = sum(len(image["bytes"]) for image in images.values() if image)
        if self._rows and (len(self._rows) >= GROUP_ROWS or self._buffered + size > GROUP_BYTES):
            self._flush()
        if self._writer is None or self._written + self._buffered + size > self.file_bytes:
            self._next_file()
        self._rows.append(row)
        for name, image in images.items():
            self._images[name].append(image)
        self._buffered += size
        self.rows += 1
        return len(self.files) - 1

    def _next_file(self) -> None:
        self._close_file()
        path = self.folder / f"{self.split}-{len(self.files):05d}.parquet"
        # Dictionaries pay for the few repeated strings and only cost memory for images.
        words = [field.name for field in self.schema if pa.types.is_string(field.type)]
        self._writer = pq.ParquetWriter(path, self.schema, compression="zstd", use_dictionary=words)
        self.files.append(path)
        self._written = 0

    def _flush(self) -> None:
        if not self._rows or self._writer is None:
            return
        table = pa.concat_tables(self._rows)
        columns = [
            pa.array(self._images[field.name], IMAGE) if field.name in self._images else table[field.name]
            for field in self.schema
        ]
        self._writer.write_table(pa.table(columns, schema=self.schema), row_group_size=GROUP_ROWS)
        self._written += self._buffered
        self._rows, self._buffered = [], 0
        for name in self._images:
            self._images[name] = []

    def _close_file(self) -> None:
        self._flush()
        if self._writer is not None:
            self._writer.close()
            self._writer = None
            self.spool.closed(self.files[-1])

    def close(self) -> list[str]:
        """Finish; returns the final names, which tell how many files there are."""
        self._close_file()
        if not self.files:
            self._next_file()
            self._close_file()
        names = [f"{self.split}-{number:05d}-of-{len(self.files):05d}.parquet" for number in range(len(self.files))]
        renamed = [path.with_name(name) for path, name in zip(self.files, names, strict=True)]
        for path, new in zip(self.files, renamed, strict=True):
            self.spool.renamed(path, new)
        self.files = renamed
        return names


def digest(image: Mapping[str, Any]) -> str:
    """SHA-256 of the bytes of an exported image."""
    return hashlib.sha256(image["bytes"]).hexdigest()
