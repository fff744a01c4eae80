"""kill -9 at random moments, then the same command again: no row lost, none twice, tables as if nothing happened."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from idtool.engine.local import LocalExecutor
from idtool.run import Run
from tests.conftest import REPO
from tests.engine.test_runner import execute, square
from tests.engine.toy import ENV, Select, Split, Total

ROWS = range(120)
KILLS = 5

SCRIPT = """
from pathlib import Path
import sys
from idtool.engine.local import LocalExecutor
from idtool.engine.ray_executor import RayExecutor
from tests.engine.test_kill import ROWS, steps
from tests.engine.test_runner import execute
run, log, engine = sys.argv[1:]
executor = LocalExecutor(2) if engine == "local" else RayExecutor(workers=2)
execute(Path(run), steps(log), executor, ROWS)
executor.close()
"""


def steps(log: str) -> list:  # type: ignore[type-arg]
    return [
        square(seconds=0.03, log=log),
        ("select", Select(Select.Settings(below=20_000), ENV)),
        ("split", Split(Split.Settings(), ENV)),
        ("total", Total(Total.Settings(), ENV)),
    ]


def start(run: Path, log: Path, engine: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(run), str(log), engine],
        cwd=REPO,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


@pytest.mark.parametrize("engine", ["local", "ray"])
def test_killed_runs_end_like_an_undisturbed_one(tmp_path: Path, engine: str) -> None:
    undisturbed, _, _ = execute(tmp_path / "calm", steps(str(tmp_path / "calm-log")), LocalExecutor(2), ROWS)
    draw = random.Random(engine)
    run, log = tmp_path / "run", tmp_path / "log"
    killed = 0
    for _ in range(KILLS):
        before = log.read_text().count("\n") if log.exists() else 0
        process = start(run, log, engine)
        deadline = time.monotonic() + 60
        # Wait until this attempt has got somewhere, so that the kill hits work and not the start-up.
        while process.poll() is None and time.monotonic() < deadline:
            if log.exists() and log.read_text().count("\n") > before:
                break
            time.sleep(0.02)
        time.sleep(draw.uniform(0.0, 0.5))
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            killed += 1
        process.wait()
    assert killed >= 3, "the kills came too late to test anything"
    last = start(run, log, engine)
    assert last.wait(timeout=120) == 0
    for name in ("square", "select", "split", "total"):
        calm, tried = undisturbed.step_table(name).read(), Run(run).step_table(name).read()
        assert calm.equals(tried), name
    worked = Counter(log.read_text().split())
    assert set(worked) == {f"n{number:06d}" for number in ROWS}
    assert worked.total() < 2.5 * len(ROWS), "finished shards are not done again"
    assert not list(run.glob("steps/*/parts/*"))
