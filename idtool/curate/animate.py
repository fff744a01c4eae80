"""The `animate` step: pictures become the first frames of generated videos (role `i2v`), which step `frames` cuts
like any other video (DMID, App. A.4.1: "We utilize Wan2.1 to batch-generate videos with high-quality portraits as the
initial frames").

A clip has the frame rate of its network (Wan 16, LTX 25), whatever rate frames are sampled at later: DMID samples
pairs at 20 a second, so with Wan every frame is one, and how far apart two frames of a pair are is a matter of time for
step `pair`.

Offline there is no video network. The portrait network of the built-in sample walks on from the pictures that it made
(`idtool.models.latent_walk`), where the manifest's column `latent` says how; other pictures get no clip.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
from pydantic import Field

from idtool.curate import made
from idtool.curate.derived import Derives, attempt, derived_id, pixels_of
from idtool.curate.made import MADE
from idtool.engine.operator import Context, Operator, Rejected, Row, map_rows
from idtool.engine.step import Binding, Env, Settings
from idtool.media.limits import PILLOW_MAX_PIXELS
from idtool.models import format_of, why_not
from idtool.models.resources import Gpus, resources

Frames = np.ndarray[Any, np.dtype[np.uint8]]

ROLE = "i2v"
MOTIONS = (
    "The person slowly turns the head to one side and back, looking calm.",
    "The person looks into the camera and begins to smile.",
    "The person laughs, the head tilting back a little.",
    "The person nods and raises the eyebrows.",
    "The person talks to someone beside the camera, turning the head a little.",
    "The person looks up, then down, with a thoughtful face.",
    "The person looks surprised, eyes wide and mouth a little open.",
    "The camera moves slowly around the person, who stays still.",
)
"""Ours: movements of the head and of the face, as pairs of one person should differ in."""
LATENT_WALK = "latent-walk"
LATENT = "latent"
"""Column of a manifest: what a portrait of the synthetic network was drawn from (`idtool.models.portraits.Latent`)."""
NO_LATENT = "no clip: the portrait network moves only what it made, and no latent says that it made this picture"
NEGATIVE = "blurred, overexposed, still picture, subtitles, deformed face, deformed hands, another person, cut to black"


class AnimateSettings(Settings):
    prompts: tuple[str, ...] = Field(default=MOTIONS, min_length=1)
    """What may happen in the clips; each picture draws its own order of them."""
    negative: str = NEGATIVE
    """What should not be seen."""
    clips: int = Field(default=1, ge=1)
    """Videos of each picture."""
    seconds: float = Field(default=5.0, gt=0, le=60)
    """The number of frames is the nearest that the network can make: 81 of Wan's at 16 a second."""
    area: int = Field(default=1280 * 720, ge=1024)
    """Pixels of a frame, at most; in the proportions of the picture. Wan 2.1 has models for 1280x720 and 832x480."""
    max_scale: float = Field(default=1.5, gt=0)
    """How many times as large as the picture its clip may be: more of it would be made up."""
    steps: int | None = Field(default=None, ge=1, le=1000)
    """Denoising steps; null: the pipeline's (50)."""
    guidance: float | None = Field(default=None, ge=0)
    """Classifier-free guidance; null: the pipeline's (Wan 5, LTX 3)."""
    where: Mapping[str, Any] = Field(default_factory=dict)
    """Column -> value: only such images, e.g. `{origin: photo}`."""
    crf: int = Field(default=12, ge=0, le=51)
    """Of H.264: 0 keeps every pixel of a frame, 18 is hardly to be told from it."""
    max_pixels: int = Field(default=100_000_000, ge=1, le=PILLOW_MAX_PIXELS)
    gpus: Gpus = None


class Animate(Derives):
    """Rejects clips that cannot be made (`animate.max_scale`; of a latent walk also `animate.latent` and
    `animate.other_picture`), never the picture. Rows that are no images pass, as do pictures without a latent where
    only those with one can be moved."""

    kind = "animate"
    Settings: ClassVar[type[Settings]] = AnimateSettings
    summary = "make short videos that begin with a picture"
    # A clip is minutes of work: what is done is committed at once.
    shard_rows = 1
    needs = (*Derives.needs, *made.TERMS)

    settings: AnimateSettings

    def __init__(self, settings: AnimateSettings, env: Env) -> None:
        super().__init__(settings, env)
        if env.has(ROLE) and walks(env.require(ROLE)):
            self.shard_rows = 8  # as in step frames: nothing is done for most rows, seconds for some

    @property
    def remeasures(self) -> bool:
        return False  # measures are of images; the frames will be measured

    def skip_reason(self) -> str | None:
        return why_not(self.env, ROLE)

    def reads(self, available: Mapping[str, pa.Field]) -> tuple[str, ...]:
        extra = ("extra",) if walks(self.env.require(ROLE)) else ()
        return (*super().reads(available), *extra, *self.settings.where)

    def writes(self, available: Mapping[str, pa.Field]) -> pa.Schema:
        return WRITES

    def notes(self) -> list[str]:
        if not walks(self.env.require(ROLE)):
            return []
        return [
            "the portrait network moves only pictures that it made, told by the manifest's column `latent`, as in the "
            "built-in sample; it reads no prompt"
        ]

    def models(self) -> list[Binding]:
        return list(self.env.all(ROLE)[:1])

    def operators(self) -> list[Operator]:
        animate = AnimateImages(self.settings, self.env.require(ROLE))
        animate.resources = resources(self.env, self.models(), self.settings.gpus)
        return [animate]


