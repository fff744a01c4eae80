"""Reading and writing video: time, rotation, colour, damage, and files that are no video."""

from __future__ import annotations

import os
import subprocess
import sys
import wave
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from idtool.engine.operator import Rejected
from idtool.media.limits import Limits
from idtool.media.video import Frame, iter_frames, probe_video, write_video


def numbered(index: int, size: tuple[int, int] = (96, 160)) -> np.ndarray:
    """A grey picture whose number stands in its lower half as eight bits, with a red top left corner."""
    image = np.full((*size, 3), 90, np.uint8)
    image[: size[0] // 4, : size[1] // 4] = (220, 30, 30)
    for bit in range(8):
        image[size[0] // 2 :, bit * size[1] // 8 : (bit + 1) * size[1] // 8] = 30 + 160 * (index >> bit & 1)
    return image


def number(frame: Frame) -> int:
    height, width = frame.image.shape[:2]
    lower = frame.image[height // 2 :, : width // 8 * 8].mean(axis=(0, 2)).reshape(8, -1).mean(axis=1)
    return sum(1 << bit for bit in range(8) if lower[bit] > 110)


def clip(path: Path, count: int = 50, fps: float = 25, **options: int) -> Path:
    write_video(path, (numbered(i) for i in range(count)), fps, **options)
    return path


def vfr(path: Path, times_ms: list[int], container: str = "mp4", **context: object) -> Path:
    """A video with the given timestamps."""
    with av.open(str(path), "w", format=container) as file:
        stream = file.add_stream("libx264", rate=1000, options={"g": "5", "bf": "2"})
        stream.width, stream.height, stream.pix_fmt = 160, 96, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 1000)
        for name, value in context.items():
            setattr(stream.codec_context, name, value)
        for index, time in enumerate(times_ms):
            frame = av.VideoFrame.from_ndarray(numbered(index), format="rgb24")
            frame.pts, frame.time_base = time, Fraction(1, 1000)
            file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
    return path


def reason(path: Path, limits: Limits | None = None) -> str:
    reasons = set()
    for read in (
        lambda: probe_video(path, limits or Limits()),
        lambda: list(iter_frames(path, limits=limits or Limits())),
    ):
        with pytest.raises(Rejected) as caught:
            read()
        reasons.add(caught.value.reason)
    assert len(reasons) == 1
    return reasons.pop()


def test_probe(tmp_path: Path) -> None:
    info = probe_video(clip(tmp_path / "a.mp4"))
    assert (info.format, info.codec, info.width, info.height) == ("mp4", "h264", 160, 96)
    assert (info.fps, info.frames, info.duration, info.rotation, info.has_audio) == (25, 50, 2.0, 0, False)


def test_every_frame_in_order(tmp_path: Path) -> None:
    reader = iter_frames(clip(tmp_path / "a.mp4"))
    frames = list(reader)
    assert [number(frame) for frame in frames] == list(range(50))
    assert [frame.time_ms for frame in frames] == list(range(0, 2000, 40))
    summary = reader.summary
    assert (summary.decoded, summary.yielded, summary.truncated, summary.note) == (50, 50, False, None)
    assert frames[0].image.flags["C_CONTIGUOUS"]


def test_every_nth(tmp_path: Path) -> None:
    frames = list(iter_frames(clip(tmp_path / "a.mp4"), every=7))
    assert [number(frame) for frame in frames] == list(range(0, 50, 7))


@pytest.mark.parametrize(
    ("source", "fps", "expected"),
    [
        (25, 5, list(range(0, 50, 5))),
        (25, 20, [i for i in range(50) if i % 5 != 1]),
        (30, 20, [i for i in range(50) if i % 3 != 1]),
        (25, 25, list(range(50))),
        (10, 20, list(range(50))),
        (Fraction(30000, 1001), 10, list(range(0, 50, 3))),
    ],
)
def test_sampling(tmp_path: Path, source: float, fps: float, expected: list[int]) -> None:
    assert [number(frame) for frame in iter_frames(clip(tmp_path / "a.mp4", fps=source), fps=fps)] == expected


def test_timestamps_rounded_to_milliseconds_lose_no_frame(tmp_path: Path) -> None:
    times = [int(i * 1000 / 30) for i in range(40)]  # 0 33 66 100: each up to a millisecond early
    frames = list(iter_frames(vfr(tmp_path / "a.mkv", times, "matroska"), fps=30))
    assert [number(frame) for frame in frames] == list(range(40))


def test_variable_frame_rate(tmp_path: Path) -> None:
    times = [500, 510, 520, 600, 900, 905, 2000, 2010, 2049, 2051]
    path = vfr(tmp_path / "a.mp4", times)
    frames = list(iter_frames(path))
    assert [frame.time_ms for frame in frames] == [time - 500 for time in times]
    sampled = list(iter_frames(path, fps=20))
    assert [frame.time_ms for frame in sampled] == [0, 100, 400, 1500, 1549]
    assert [number(frame) for frame in sampled] == [0, 3, 4, 6, 8]


def shown(stored: np.ndarray, degrees: int) -> np.ndarray:
    return np.rot90(stored, degrees // 90)


@pytest.mark.parametrize("degrees", [0, 90, 180, 270])
def test_rotation(tmp_path: Path, degrees: int) -> None:
    path = tmp_path / "a.mp4"
    write_video(path, [numbered(10)] * 3, 25, rotation=degrees)
    info = probe_video(path)
    assert info.rotation == degrees
    expected = shown(numbered(10), degrees)
    assert (info.height, info.width) == expected.shape[:2]
    frame = next(iter(iter_frames(path)))
    assert frame.image.shape == expected.shape
    assert np.percentile(np.abs(frame.image.astype(int) - expected), 90) <= 4


@pytest.mark.parametrize("degrees", [0, 90])
def test_mirrored_display_matrix(tmp_path: Path, degrees: int) -> None:
    path = tmp_path / "a.mp4"
    with av.open(str(path), "w") as file:
        stream = file.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 160, 96, "yuv420p"
        one = 1 << 16
        matrix = [-one, 0, 0, 0, one, 0, 0, 0, 1 << 30] if degrees == 0 else [0, one, 0, one, 0, 0, 0, 0, 1 << 30]
        stream.set_display_matrix(matrix)
        file.mux(stream.encode(av.VideoFrame.from_ndarray(numbered(10), format="rgb24")))
        file.mux(stream.encode(None))
    expected = numbered(10)[:, ::-1] if degrees == 0 else numbered(10).transpose(1, 0, 2)
    image = next(iter(iter_frames(path))).image
    assert np.percentile(np.abs(image.astype(int) - expected), 90) <= 6


def test_pixel_aspect_ratio(tmp_path: Path) -> None:
    path = vfr(tmp_path / "a.mp4", [0, 40], sample_aspect_ratio=Fraction(4, 3))
    assert (probe_video(path).width, probe_video(path).height) == (213, 96)
    assert next(iter(iter_frames(path))).image.shape == (96, 213, 3)
    path = vfr(tmp_path / "b.mp4", [0, 40], sample_aspect_ratio=Fraction(1, 2))
    assert next(iter(iter_frames(path))).image.shape == (192, 160, 3)


def test_ten_bit(tmp_path: Path) -> None:
    path = tmp_path / "a.mkv"
    with av.open(str(path), "w") as file:
        stream = file.add_stream("libx265", rate=25, options={"x265-params": "log-level=none"})
        stream.width, stream.height, stream.pix_fmt = 160, 96, "yuv420p10le"
        for index in range(5):
            frame = av.VideoFrame.from_ndarray(numbered(index), format="rgb24")
            file.mux(stream.encode(frame.reformat(format="yuv420p10le")))
        file.mux(stream.encode(None))
    frames = list(iter_frames(path))
    assert [number(frame) for frame in frames] == list(range(5))
    assert frames[0].image.dtype == np.uint8


@pytest.mark.parametrize("size", [(96, 160), (720, 1280)])
def test_colours_survive(tmp_path: Path, size: tuple[int, int]) -> None:
    path = tmp_path / "a.mp4"
    write_video(path, [numbered(3, size)] * 2, 25)
    image = next(iter(iter_frames(path))).image
    assert np.abs(image[5, 5].astype(int) - (220, 30, 30)).max() <= 4


@pytest.mark.parametrize(("size", "matrix"), [((96, 160), 5), ((720, 1280), 1)])
def test_untagged_colours_follow_the_size(tmp_path: Path, size: tuple[int, int], matrix: int) -> None:
    """Without a tag, players take BT.709 for HD and BT.601 below."""
    from av.video.reformatter import VideoReformatter

    path = tmp_path / "a.mp4"
    with av.open(str(path), "w") as file:
        stream = file.add_stream("libx264", rate=25, options={"crf": "1"})
        stream.height, stream.width, stream.pix_fmt = *size, "yuv420p"
        frame = av.VideoFrame.from_ndarray(numbered(3, size), format="rgb24")
        converted = VideoReformatter().reformat(frame, format="yuv420p", dst_colorspace=matrix)
        converted.colorspace = 2
        file.mux(stream.encode(converted))
        file.mux(stream.encode(None))
    image = next(iter(iter_frames(path))).image
    assert np.abs(image[5, 5].astype(int) - (220, 30, 30)).max() <= 5


def test_shots_are_numbered_on_sampled_frames(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    scenes = [
        np.kron(rng.integers(0, 255, (6, 10, 3), dtype=np.uint8), np.ones((16, 16, 1), np.uint8)) for _ in range(3)
    ]
    path = tmp_path / "a.mp4"
    write_video(path, [scene for scene in scenes for _ in range(25)], 25)
    frames = list(iter_frames(path, fps=2))
    assert [(frame.time_ms, frame.shot) for frame in frames] == [
        (0, 0),
        (480, 0),
        (960, 0),
        (1480, 1),
        (1960, 1),
        (2480, 2),
        (2960, 2),
    ]


def test_truncated_after_the_header(tmp_path: Path) -> None:
    path = clip(tmp_path / "a.mp4", 100)  # the index comes first
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * 0.8)])
    reader = iter_frames(path)
    frames = list(reader)
    assert 5 < len(frames) < 100
    assert [number(frame) for frame in frames[:5]] == list(range(5))
    assert reader.summary.truncated
    assert "damaged or cut off" in str(reader.summary.note)


def test_truncated_matroska(tmp_path: Path) -> None:
    path = vfr(tmp_path / "a.mkv", [i * 40 for i in range(100)], "matroska")
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    reader = iter_frames(path)
    frames = list(reader)
    assert 5 < len(frames) < 100
    assert reader.summary.truncated


def test_index_missing(tmp_path: Path) -> None:
    path = vfr(tmp_path / "a.mp4", [i * 40 for i in range(100)])  # the index comes last
    path.write_bytes(path.read_bytes()[:-2000])
    assert reason(path) == "unreadable"


def test_damage_in_the_middle(tmp_path: Path) -> None:
    path = vfr(tmp_path / "a.mkv", [i * 40 for i in range(100)], "matroska")
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 400] = np.random.default_rng(0).bytes(400)
    path.write_bytes(data)
    reader = iter_frames(path)
    frames = list(reader)
    assert len(frames) > 30
    times = [frame.time_ms for frame in frames]
    assert times == sorted(set(times))


