"""The `frames` step: videos become images, each decoded once from beginning to end; photos pass through.

A frame's id is `<video id>-<milliseconds, 9 digits>` and its `parent` the video's, so that the same frame is the same
row in every run. `shot` numbers the uncut stretches of a video: pairs are made within one person, and a cut may
change who is seen.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field, model_validator

from idtool.curate.ingest import WRITES as INGESTED
from idtool.curate.remote import on_disk
from idtool.engine.operator import Context, Operator, Rejected, Row, map_rows, unchanged
from idtool.engine.step import Env, RowStep, Settings
from idtool.evaluate.measures.base import column
from idtool.media.limits import PILLOW_MAX_PIXELS, Limits

WRITES = pa.schema(
    [
        *INGESTED,
        column("time_ms", pa.int64(), "of a frame, since the video's first frame", "ms"),
        column("shot", pa.int32(), "of a frame: number of the uncut stretch of its video, from 0"),
    ]
)
PAPER_FPS = 20.0
"""DMID, §4.1.2: frame pairs are sampled at 20 frames per second."""


class FramesSettings(Settings):
    fps: float | None = Field(default=None, gt=0, le=1000)
    """At most so many frames a second; with neither `fps` nor `every`: 20, as the paper has it."""
    every: int | None = Field(default=None, ge=1)
    """Every n-th decoded frame instead."""
    shot_threshold: float = Field(default=0.35, gt=0, le=1)
    """Difference between two frames (0 to 1) from which the second begins a new shot."""
    quality: int = Field(default=95, ge=1, le=100)
    """JPEG quality of stored frames, at full colour resolution."""
    max_frames: int | None = Field(default=None, ge=1)
    """Per video; the rest is not read, and the frames say so. null: all."""
    max_seconds: float | None = Field(default=None, gt=0)
    """Per video; null: all."""
    max_pixels: int = Field(default=100_000_000, ge=1, le=PILLOW_MAX_PIXELS)

    @model_validator(mode="after")
    def _one_of(self) -> FramesSettings:
        if self.fps is not None and self.every is not None:
            raise ValueError("give fps or every, not both; set the other one to null")
        return self


class Frames(RowStep):
    """Rejects videos without frames; one that breaks off gives the frames up to there, which say so."""

    kind = "frames"
    Settings: ClassVar[type[Settings]] = FramesSettings
    summary = "cut videos into frames, shot by shot"
    # A video is minutes of work, a photo none: few rows, so that the videos of a small input spread over workers.
    shard_rows = 8

    settings: FramesSettings

    def __init__(self, settings: FramesSettings, env: Env) -> None:
        super().__init__(settings, env)

    def reads(self, available: Mapping[str, pa.Field]) -> tuple[str, ...]:
        return ("id", "kind", "media")

    def writes(self, available: Mapping[str, pa.Field]) -> pa.Schema:
        return WRITES

    def operators(self) -> list[Operator]:
        return [CutVideos(self.settings)]


@dataclass
class CutVideos(Operator):
    """Replaces each video by its frames."""

    settings: FramesSettings

    reads = ("id", "kind", "media")
    writes = WRITES

    def config(self) -> dict[str, Any]:
        return {}

    def setup(self, context: Context) -> None:
        from idtool.media.store import MediaStore

        self.store = MediaStore(Path(context.run_dir) / "media")
        self.threads = context.threads

    def __call__(self, batch: pa.Table) -> pa.Table:
        video = pc.fill_null(pc.equal(batch["kind"], "video"), False)
        photos = unchanged(batch.filter(pc.invert(video)), WRITES)
        videos = map_rows(batch.filter(video), self.cut, WRITES)
        return pa.concat_tables([photos, videos])

    def cut(self, row: Row) -> list[Row]:
        """The rows of a video's frames. Raises Rejected when it has none."""
        from idtool.media import images
        from idtool.media.video import iter_frames

        settings = self.settings
        limits = Limits(max_pixels=settings.max_pixels)
        children: list[Row] = []
        with on_disk(row["media"], self.store.root, limits.max_video_bytes) as path:
            reader = iter_frames(
                path,
                fps=settings.fps if settings.fps or settings.every else PAPER_FPS,
                every=settings.every,
                shot_threshold=settings.shot_threshold,
                max_frames=settings.max_frames,
                max_seconds=settings.max_seconds,
                threads=self.threads,
                limits=limits,
            )
            for frame in reader:
                data = images.encode(frame.image, "jpeg", settings.quality)
                height, width = frame.image.shape[:2]
                children.append(
                    {
                        "id": f"{row['id']}-{frame.time_ms:09d}",
                        "parent": row["id"],
                        "kind": "image",
                        "origin": "frame",
                        "media": self.store.put(data, ".jpg"),
                        "format": "jpeg",
                        "bytes": len(data),
                        "width": width,
                        "height": height,
                        "short_side": min(width, height),
                        "duration": None,
                        "fps": None,
                        "time_ms": frame.time_ms,
                        "shot": frame.shot,
                    }
                )
            note = reader.summary.note
        if not children:
            raise Rejected("no_frames", note or "no frame of the video can be decoded", value=0.0)
        return [{**child, "message": note} for child in children]
