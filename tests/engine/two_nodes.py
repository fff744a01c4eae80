"""A Ray cluster of two nodes, and a run on it that stops at the moment when losing the second node hurts most: one of
its two workers is in the middle of a shard that never ends, and the other has a result that nobody has fetched. The
run's driver is a program, so that a test can give it up:

python -m tests.engine.two_nodes FOLDER ADDRESS
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import pyarrow as pa

from idtool.engine.apply import Warn
from idtool.engine.executor import Executor, Program, Shard
from idtool.engine.ray_executor import RayExecutor
from idtool.engine.ray_pool import alive_nodes
from idtool.engine.step import Step
from idtool.errors import MissingError
from tests.conftest import REPO
from tests.engine.haunted import ROWS, WORKERS, Haunted, HauntedSettings, Log, wait_until
from tests.engine.test_runner import execute
from tests.engine.toy import ENV, Quiet, Split

RAY = Path(sys.executable).with_name("ray")


class Node:
    """A Ray node in a session of its own, with a name that its workers find in their environment."""

    def __init__(self, name: str, command: list[str], folder: Path, environment: Mapping[str, str]) -> None:
        self.log = folder / f"{name}.log"
        # Whoever reaches an open port may run code; these are on the loopback device or in a namespace.
        mine: dict[str, str] = {"RAY_AUTH_MODE": "disabled", "PYTHONPATH": str(REPO), "TOY_NODE": name}
        self.environment = {**os.environ, **mine, **environment}
        common = ["--block", "--disable-usage-stats", "--include-log-monitor=false", "--object-store-memory=80000000"]
        self.command = [*command, *common]
        self.process = self._start()

    def _start(self) -> subprocess.Popen[bytes]:
        with self.log.open("w") as sink:
            return subprocess.Popen(
                self.command, env=self.environment, stdout=sink, stderr=sink, start_new_session=True
            )

    def up(self) -> bool:
        """Whether it has started. Ray gives up after 30 s, which a busy machine may take: then once more."""
        if self.process.poll() is not None:
            self.kill()
            self.process = self._start()
        return "Ray runtime started" in self.log.read_text()

    def processes(self) -> list[int]:
        """All of the session: workers have process groups of their own."""
        found = []
        for path in Path("/proc").glob("[0-9]*/stat"):
            try:
                fields = path.read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if int(fields[3]) == self.process.pid and fields[0] != "Z":
                found.append(int(path.parent.name))
        return found

    def kill(self) -> None:
        """As when the power fails."""
        for pid in self.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait()


@contextlib.contextmanager
def start_nodes(
    folder: Path,
    addresses: tuple[str, str],
    prefixes: tuple[list[str], list[str]] = ([], []),
    environment: Mapping[str, str] | None = None,
) -> Iterator[tuple[str, Node]]:
    """Yields the cluster's address and its second node, which may still be starting; ends them afterwards. Ray's files
    go to `folder`, whose path must be short for the sake of sockets. `prefixes` go before the nodes' commands."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    address = f"{addresses[0]}:{port}"
    # A node that refuses connections is taken for dead after 5 checks. Slow answers are waited for: machines are busy.
    checks = {"RAY_health_check_period_ms": "500", "RAY_health_check_initial_delay_ms": "1000", **(environment or {})}
    head = ["--head", f"--port={port}", f"--temp-dir={folder}", "--include-dashboard=false", "--no-monitor"]
    join = [f"--address={address}"]
    nodes: list[Node] = []
    try:
        for name, cpus, options, ip, prefix in zip(
            ("first", "second"), (1, WORKERS - 1), (head, join), addresses, prefixes, strict=True
        ):
            command = [*prefix, str(RAY), "start", *options, f"--node-ip-address={ip}", f"--num-cpus={cpus}"]
            nodes.append(Node(name, command, folder, checks))
            if name == "first":
                wait_until("the first node", nodes[0].up)
        yield address, nodes[1]
    finally:
        for node in reversed(nodes):
            node.kill()


class Halting(RayExecutor):
    """Stops when the first node has delivered, until it may go on."""

    def __init__(self, address: str, log: Log) -> None:
        super().__init__(address, WORKERS)
        self.log = log

    def seen_cpus(self) -> float:
        return sum(held.get("CPU", 0.0) for held in alive_nodes(self._connect()).values())

    def run(self, program: Program, shards: Iterator[Shard], warn: Warn) -> Iterator[tuple[Shard, pa.Table]]:
        for shard, output in super().run(program, shards, warn):
            node = next(row[0] for row in self.log.rows() if row[2] in shard.rows["number"].to_pylist())
            if node == "first" and not self.log.halted.exists():
                self.log.halted.touch()
                wait_until("leave to go on", self.log.go_on.exists)
            yield shard, output


def run(folder: Path, executor: Executor) -> tuple[list[pa.Table], Quiet]:
    """The tables of the two steps, and what was said."""
    steps: list[tuple[str, Step]] = [
        ("haunted", Haunted(HauntedSettings(folder=str(folder)), ENV)),
        ("split", Split(Split.Settings(), ENV)),
    ]
    run, _, watcher = execute(folder / "run", steps, executor, ROWS)
    return [run.step_table(name).read() for name in ("haunted", "split")], watcher


def drive(folder: Path, address: str) -> None:
    """Waits for both nodes, runs, and writes the warnings to FOLDER/said.json and nothing to the standard output."""
    executor = Halting(address, Log(folder))
    deadline = time.monotonic() + 300
    while True:
        try:
            executor.describe()
            break
        except MissingError:
            if time.monotonic() > deadline:
                raise
    wait_until("two nodes", lambda: executor.seen_cpus() == WORKERS)
    _, watcher = run(folder, executor)
    executor.close()
    (folder / "said.json").write_text(json.dumps(watcher.warnings))


if __name__ == "__main__":
    drive(Path(sys.argv[1]), sys.argv[2])
