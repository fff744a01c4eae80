"""Two Ray nodes on this machine, each on a loopback address of its own; one of them dies in the middle of a step."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from idtool.engine.executor import Executor
from idtool.engine.local import LocalExecutor
from idtool.engine.operator import Context
from idtool.engine.plan import Upstream, plan_steps
from idtool.engine.ray_executor import RayExecutor
from idtool.engine.runner import Runner
from idtool.run import Run
from tests.conftest import REPO
from tests.engine.toy import ENV, Quiet, Select, SelectSettings, Square, SquareSettings, numbers

HEAD, OTHER = "127.0.0.1", "127.0.0.2"
ROWS, HIGH = 240, 200
STARTS, ENDS = 150.0, 150.0
"""Seconds that a node may take to start, and the run to end."""

pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="finds the processes of a node in /proc")


def until(condition: Callable[[], object], seconds: float, what: str) -> None:
    """Waits for something to come true."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            pytest.fail(f"{what}: not within {seconds:g} s")
        time.sleep(0.05)


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
        self.environment = {
            **os.environ,
            "PYTHONPATH": str(REPO),  # the toy steps, which are no part of the package
            "RAY_AUTH_MODE": "disabled",
            "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
        }
        self.nodes: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, node: str, *options: str) -> None:
        command = [str(Path(sys.executable).with_name("ray")), "start", "--block", f"--node-ip-address={node}"]
        command += ["--num-cpus=2", f"--object-store-memory={128 << 20}", "--disable-usage-stats", *options]
        with open(self.folder / f"{node}.log", "wb") as log:
            self.nodes[node] = subprocess.Popen(command, cwd=self.folder, env=self.environment, stdout=log, stderr=log)
        until(lambda: "/raylet " in self.commands(node), STARTS, f"start of node {node}")

    def start_all(self) -> None:
        port = self.address.rpartition(":")[2]
        self.start(HEAD, "--head", f"--port={port}", "--include-dashboard=false", f"--temp-dir={self.folder / 'h'}")
        self.start(OTHER, f"--address={self.address}")

    def commands(self, node: str) -> str:
        return "\n".join(descendants(self.nodes[node].pid).values())

    def busy(self, node: str) -> bool:
        """Whether a worker of ours holds a shard there: Ray names processes after what they run."""
        return node in self.nodes and "ray::Worker.process" in self.commands(node)

    def kill(self, node: str) -> str:
        """kill -9 for all of a node; returns the command lines of what died."""
        process = self.nodes.pop(node)
        doomed = descendants(process.pid)
        for pid in (process.pid, *doomed):
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        process.wait()
        return "\n".join(doomed.values())

    def stop(self) -> None:
        for node in list(self.nodes):
            self.kill(node)


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    pytest.importorskip("ray")
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    # The names of Ray's sockets must be short, so the folder is not the test's.
    folder = Path(tempfile.mkdtemp(prefix="ray2-"))
    made = Cluster(folder)
    try:
        made.start_all()
        yield made
    finally:
        made.stop()
        shutil.rmtree(folder, ignore_errors=True)


def run_on(executor: Executor, folder: Path, log: Path, watch: Quiet) -> None:
    steps = [
        ("square", Square(SquareSettings(seconds=0.1, log=str(log), reject_above=HIGH), ENV)),
        ("select", Select(SelectSettings(below=100**2), ENV)),
    ]
    sources = numbers(folder.with_name(f"{folder.name}-sources"), range(ROWS))
    try:
        with Run.create(folder) as run:
            planned = plan_steps(steps, sources.schema)
            runner = Runner(run, executor, Context(str(run.path)), watch)
            runner.execute(planned, sources, Upstream("test", str(sources.rows)))
    finally:
        executor.close()


@pytest.mark.parametrize("workers", [None, 4], ids=["all", "4"])
def test_a_node_dies_and_the_tables_are_those_of_an_undisturbed_run(
    cluster: Cluster, tmp_path: Path, workers: int | None
) -> None:
    calm, run, log = tmp_path / "calm", tmp_path / "run", tmp_path / "log"
    run_on(LocalExecutor(8), calm, tmp_path / "calm-log", Quiet())
    failed: list[BaseException] = []

    def drive() -> None:
        try:
            run_on(RayExecutor(cluster.address, workers), run, log, Quiet())
        except BaseException as error:
            failed.append(error)

    driver = threading.Thread(target=drive, daemon=True)
    driver.start()
    parts = run / "steps" / "01-square" / "parts"
    until(lambda: failed or (cluster.busy(OTHER) and len(list(parts.glob("*"))) > 2), ENDS, "work on the other node")
    assert not failed, failed
    died = cluster.kill(OTHER)
    done_before = len(list(parts.glob("*")))
    driver.join(ENDS)
    assert not driver.is_alive(), f"the run stands still after {len(log.read_text().split())} rows"
    assert not failed, failed
    assert "/raylet " in died and "ray::Worker.process" in died and done_before < ROWS // Square.shard_rows
    worked_on = log.read_text().split()
    assert len(set(worked_on)) == ROWS < len(worked_on), "rows that the dead node held were done again"
    for name in ("square", "select"):
        expected, got = (Run(path).step_table(name).read() for path in (calm, run))
        assert expected.equals(got), name
    assert Run(run).entry("square")["kept"] == HIGH + 1 and Run(run).entry("square")["errors"] == 0
    assert Run(run).entry("select")["kept"] == 100
