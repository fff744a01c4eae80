"""kill -9 at random moments, then the same command again: no row lost, none twice, results as if nothing happened."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from idtool.media.video import write_video
from idtool.run import Run
from tests.conftest import REPO

KILLS = {"local": 4, "ray": 3}
"""A start of Ray takes several seconds."""
IMAGES = 240
STEPS = ("ingest", "frames", "measure", "gate", "dedup")


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photos large enough to keep two workers busy for some seconds, two clips, a few bad files, some duplicates."""
    folder = tmp_path_factory.mktemp("in")
    draw = np.random.default_rng(0)
    for number in range(IMAGES):
        small = draw.integers(0, 256, (9, 12, 3), dtype=np.uint8)
        Image.fromarray(small).resize((1600, 1200), Image.Resampling.BICUBIC).save(folder / f"{number:03d}.jpg")
    for number in range(2):
        frames = [
            np.roll(np.asarray(Image.open(folder / f"00{number}.jpg").resize((320, 240))), 8 * t, 1) for t in range(40)
        ]
        write_video(folder / f"clip{number}.mp4", frames, fps=10)
    (folder / "zero.jpg").write_bytes(b"")
    (folder / "copy.jpg").write_bytes((folder / "000.jpg").read_bytes())
    return folder


@pytest.fixture(scope="module")
def calm(inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nobody disturbed."""
    run = tmp_path_factory.mktemp("runs") / "calm"
    assert start(inputs, run, "local").wait(timeout=120) == 0
    return run


def start(inputs: Path, run: Path, engine: str) -> subprocess.Popen[bytes]:
    config = str(REPO / "tests" / "cheap.yaml")
    command = [sys.executable, "-m", "idtool", "curate", "--recipe", "cheap", "--config", config]
    options = ["--input", str(inputs), "--output", str(run), "--engine", engine, "--workers", "2"]
    return subprocess.Popen(
        [*command, *options], cwd=REPO, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )


def finished_shards(run: Path) -> int:
    return len(list(run.glob("steps/*/parts/*.parquet"))) + 100 * len(list(run.glob("steps/*/step.json")))


@pytest.mark.parametrize("engine", ["local", "ray"])
def test_killed_runs_end_like_an_undisturbed_one(inputs: Path, calm: Path, tmp_path: Path, engine: str) -> None:
    draw = random.Random(engine)
    run = tmp_path / "run"
    killed_at: Counter[str] = Counter()
    for _ in range(KILLS[engine]):
        before, process = finished_shards(run), start(inputs, run, engine)
        deadline = time.monotonic() + 60
        # Wait until this attempt has got somewhere, so that the kill hits work and not the start-up.
        while process.poll() is None and time.monotonic() < deadline and finished_shards(run) <= before:
            time.sleep(0.01)
        time.sleep(draw.uniform(0.0, 0.8))
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            running = [folder.name for folder in sorted(run.glob("steps/*")) if not (folder / "step.json").exists()]
            killed_at[running[0] if running else "end"] += 1
        process.wait()
    assert killed_at.total() >= 2, "the kills came too late to test anything"
    assert start(inputs, run, engine).wait(timeout=180) == 0
    for name in STEPS:
        expected, got = (Run(path).step_table(name).read() for path in (calm, run))
        assert expected.equals(got), (name, killed_at)
    frames = Run(run).step_table("dedup").read(["id", "media", "name"]).to_pylist()
    assert len({row["id"] for row in frames}) == len(frames)
    assert sum(row["name"].startswith("clip") for row in frames) == 80
    for row in frames:
        if row["media"].startswith("store:"):
            kept, other = (path / "media" / row["media"].removeprefix("store:") for path in (run, calm))
            assert kept.read_bytes() == other.read_bytes()
    assert not list(run.glob("steps/*/parts/*")) and not list(run.glob("steps/*/inflight/*"))
    rejects = {
        row["name"]: row["reason"] for table in Run(run).rejects(["name", "reason"]) for row in table.to_pylist()
    }
    assert rejects == {"zero.jpg": "empty", "copy.jpg": "duplicate.exact"}
