"""Reading videos: what is in the file, and its frames by time, upright, in RGB, numbered by shot."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, cast

from idtool.engine.operator import Rejected
from idtool.media import shots
from idtool.media.container import Damage, decoded, opened, timed
from idtool.media.formats import HEAD_BYTES, sniff
from idtool.media.geometry import Geometry
from idtool.media.limits import DEFAULT_LIMITS, Limits
from idtool.media.paths import printable
from idtool.media.video_writer import write_video

if TYPE_CHECKING:
    import numpy as np
    from av.container import InputContainer
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream
    from numpy.typing import NDArray

__all__ = ["Frame", "FrameReader", "Summary", "VideoInfo", "iter_frames", "probe_video", "write_video"]

_EARLY = Fraction(1, 10)
"""Share of a sampling interval by which a frame may come early: containers round timestamps to milliseconds."""


@dataclass(frozen=True)
class VideoInfo:
    """Of the first video stream; sizes as shown: rotated, with square pixels."""

    format: str
    """Sniffed: mp4 mov 3gp matroska webm avi mpegts mpeg flv asf ogg."""
    codec: str
    width: int
    height: int
    fps: float | None
    """Average rate; None where the container does not say."""
    frames: int | None
    """As declared; None where the container does not say."""
    duration: float | None
    """Seconds, as declared."""
    rotation: int
    """Degrees counter-clockwise by which stored frames are turned to be shown: 0, 90, 180 or 270."""
    has_audio: bool


@dataclass(frozen=True)
class Frame:
    time_ms: int
    """Milliseconds since the first frame; strictly increasing."""
    image: NDArray[np.uint8]
    """RGB (H, W, 3), upright."""
    shot: int
    """0-based number of the shot."""


@dataclass
class Summary:
    """What reading found; complete once the frames are exhausted."""

    decoded: int = 0
    yielded: int = 0
    shots: int = 0
    damaged: int = 0
    """Packets or frames that could not be decoded."""
    truncated: bool = False
    """The file is damaged or ends early: there should be more than was read."""
    limited: bool = False
    """Stopped at a limit of frames or seconds."""
    seconds: float = 0.0
    """Time of the last decoded frame."""

    @property
    def note(self) -> str | None:
        """One sentence for the report, if there is something to say."""
        if self.truncated:
            return f"damaged or cut off: {self.decoded} frames up to {self.seconds:.2f} s were read"
        return f"not read past {self.seconds:.2f} s, by limit" if self.limited else None


def probe_video(path: Path | str, limits: Limits = DEFAULT_LIMITS) -> VideoInfo:
    """Read the header and decode one frame.

    Raises Rejected: `missing_file`, `empty`, `unreadable`, `no_video_stream`, `no_frames`, `too_large.bytes`,
    `too_large.pixels`.
    """
    with opened(path, limits) as (container, stream):
        first = next(decoded(container, stream, Damage()), None)
        if first is None:
            raise _no_frames(path)
        geometry = Geometry.of(first, stream)
        with open(path, "rb") as file:
            found = sniff(file.read(HEAD_BYTES))
        width, height = geometry.shown
        return VideoInfo(
            format=found.format if found else container.format.name.split(",")[0],
            codec=stream.codec_context.codec.name,
            width=width,
            height=height,
            fps=float(stream.average_rate) if stream.average_rate else None,
            frames=stream.frames or None,
            duration=_duration(container, stream),
            rotation=geometry.rotation,
            has_audio=bool(container.streams.audio),
        )


def iter_frames(
    path: Path | str,
    *,
    fps: float | None = None,
    every: int | None = None,
    shot_threshold: float = shots.DEFAULT_THRESHOLD,
    max_frames: int | None = None,
    max_seconds: float | None = None,
    threads: int = 1,
    limits: Limits = DEFAULT_LIMITS,
) -> FrameReader:
    """Frames of a video in order of time.

    `fps`: at most one frame for each 1/fps seconds, the first in it; a slower video gives each frame once.
    `every`: each n-th decoded frame instead. Neither: all. `max_frames`: how many to yield at most. `threads`: of the
    decoder; the frames do not depend on it. Errors as `probe_video`, raised when iterated.
    """
    if fps is not None and every is not None:
        raise ValueError("give fps or every, not both")
    if (fps is not None and fps <= 0) or (every is not None and every < 1):
        raise ValueError(f"fps must be > 0 and every >= 1, got fps={fps}, every={every}")
    rate = None if fps is None else Fraction(fps).limit_denominator(100_000)
    seconds = limits.max_video_seconds if max_seconds is None else min(max_seconds, limits.max_video_seconds)
    return FrameReader(path, rate, every or 1, shot_threshold, max_frames, seconds, threads, limits)


@dataclass
class FrameReader:
    """Iterable, each time from the start; `summary` tells about the latest pass. Made by `iter_frames`."""

    path: Path | str
    rate: Fraction | None
    every: int
    shot_threshold: float
    max_frames: int | None
    max_seconds: float
    threads: int
    limits: Limits
    summary: Summary = field(default_factory=Summary)

    def __iter__(self) -> Iterator[Frame]:
        from av.video.reformatter import VideoReformatter

        self.summary = summary = Summary()
        to_rgb = VideoReformatter()
        with opened(self.path, self.limits, self.threads) as (container, stream):
            geometry: Geometry | None = None
            for time_ms, frame, shot in self._with_shots(self._sampled(container, stream)):
                summary.shots = shot + 1
                geometry = geometry or Geometry.of(frame, stream)
                summary.yielded += 1
                yield Frame(time_ms, geometry.rgb(frame, to_rgb), shot)

    def _sampled(self, container: InputContainer, stream: VideoStream) -> Iterator[tuple[int, VideoFrame, bool]]:
        """Every decoded frame with its time, and whether it is one to keep."""
        summary, damage = self.summary, Damage()
        last_slot, last_ms, kept = -1, -1, 0
        for time, frame in timed(decoded(container, stream, damage), stream):
            full = self.max_frames is not None and kept >= self.max_frames
            if full or time > self.max_seconds or summary.decoded >= self.limits.max_video_frames:
                summary.limited = True
                break
            slot = summary.decoded // self.every if self.rate is None else int(time * self.rate + _EARLY)
            time_ms = round(time * 1000)
            keep = slot > last_slot and time_ms > last_ms
            if keep:
                last_slot, last_ms, kept = slot, time_ms, kept + 1
            summary.decoded += 1
            summary.seconds = float(time)
            yield time_ms, frame, keep
        summary.damaged = damage.broken
        summary.truncated = damage.broken > 0 or damage.ended_early
        if summary.decoded == 0:
            raise _no_frames(self.path)
        if not summary.limited:
            summary.truncated |= _ends_early(container, stream, damage, summary)

    def _with_shots(self, frames: Iterator[tuple[int, VideoFrame, bool]]) -> Iterator[tuple[int, VideoFrame, int]]:
        """The frames to keep, with their shots, which are known some frames later."""
        from av.video.reformatter import Interpolation, VideoReformatter

        shrink = VideoReformatter()
        detector = shots.ShotDetector(self.shot_threshold)
        waiting: deque[tuple[int, VideoFrame | None]] = deque()
        for time_ms, frame, keep in frames:
            small = shrink.reformat(frame, *shots.SIZE, "rgb24", interpolation=Interpolation.AREA)
            waiting.append((time_ms, frame if keep else None))
            yield from _settled(waiting, detector.push(cast("NDArray[np.uint8]", small.to_ndarray())))
        yield from _settled(waiting, detector.finish())


def _settled(
    waiting: deque[tuple[int, VideoFrame | None]], numbers: list[int]
) -> Iterator[tuple[int, VideoFrame, int]]:
    for number in numbers:
        time_ms, frame = waiting.popleft()
        if frame is not None:
            yield time_ms, frame, number


def _ends_early(container: InputContainer, stream: VideoStream, damage: Damage, summary: Summary) -> bool:
    """Whether there is less than the header declares: packets where it counts them, else seconds."""
    if stream.frames:
        return damage.packets < stream.frames
    duration = _duration(container, stream)
    return duration is not None and summary.seconds < 0.95 * duration - 1.0


def _duration(container: InputContainer, stream: VideoStream) -> float | None:
    if stream.duration is not None and stream.time_base is not None:
        return float(stream.duration * stream.time_base)
    return None if container.duration is None else container.duration / 1_000_000


def _no_frames(path: Path | str) -> Rejected:
    return Rejected("no_frames", f"{printable(Path(path).name)}: no frame can be decoded", value=0.0)
