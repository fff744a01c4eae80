"""Shot detection: on pictures made for it and on real clips, whose cuts were found by eye."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from idtool.media import shots
from idtool.media.video import iter_frames

Clip = list[np.ndarray]


def scene(seed: int, length: int = 40, speed: float = 0.4) -> Clip:
    """A textured picture that pans, with a little noise: (36, 64, 3) each."""
    import cv2

    rng = np.random.default_rng(seed)
    base = rng.integers(40, 200, 3)
    wide = cv2.resize(rng.normal(0, 45, (6, 24, 3)), (256, 36), interpolation=cv2.INTER_CUBIC) + base
    wide += cv2.resize(rng.normal(0, 25, (36, 256, 1)), (256, 36))[:, :, None]
    clip = []
    for index in range(length):
        shift = index * speed
        moved = cv2.warpAffine(wide, np.array([[1, 0, -shift], [0, 1, 0]], np.float64), (64, 36))
        clip.append(np.clip(moved + rng.normal(0, 2, moved.shape), 0, 255).astype(np.uint8))
    return clip


def starts(clip: Clip, threshold: float = shots.DEFAULT_THRESHOLD) -> list[int]:
    """Indices at which a new shot begins."""
    detector = shots.ShotDetector(threshold)
    numbers = [number for picture in clip for number in detector.push(picture)] + detector.finish()
    assert len(numbers) == len(clip)
    assert all(0 <= b - a <= 1 for a, b in pairwise(numbers))
    return [i for i in range(1, len(numbers)) if numbers[i] != numbers[i - 1]]


def faded(clip: Clip, shares: np.ndarray) -> Clip:
    return [(picture * share).astype(np.uint8) for picture, share in zip(clip, shares, strict=True)]


def test_difference_is_symmetric_and_bounded() -> None:
    a, b = (shots.signature(scene(seed, 1)[0]) for seed in (0, 1))
    assert shots.difference(a, a) == 0
    assert 0.35 < shots.difference(a, b) == shots.difference(b, a) <= 1
    black, white = (shots.signature(np.full((36, 64, 3), value, np.uint8)) for value in (0, 255))
    assert shots.difference(black, white) == pytest.approx(0.5)


@pytest.mark.parametrize("seed", range(6))
def test_hard_cuts(seed: int) -> None:
    clip = scene(seed) + scene(seed + 10) + scene(seed + 20, 7) + scene(seed + 30)
    assert starts(clip) == [40, 80, 87]


@pytest.mark.parametrize("speed", [0.0, 1.0, 3.0])
def test_motion_is_no_cut(speed: float) -> None:
    assert starts(scene(3, 60, speed)) == []


@pytest.mark.parametrize("length", [1, 2, 4])
@pytest.mark.parametrize("strength", [60, 150, 255])
def test_flash_is_no_cut(length: int, strength: int) -> None:
    clip = [
        np.clip(picture.astype(int) + strength, 0, 255).astype(np.uint8) if 20 <= i < 20 + length else picture
        for i, picture in enumerate(scene(4, 50, 0.2))
    ]
    assert starts(clip) == []


def test_cut_over_a_black_frame_is_one_change() -> None:
    assert starts([*scene(1, 30), np.zeros((36, 64, 3), np.uint8), *scene(2, 30)]) == [30]


def test_fade_through_black() -> None:
    down, up = np.linspace(1, 0, 12), np.linspace(0, 1, 12)
    first, second = scene(5, 42, 0.1), scene(6, 42, 0.1)
    clip = first[:30] + faded(first[30:], down) + faded(second[:12], up) + second[12:]
    found = starts(clip)
    assert found
    assert all(30 <= at < 54 for at in found)


@pytest.mark.parametrize("length", [8, 12, 20])
def test_dissolve(length: int) -> None:
    first, second = scene(7, 40 + length, 0.1), scene(8, 40 + length, 0.1)
    share = np.linspace(0, 1, length + 2)[1:-1]
    mixed = [(a * (1 - s) + b * s).astype(np.uint8) for a, b, s in zip(first[40:], second[:length], share, strict=True)]
    found = starts(first[:40] + mixed + second[length:])
    assert len(found) == 1
    assert 36 <= found[0] <= 44 + length


def test_higher_threshold_splits_less() -> None:
    clip = scene(1) + scene(2)
    assert starts(clip, 0.2) == starts(clip, 0.35) == [40]
    assert starts(clip, 1.0) == []


def test_short_clips() -> None:
    assert starts([]) == []
    for length in range(1, 9):
        assert starts(scene(1, length)) == []
    assert starts(scene(1, 2) + scene(2, 2)) == [2]


CUTS = {
    "multi_shot_640x360.mp4": [20, 82, 211],
    "face_then_none_960x540.mov": [72],
}


@pytest.mark.fixtures
@pytest.mark.parametrize("threshold", [0.25, shots.DEFAULT_THRESHOLD, 0.45])
def test_real_clips(fixtures: Path, threshold: float) -> None:
    names = [*CUTS, "no_face_960x540.mp4", "single_face_640x360.mp4", "expr_480_d18.mp4", "speech_512_aoc.mp4"]
    for name in names:
        frames = [frame.shot for frame in iter_frames(fixtures / "videos" / name, shot_threshold=threshold)]
        found = [i for i in range(1, len(frames)) if frames[i] != frames[i - 1]]
        assert found == CUTS.get(name, []), name
