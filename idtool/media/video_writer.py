"""Writing H.264 videos that every player opens; the same frames give the same bytes."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

_BT709, _LIMITED_RANGE = 1, 1


def write_video(
    path: Path | str,
    frames: Iterable[NDArray[np.uint8]],
    fps: float | Fraction,
    *,
    crf: int = 18,
    preset: str = "medium",
    rotation: int = 0,
) -> int:
    """Write uint8 RGB frames (H, W, 3), all of one size, as H.264 4:2:0 BT.709 MP4. Returns the number of frames.

    `crf`: quality, 0 (lossless) to 51. `rotation`: degrees counter-clockwise that players should turn the picture.
    An odd width or height is made even by repeating the last column or row. The file appears whole or not at all.
    Raises ValueError when there are no frames, or when they differ in size.
    """
    import av
    from av.video.reformatter import VideoReformatter

    path = Path(path)
    rest = iter(frames)
    first = next(rest, None)
    if first is None:
        raise ValueError("no frames to write")
    shape = first.shape
    height, width = shape[0] + shape[0] % 2, shape[1] + shape[1] % 2
    convert = VideoReformatter()
    written = 0
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        options = {"fflags": "+bitexact", "movflags": "+faststart"}
        with av.open(os.fspath(temporary), "w", format="mp4", options=options) as container:
            rate = Fraction(fps).limit_denominator(10_010)
            # x264's macroblock tree reads memory that it never set, so that the first frame varies from run to run.
            encoder = {"crf": str(crf), "preset": preset, "x264-params": "mbtree=0"}
            stream = container.add_stream("libx264", rate=rate, options=encoder)
            stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
            context = stream.codec_context
            context.thread_count = 1  # the bytes depend on it
            context.colorspace = context.color_primaries = context.color_trc = _BT709
            context.color_range = _LIMITED_RANGE
            if rotation:
                stream.set_display_rotation(rotation)
            for image in itertools.chain([first], rest):
                if image.shape != shape or image.dtype != np.uint8:
                    raise ValueError(f"frames must be uint8 of shape {shape}, got {image.dtype} {image.shape}")
                even = np.pad(image, ((0, height - shape[0]), (0, width - shape[1]), (0, 0)), mode="edge")
                frame = convert.reformat(
                    av.VideoFrame.from_ndarray(np.ascontiguousarray(even), format="rgb24"),
                    format="yuv420p",
                    dst_colorspace=_BT709,
                )
                frame.pts, frame.time_base = written, 1 / rate
                container.mux(stream.encode(frame))
                written += 1
            container.mux(stream.encode(None))
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return written