def walks(model: Binding) -> bool:
    """Whether a model moves its own pictures alone, from their latents."""
    return format_of(model) == LATENT_WALK


def latent_of(row: Mapping[str, Any]) -> str | None:
    """The latent that the manifest gives for a picture, or None."""
    told = json.loads(row["extra"] or "{}").get(LATENT)
    return None if told is None else str(told)


WRITES = pa.schema(
    [
        *MADE,
        pa.field("duration", pa.float64(), metadata={"doc": "of a video", "unit": "s"}),
        pa.field("fps", pa.float64(), metadata={"doc": "mean frame rate of a video", "unit": "1/s"}),
    ]
)


@dataclass
class AnimateImages(Operator):
    """Adds the videos of each image."""

    settings: AnimateSettings
    model: Binding

    reads = ("id", "kind", "media", "width", "height", *made.TERMS)
    writes = WRITES

    def config(self) -> dict[str, Any]:
        return {"model": made.facts(self.model)}

    def setup(self, context: Context) -> None:
        from idtool.media.store import MediaStore
        from idtool.models import load

        self.store, self.seed = MediaStore(Path(context.run_dir) / "media"), context.seed
        self.walks = walks(self.model)
        self._load = partial(load, self.model, device=context.device, threads=context.threads)
        if not self.walks:  # most inputs have nothing for the other kind to do
            self._load()

    def __call__(self, batch: pa.Table) -> pa.Table:
        return map_rows(batch, self.rows_of, self.writes)

    def rows_of(self, row: Row) -> list[Row]:
        """The row itself and its videos."""
        if not made.wanted(row, self.settings.where):
            return [{}]
        latent = latent_of(row) if self.walks else None
        if self.walks and latent is None:
            return [{"message": NO_LATENT}]
        asked = self.settings.model_dump(mode="json", exclude={"clips", "where", "gpus", "max_pixels"})
        told = [asked] if latent is None else [asked, latent]
        clips = []
        for number in range(self.settings.clips):
            new = derived_id(row["id"], "animate", made.facts(self.model), *told, self.seed, number)
            prompt = None if self.walks else made.drawn(self.settings.prompts, row["id"], self.seed, number)
            clip = attempt(row, new, "animate", partial(self._clip, row, new, prompt, latent))
            clips.append(clip | {"kind": "video", "prompt": prompt})
        return [{}, *clips]

    def _clip(self, row: Row, new: str, prompt: str | None, latent: str | None) -> Row:
        from idtool.models.image_to_video import framed

        settings, seed, network = self.settings, made.seed_of(new), self._load()
        size = network.size((row["width"], row["height"]), settings.area)
        # The frame covers the picture's proportions: the larger of the two scales is the true one.
        scale = max(size[0] / row["width"], size[1] / row["height"])
        if scale > settings.max_scale:
            told = f"the clip would be {scale:.2f} times as large as the picture"
            raise Rejected("animate.max_scale", told, value=scale, threshold=f"<= {settings.max_scale:g}")
        first = framed(pixels_of(row["media"], self.store.root, settings.max_pixels), size)
        make = self._generated if latent is None else self._walked
        frames = make(network, first, str(prompt if latent is None else latent), seed)
        return {
            **self._stored(frames, network.fps),
            **made.terms(row, "animated", self.model),
            "generator": made.named(self.model),
            "generator_seed": seed,
        }

    def _generated(self, network: Any, first: Frames, prompt: str, seed: int) -> Frames:
        from idtool.models.image_to_video import Asked

        settings = self.settings
        asked = Asked(network.frames(settings.seconds), settings.negative, settings.steps, settings.guidance)
        frames: Frames = network(first, prompt, seed, asked)
        return frames

    def _walked(self, network: Any, first: Frames, latent: str, seed: int) -> Frames:
        from idtool.models.latent_walk import NEAR, OtherPictureError
        from idtool.models.portraits import Latent

        try:
            start = Latent.read(latent)
        except ValueError as error:
            raise Rejected("animate.latent", f"the latent of the picture cannot be read: {error}") from error
        try:
            frames: Frames = network(first, start, seed, network.frames(self.settings.seconds))
        except OtherPictureError as error:
            bound = f"<= {NEAR:g}"
            raise Rejected("animate.other_picture", str(error), value=error.difference, threshold=bound) from error
        return frames

    def _stored(self, frames: Frames, fps: float) -> Row:
        """The clip in the media store, as the columns that ingest gives."""
        from idtool.media.video_writer import write_video

        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "clip.mp4"
            write_video(path, iter(frames), fps, crf=self.settings.crf)
            data = path.read_bytes()
        height, width = frames.shape[1:3]
        return {
            "media": self.store.put(data, ".mp4"),
            "format": "mp4",
            "bytes": len(data),
            "width": width,
            "height": height,
            "short_side": min(width, height),
            "duration": len(frames) / fps,
            "fps": fps,
        }