def test_no_frames(tmp_path: Path) -> None:
    path = tmp_path / "a.avi"
    with av.open(str(path), "w") as file:
        stream = file.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt = 160, 96, "yuv420p"
        file.start_encoding()
    assert reason(path) == "no_frames"


def test_audio_only(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    with av.open(str(path), "w") as file:
        stream = file.add_stream("aac", rate=16000)
        for index in range(10):
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
            frame.sample_rate, frame.pts = 16000, index * 1024
            file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
    assert reason(path) == "no_video_stream"


def test_files_that_are_no_video(tmp_path: Path) -> None:
    assert reason(tmp_path / "none.mp4") == "missing_file"
    (tmp_path / "empty.mp4").write_bytes(b"")
    assert reason(tmp_path / "empty.mp4") == "empty"
    (tmp_path / "text.mp4").write_text("not a video at all " * 500)
    assert reason(tmp_path / "text.mp4") == "unreadable"
    os.mkfifo(tmp_path / "pipe.mp4")
    assert reason(tmp_path / "pipe.mp4") == "unreadable"
    (tmp_path / "folder.mp4").mkdir()
    assert reason(tmp_path / "folder.mp4") == "unreadable"
    with wave.open(str(tmp_path / "sound.mp4"), "wb") as sound:
        sound.setparams((1, 2, 8000, 0, "NONE", ""))
        sound.writeframes(bytes(8000))
    assert reason(tmp_path / "sound.mp4") == "unreadable"


@pytest.mark.parametrize(
    "text", ["ffconcat version 1.0\nfile 'secret.mp4'\n", "#EXTM3U\n#EXTINF:5,\nsecret.mp4\n#EXT-X-ENDLIST\n"]
)
@pytest.mark.parametrize("name", ["list.mp4", "list.m3u8"])
def test_playlists_open_nothing(tmp_path: Path, text: str, name: str) -> None:
    clip(tmp_path / "secret.mp4", 5)
    (tmp_path / name).write_text(text)
    assert reason(tmp_path / name) == "unreadable"


@pytest.mark.parametrize(
    "name", [b"with space\nand line.mp4", "ünïcode 名.mp4".encode(), b"not utf8 \xff.mp4", b"concat:x.mp4", b"-i.mp4"]
)
def test_odd_names(tmp_path: Path, name: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / os.fsdecode(name)
    clip(tmp_path / "plain.mp4", 5).rename(target)
    assert len(list(iter_frames(target))) == 5
    monkeypatch.chdir(tmp_path)
    assert probe_video(os.fsdecode(name)).frames == 5


def test_limits(tmp_path: Path) -> None:
    path = clip(tmp_path / "a.mp4")
    assert reason(path, Limits(max_pixels=1000)) == "too_large.pixels"
    assert reason(path, Limits(max_video_bytes=100)) == "too_large.bytes"
    for reader in (
        iter_frames(path, max_frames=10),
        iter_frames(path, limits=Limits(max_video_frames=10)),
        iter_frames(path, max_seconds=0.37),
    ):
        assert [number(frame) for frame in reader] == list(range(10))
        assert reader.summary.limited
        assert not reader.summary.truncated
    reader = iter_frames(path, max_frames=50)
    assert len(list(reader)) == 50
    assert not reader.summary.limited


def test_threads_change_nothing(tmp_path: Path) -> None:
    path = clip(tmp_path / "a.mp4")
    one, four = (list(iter_frames(path, fps=10, threads=threads)) for threads in (1, 4))
    assert [frame.time_ms for frame in one] == [frame.time_ms for frame in four]
    assert all(np.array_equal(a.image, b.image) for a, b in zip(one, four, strict=True))


def test_bad_arguments(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not both"):
        iter_frames(tmp_path / "a.mp4", fps=1, every=2)
    with pytest.raises(ValueError, match="fps must be"):
        iter_frames(tmp_path / "a.mp4", fps=0)


def test_written_videos_are_the_same_bytes(tmp_path: Path) -> None:
    """Also when fresh memory holds something else, which glibc can be asked for."""
    code = "import sys; from pathlib import Path; from tests.media.test_video import clip; clip(Path(sys.argv[1]))"
    for name, fill in (("a.mp4", "0"), ("b.mp4", "85")):
        subprocess.run(
            [sys.executable, "-c", code, str(tmp_path / name)],
            env={**os.environ, "MALLOC_PERTURB_": fill},
            cwd=Path(__file__).parents[2],
            check=True,
        )
    assert (tmp_path / "a.mp4").read_bytes() == (tmp_path / "b.mp4").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.mp4", "b.mp4"]


def test_odd_sizes_are_made_even(tmp_path: Path) -> None:
    assert write_video(tmp_path / "a.mp4", [numbered(5, (95, 161))] * 4, 12.5) == 4
    info = probe_video(tmp_path / "a.mp4")
    assert (info.width, info.height, info.fps) == (162, 96, 12.5)


def test_failed_writing_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no frames"):
        write_video(tmp_path / "a.mp4", [], 25)
    with pytest.raises(ValueError, match="frames must be"):
        write_video(tmp_path / "a.mp4", [numbered(0), numbered(0, (64, 64))], 25)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.fixtures
def test_real_videos(fixtures: Path) -> None:
    for path in sorted((fixtures / "videos").iterdir()):
        reader = iter_frames(path, fps=2)
        info, frames = probe_video(path), list(reader)
        assert not reader.summary.truncated, path.name
        assert frames[0].image.shape == (info.height, info.width, 3)
        assert len(frames) == pytest.approx(reader.summary.seconds * 2 + 1, abs=1.1)
