"""A Ray cluster that is already there, whose nodes know nothing of this checkout."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from idtool.run import Run
from tests.conftest import REPO


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[tuple[str, dict[str, str]]]:
    """Address of a head node on the loopback device with two CPUs, and the environment to reach it."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    environment |= {"RAY_AUTH_MODE": "disabled", "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0"}
    ray = [str(Path(sys.executable).with_name("ray"))]
    spare = ["--include-dashboard=false", "--no-monitor", "--include-log-monitor=false", "--disable-usage-stats"]
    options = ["--num-cpus=2", *spare]
    command = [*ray, "start", "--head", "--block", "--node-ip-address=127.0.0.1", f"--port={port}", *options]
    head = subprocess.Popen(
        command, cwd=tmp_path, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        yield f"127.0.0.1:{port}", environment
    finally:
        head.terminate()
        head.wait(timeout=60)


def test_run_on_a_cluster_by_its_address(cluster: tuple[str, dict[str, str]], tmp_path: Path) -> None:
    address, environment = cluster
    folder = tmp_path / "in"
    folder.mkdir()
    draw = np.random.default_rng(0)
    for number in range(20):
        small = draw.integers(0, 256, (6, 8, 3), dtype=np.uint8)
        Image.fromarray(small).resize((160, 120), Image.Resampling.BICUBIC).save(folder / f"{number:02d}.png")
    config = str(REPO / "tests" / "cheap.yaml")
    command = [
        sys.executable,
        "-m",
        "idtool",
        "curate",
        "--recipe",
        "cheap",
        "--config",
        config,
        "--input",
        str(folder),
    ]
    there = [*command, "--output", str(tmp_path / "there"), "--engine", "ray", "--address", address]
    for _ in range(4):  # the head takes some seconds to answer
        done = subprocess.run(there, cwd=REPO, env=environment, capture_output=True, text=True, timeout=90, check=False)
        if done.returncode != 4 or "Cannot reach" not in done.stderr:
            break
    assert done.returncode == 0, done.stderr
    here = [*command, "--output", str(tmp_path / "here"), "--engine", "local"]
    subprocess.run(here, cwd=REPO, env=environment, capture_output=True, check=True)
    tables = [Run(tmp_path / name).step_table("dedup").read() for name in ("there", "here")]
    assert tables[0].equals(tables[1]) and tables[0].num_rows == 20
