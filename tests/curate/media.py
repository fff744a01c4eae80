"""Real files of every sort, made for the test that needs them."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np
import numpy.typing as npt

RGB = npt.NDArray[np.uint8]


def picture(width: int = 64, height: int = 48, seed: int = 0) -> RGB:
    """A smooth picture with edges, different for every seed."""
    import cv2

    coarse = np.random.default_rng(seed).integers(0, 255, (6, 8, 3), dtype=np.uint8)
    return np.asarray(cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC), np.uint8)


def photo(
    path: Path, width: int = 64, height: int = 48, seed: int = 0, format: str = "JPEG", **options: object
) -> Path:
    from PIL import Image

    Image.fromarray(picture(width, height, seed)).save(path, format, **options)
    return path


def bomb(path: Path, width: int = 50_000, height: int = 50_000) -> Path:
    """A PNG of a few bytes whose header promises gigapixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = zlib.compress(b"\0" * 100)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b""))
    return path


def video(
    path: Path,
    frames: Sequence[RGB],
    fps: int = 10,
    *,
    times_ms: Sequence[int] | None = None,
    codec: str = "libx264",
    fragmented: bool = False,
) -> Path:
    """A film of RGB frames; `times_ms` makes the frame rate vary; `fragmented` can be cut off anywhere."""
    import av

    options = {"movflags": "frag_keyframe+empty_moov"} if fragmented else {}
    with av.open(str(path), "w", options=options) as container:
        stream = container.add_stream(codec, rate=fps)
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        stream.gop_size = 5
        if times_ms is not None:
            stream.time_base = stream.codec_context.time_base = Fraction(1, 1000)
        for k, image in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            if times_ms is not None:
                frame.pts, frame.time_base = times_ms[k], Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def sound(path: Path) -> Path:
    """A film container that holds only sound."""
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=16_000)
        for _ in range(20):
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
            frame.sample_rate = 16_000
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def moving(count: int, width: int = 96, height: int = 64, seed: int = 0) -> list[RGB]:
    """Frames of one shot: a picture that slides a pixel at a time."""
    wide = picture(width + count, height, seed)
    return [np.ascontiguousarray(wide[:, k : k + width]) for k in range(count)]
