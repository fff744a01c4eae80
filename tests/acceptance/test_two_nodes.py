"""Two Ray nodes on this machine, each on a loopback address of its own; one of them dies in the middle of a run."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from idtool.run import Run
from tests.conftest import REPO

HEAD, OTHER = "127.0.0.1", "127.0.0.2"
IMAGES = 260
STEPS = ("ingest", "frames", "measure", "gate", "dedup")
CURATE = (sys.executable, "-m", "idtool", "curate", "--recipe", "cheap", "--config", str(REPO / "tests" / "cheap.yaml"))

pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="finds the processes of a node in /proc")


def until(condition: Callable[[], object], seconds: float, what: str) -> None:
    """Waits for something to come true."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            pytest.fail(f"{what}: not within {seconds:g} s")
        time.sleep(0.02)


def descendants(pid: int) -> dict[int, str]:
    """Pid -> command line, of a process's children, their children and so on."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parents[int(entry.name)] = int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1])
            except OSError:
                continue  # it ended meanwhile
    found = {pid}
    while more := {child for child, parent in parents.items() if parent in found} - found:
        found |= more
    told = {}
    for child in found - {pid}:
        try:
            told[child] = Path(f"/proc/{child}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
    return told


class Cluster:
    """A head node and another one, of two CPUs each, with a port and folders of their own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        with socket.socket() as probe:
            probe.bind((HEAD, 0))
            self.address = f"{HEAD}:{probe.getsockname()[1]}"
        self.environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
        self.environment |= {"RAY_AUTH_MODE": "disabled", "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0"}
        self.nodes: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, node: str, *options: str) -> None:
        command = [str(Path(sys.executable).with_name("ray")), "start", "--block", f"--node-ip-address={node}"]
        command += ["--num-cpus=2", f"--object-store-memory={128 << 20}", "--disable-usage-stats", *options]
        with open(self.folder / f"{node}.log", "wb") as log:
            self.nodes[node] = subprocess.Popen(
                command, cwd=self.folder, env=self.environment, stdout=log, stderr=log, start_new_session=True
            )

    def start_all(self) -> None:
        port = self.address.rpartition(":")[2]
        self.start(HEAD, "--head", f"--port={port}", "--include-dashboard=false", f"--temp-dir={self.folder / 'h'}")
        until(lambda: "raylet" in " ".join(self.commands(HEAD)), 90, "start of the head node")
        self.start(OTHER, f"--address={self.address}")
        until(lambda: "raylet" in " ".join(self.commands(OTHER)), 90, "start of the other node")

    def commands(self, node: str) -> list[str]:
        return list(descendants(self.nodes[node].pid).values())

    def busy(self, node: str) -> bool:
        """Whether a worker of ours holds a shard there: Ray names processes after what they run."""
        return any(command.startswith("ray::Worker.process") for command in self.commands(node))

    def kill(self, node: str) -> list[str]:
        """kill -9 for all of a node at once; returns the command lines of what died."""
        process = self.nodes.pop(node)
        doomed = descendants(process.pid)
        for pid in (process.pid, *doomed):
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        process.wait()
        return list(doomed.values())

    def stop(self) -> None:
        for process in self.nodes.values():
            process.terminate()
        for node, process in list(self.nodes.items()):
            try:
                process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                self.kill(node)


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    # The names of Ray's sockets must be short, so the folder is not the test's.
    folder = Path(tempfile.mkdtemp(prefix="ray2-"))
    made = Cluster(folder)
    try:
        made.start_all()
        yield made
    finally:
        made.stop()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Photos of which four shards take some seconds, an empty file and a copy."""
    folder = tmp_path / "in"
    folder.mkdir()
    draw = np.random.default_rng(0)
    for number in range(IMAGES):
        small = draw.integers(0, 256, (9, 12, 3), dtype=np.uint8)
        Image.fromarray(small).resize((1600, 1200), Image.Resampling.BICUBIC).save(folder / f"{number:03d}.jpg")
    (folder / "zero.jpg").write_bytes(b"")
    (folder / "copy.jpg").write_bytes((folder / "000.jpg").read_bytes())
    return folder


def test_a_node_dies_and_the_tables_are_those_of_an_undisturbed_run(
    cluster: Cluster, pictures: Path, tmp_path: Path
) -> None:
    calm, run = tmp_path / "calm", tmp_path / "run"
    here = [*CURATE, "--input", str(pictures), "--output", str(calm), "--engine", "local"]
    subprocess.run(here, cwd=REPO, env=cluster.environment, capture_output=True, check=True, timeout=120)
    there = [*CURATE, "--input", str(pictures), "--output", str(run), "--engine", "ray", "--address", cluster.address]
    with open(tmp_path / "told", "w+b") as told:
        command = subprocess.Popen(there, cwd=REPO, env=cluster.environment, stdout=told, stderr=told)
        try:
            measure = run / "steps" / "03-measure"
            until(
                lambda: (any(measure.glob("inflight/*")) and cluster.busy(OTHER)) or command.poll() is not None,
                120,
                "work on the other node",
            )
            assert command.poll() is None, (tmp_path / "told").read_text()
            died = cluster.kill(OTHER)
            assert not (measure / "step.json").exists()
            assert command.wait(timeout=150) == 0, (tmp_path / "told").read_text()
        finally:
            command.kill()
            command.wait()
    assert any("raylet" in name for name in died)
    assert any(name.startswith("ray::Worker.process") for name in died)
    for name in STEPS:
        expected, got = (Run(path).step_table(name).read() for path in (calm, run))
        assert expected.equals(got), name
    assert Run(run).step_table("measure").read(["status"])["status"].to_pylist() == ["kept"] * IMAGES
    rejects = {row["name"]: row["reason"] for table in Run(run).rejects(["name", "reason"]) for row in table.to_pylist()}
    assert rejects == {"zero.jpg": "empty", "copy.jpg": "duplicate.exact"}
