"""Opening video files we do not trust, and getting out of a damaged one all the frames that it still has."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from idtool.engine.operator import Rejected
from idtool.media.limits import Limits, check_bytes
from idtool.media.paths import printable

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

_CONTAINERS = "mov,matroska,webm,avi,mpegts,mpeg,flv,asf,ogg"
"""FFmpeg demuxers that may be used: containers, no playlists (`concat`, `hls`), which name other files."""
_ATTACHED_PICTURE = 0x400


@dataclass
class Damage:
    """What went wrong while decoding."""

    packets: int = 0
    """Packets read, broken ones included."""
    broken: int = 0
    """Packets or frames that could not be decoded."""
    ended_early: bool = False
    """Reading the container failed before its end."""


@contextmanager
def opened(path: Path | str, limits: Limits, threads: int = 1) -> Iterator[tuple[InputContainer, VideoStream]]:
    """The container and its first video stream.

    Raises Rejected: `missing_file`, `empty`, `unreadable`, `no_video_stream`, `too_large.bytes`, `too_large.pixels`.
    """
    import av

    name = printable(Path(path).name)
    try:
        about = Path(path).stat()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise Rejected("missing_file", f"{name} does not exist") from error
    if not stat.S_ISREG(about.st_mode):  # opening a pipe would wait for ever
        raise Rejected("unreadable", f"{name} is not a regular file")
    if about.st_size == 0:
        raise Rejected("empty", f"{name} has no bytes", value=0.0)
    check_bytes(about.st_size, limits.max_video_bytes, name)
    options = {"format_whitelist": _CONTAINERS, "protocol_whitelist": "file"}
    try:
        # `file:` keeps a name like `concat:…` from being taken for a protocol.
        container = av.open(f"file:{os.fspath(path)}", options=options, metadata_errors="replace")
    except av.FFmpegError as error:
        raise Rejected("unreadable", f"{name}: {error.strerror}") from error
    with container:
        streams = [s for s in container.streams.video if not int(s.disposition) & _ATTACHED_PICTURE]
        if not streams:
            raise Rejected("no_video_stream", f"{name} has no video stream", value=0.0)
        stream = streams[0]
        context = stream.codec_context
        if context is None:
            raise Rejected("unreadable", f"{name}: no decoder for its video")
        limits.check_pixels(context.width, context.height)
        context.options = {"max_pixels": str(limits.max_pixels)}
        context.thread_count = threads
        context.thread_type = "AUTO" if threads > 1 else "NONE"
        yield cast("InputContainer", container), stream


def decoded(container: InputContainer, stream: VideoStream, damage: Damage) -> Iterator[VideoFrame]:
    """Every frame that decodes, in order of display. Broken packets are counted and passed over."""
    import av

    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets, None)
        except av.FFmpegError:
            damage.ended_early = True
            packet = None
        if packet is None:
            break
        damage.packets += packet.size > 0
        yield from _frames(packet.decode, damage)
    if damage.ended_early:  # at a regular end, the last packet of `demux` is the one that flushes the decoder
        yield from _frames(lambda: stream.codec_context.decode(None), damage)


def _frames(decode: Any, damage: Damage) -> Iterator[VideoFrame]:
    import av

    try:
        frames = decode()
    except av.EOFError:
        return
    except av.FFmpegError:
        damage.broken += 1
        return
    for frame in frames:
        if frame.is_corrupt:
            damage.broken += 1
        else:
            yield frame


def timed(frames: Iterator[VideoFrame], stream: VideoStream) -> Iterator[tuple[Fraction, VideoFrame]]:
    """Each frame with its time in seconds since the first, never decreasing. A frame without a timestamp comes one
    average interval after the one before."""
    interval = 1 / Fraction(stream.average_rate or 25)
    first: Fraction | None = None
    last = -interval
    for frame in frames:
        if frame.pts is None or frame.time_base is None:
            time = last + interval
        else:
            stamp = frame.pts * Fraction(frame.time_base)
            first = stamp - (last + interval) if first is None else first
            time = max(stamp - first, last)
        yield time, frame
        last = time
