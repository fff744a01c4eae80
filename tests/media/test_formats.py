"""Sniffing by content."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from idtool.media.formats import HEAD_BYTES, sniff


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP", "AVIF", "PPM", "JPEG2000"])
def test_images(format: str) -> None:
    out = io.BytesIO()
    Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(out, format)
    found = sniff(out.getvalue()[:HEAD_BYTES])
    assert found == ("image", {"PPM": "pnm", "JPEG2000": "jp2"}.get(format, format.lower()))


@pytest.mark.parametrize(
    ("container", "codec", "expected"),
    [
        ("mp4", "libx264", "mp4"),
        ("mov", "libx264", "mov"),
        ("matroska", "libx264", "matroska"),
        ("webm", "libvpx", "webm"),
        ("avi", "mpeg4", "avi"),
        ("mpegts", "libx264", "mpegts"),
        ("flv", "libx264", "flv"),
        ("3gp", "mpeg4", "3gp"),
        ("asf", "mpeg4", "asf"),
        ("mpeg", "mpeg2video", "mpeg"),
    ],
)
def test_videos_are_sniffed_probed_and_read(tmp_path: Path, container: str, codec: str, expected: str) -> None:
    import av

    from idtool.media.video import iter_frames, probe_video

    path = tmp_path / "clip.xyz"
    with av.open(str(path), "w", format=container) as file:
        stream = file.add_stream(codec, rate=25)
        stream.width, stream.height, stream.pix_fmt = 128, 96, "yuv420p"
        for value in range(10):
            picture = np.full((96, 128, 3), 100 + value, np.uint8)
            file.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        file.mux(stream.encode(None))
    assert sniff(path.read_bytes()[:HEAD_BYTES]) == ("video", expected)
    info = probe_video(path)
    assert (info.format, info.width, info.height) == (expected, 128, 96)
    reader = iter_frames(path)
    assert len(list(reader)) == 10
    assert not reader.summary.truncated


@pytest.mark.parametrize(
    ("head", "expected"),
    [
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", ("image", "heic")),
        (b"\0\0\0\x1cftypmif1\0\0\0\0mif1avif", ("image", "avif")),
        (b"\0\0\0\x1cftypmif1\0\0\0\0mif1heic", ("image", "heic")),
        (b"\0\0\0\x18ftypisom\0\0\0\0mp42isom", ("video", "mp4")),
        (b"RIFF\0\0\0\0WAVEfmt ", None),
        (b"", None),
        (b"\xff", None),
        (b"plain text", None),
        (b"#EXTM3U\n#EXT-X-VERSION:3", None),
    ],
)
def test_heads(head: bytes, expected: tuple[str, str] | None) -> None:
    assert sniff(head) == expected
