"""The `ingest` step: from a listing of files to rows that are known to be images or videos, named by their content.

Reads every file once, in constant memory for videos; tells images from videos by their bytes, whatever the name says;
looks at headers only. A row's id becomes the hash of its bytes, so the same file is the same row in every run, and
files with the same bytes are found: all but the first (by uri) are rejected as `duplicate.exact`.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any, ClassVar, Literal

import pyarrow as pa
from pydantic import Field

from idtool.curate.exact import mark_exact
from idtool.curate.remote import on_disk
from idtool.engine.operator import Context, Operator, Rejected, Row, map_rows
from idtool.engine.step import Env, RowStep, Settings
from idtool.engine.table import Table
from idtool.evaluate.measures.base import column
from idtool.media.limits import MIB, PILLOW_MAX_PIXELS, Limits, check_bytes

Copy = Literal["auto", "always", "never"]

WRITES = pa.schema(
    [
        column("id", pa.string(), "first 32 hexadecimal digits of the SHA-256 of the content"),
        column("kind", pa.string(), "image or video, by the bytes"),
        column("media", pa.string(), "where the bytes are: a path, a URL, or store:… in the run's media folder"),
        column("format", pa.string(), "by the bytes, lower case: jpeg, png, mp4, …"),
        column("bytes", pa.int64(), "size of the file", "bytes"),
        column("width", pa.int32(), "after EXIF orientation or rotation", "px"),
        column("height", pa.int32(), "after EXIF orientation or rotation", "px"),
        column("short_side", pa.int32(), "the smaller of width and height", "px"),
        column("duration", pa.float64(), "of a video", "s"),
        column("fps", pa.float64(), "mean frame rate of a video", "1/s"),
        column("parent", pa.string(), "id of the row that this one was made from"),
        column("origin", pa.string(), "photo, video, frame, or the step that made it"),
    ]
)
HASH_CHUNK = 1 << 20
SUFFIXES = {"jpeg": ".jpg", "matroska": ".mkv", "mpegts": ".ts"}


with warnings.catch_warnings():
    # The name hides `BaseModel.copy`, a deprecated method that settings have no use for.
    warnings.filterwarnings("ignore", 'Field name "copy"')

    class IngestSettings(Settings):
        copy: Copy = "auto"  # type: ignore[assignment]
        """`auto`: remote files are copied into the run, local ones stay in place. `always`, `never`: as said."""
        max_pixels: int = Field(default=100_000_000, ge=1, le=PILLOW_MAX_PIXELS)
        """Of an image or of a video frame; larger ones are rejected unseen."""
        max_bytes: int = Field(default=256 * MIB, ge=1)
        """Of an image file."""
        max_video_bytes: int = Field(default=16 * 1024 * MIB, ge=1)


class Ingest(RowStep):
    """Rejects `missing_file`, `unreadable`, `empty`, `unsupported_format`, `too_large.…`, `no_video_stream`,
    `duplicate.exact`. A truncated image is found where it is first decoded."""

    kind = "ingest"
    Settings: ClassVar[type[Settings]] = IngestSettings
    summary = "read every file: what it is, its size, its content hash"

    settings: IngestSettings

    def __init__(self, settings: IngestSettings, env: Env) -> None:
        super().__init__(settings, env)

    def reads(self, available: Mapping[str, pa.Field]) -> tuple[str, ...]:
        return ("id", "uri", "name", "identity_label")

    def writes(self, available: Mapping[str, pa.Field]) -> pa.Schema:
        return WRITES

    def operators(self) -> list[Operator]:
        limits = Limits(
            max_pixels=self.settings.max_pixels,
            max_bytes=self.settings.max_bytes,
            max_video_bytes=self.settings.max_video_bytes,
        )
        return [
            ReadFiles(
                self.settings.copy,
                limits,
            )
        ]

    def finish(self, table: Table) -> Iterator[pa.Table]:
        return mark_exact(table, table.batches())


@dataclass
class ReadFiles(Operator):
    """Looks at the file of each row."""

    copy: Copy
    limits: Limits

    reads = ("uri", "name")
    writes = WRITES

    def config(self) -> dict[str, Any]:
        return {"copy": self.copy, "limits": asdict(self.limits)}

    def setup(self, context: Context) -> None:
        from idtool.media.store import MediaStore

        self.store = MediaStore(Path(context.run_dir) / "media")

    def __call__(self, batch: pa.Table) -> pa.Table:
        return map_rows(batch, self.read, WRITES)

    def read(self, row: Row) -> Row:
        """Columns for one row of the listing. Raises Rejected."""
        from idtool.media import formats
        from idtool.media.store import open_media

        with open_media(row["uri"]) as source:
            head = source.read(formats.HEAD_BYTES)
            found = formats.sniff(head)
            if not head:
                raise Rejected("empty", "the file has no bytes", value=0.0)
            if found is not None and found.kind == "video":
                return self._video(row["uri"], found.format, source)
            data = head + source.read(self.limits.max_bytes + 1 - len(head))
        return self._image(row["uri"], data)

    def _image(self, uri: str, data: bytes) -> Row:
        from idtool.media import images

        info = images.probe(data, self.limits)
        values: Row = {
            "id": hashlib.sha256(data).hexdigest()[:32],
            "kind": "image",
            "origin": "photo",
            "media": self.store.put(data, _suffix(info.format)) if self._copies(uri) else uri,
            "format": info.format,
            "bytes": len(data),
            **_size(info.width, info.height),
        }
        if info.frames > 1:
            values["message"] = f"{info.frames} pictures in one file: only the first is used"
        return values

    def _video(self, uri: str, format: str, source: IO[bytes]) -> Row:
        from idtool.media import video

        source.seek(0)
        if self._copies(uri):
            limit = self.limits.max_video_bytes
            media = self.store.put_stream(source, _suffix(format), max_bytes=limit, name=uri)
            path = self.store.path(media)
            digest, size = path.parent.name + path.stem, path.stat().st_size
        else:
            media = uri
            digest, size = _hash(source, self.limits.max_video_bytes, uri)
        with on_disk(media, self.store.root, self.limits.max_video_bytes) as local_file:
            info = video.probe_video(local_file, self.limits)
        return {
            "id": digest[:32],
            "kind": "video",
            "origin": "video",
            "media": media,
            "format": format,
            "bytes": size,
            "duration": info.duration,
            "fps": info.fps,
            **_size(info.width, info.height),
        }

    def _copies(self, uri: str) -> bool:
        from idtool.media.paths import local

        return self.copy == "always" or (self.copy == "auto" and local(uri) is None)


def _hash(source: IO[bytes], max_bytes: int, name: str) -> tuple[str, int]:
    """SHA-256 in hexadecimal digits and size of a stream, in constant memory. Raises Rejected `too_large.bytes`."""
    digest, size = hashlib.sha256(), 0
    while chunk := source.read(HASH_CHUNK):
        size += len(chunk)
        check_bytes(size, max_bytes, name)
        digest.update(chunk)
    return digest.hexdigest(), size


def _suffix(format: str) -> str:
    return SUFFIXES.get(format, f".{format}")


def _size(width: int, height: int) -> Row:
    return {"width": width, "height": height, "short_side": min(width, height)}
