"""A node of a Ray cluster that dies in mid-run costs nothing but time."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from idtool.engine.local import LocalExecutor
from idtool.run import Run
from tests.conftest import REPO
from tests.engine.haunted import ROWS, SHARD, Log, shard_of, wait_until
from tests.engine.two_nodes import Node, run, start_nodes

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="two nodes on one host need two loopback addresses")


@pytest.fixture
def cluster() -> Iterator[tuple[str, Node]]:
    folder = Path(tempfile.mkdtemp(prefix="ray"))
    try:
        with start_nodes(folder, ("127.0.0.1", "127.0.0.2")) as started:
            yield started
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def test_a_node_killed_in_mid_run(cluster: tuple[str, Node], tmp_path: Path) -> None:
    address, second = cluster
    there = tmp_path / "there"
    there.mkdir()
    log = Log(there)
    command = [sys.executable, "-m", "tests.engine.two_nodes", str(there), address]
    environment = os.environ | {"RAY_AUTH_MODE": "disabled"}
    with subprocess.Popen(command, cwd=REPO, env=environment, stdout=subprocess.PIPE, text=True) as driver:
        try:
            expected, _ = run(tmp_path / "here", LocalExecutor(2))
            wait_until("the second node", second.up)
            wait_until("the right moment", lambda: log.right_moment() or driver.poll() is not None)
            last = [shards[-1] for shards in log.last_rows("second").values()]
            second.kill()
            log.go_on.touch()
            said, _ = driver.communicate(timeout=300)
        finally:
            driver.kill()
    assert driver.returncode == 0 and not said
    got = [Run(there / "run").step_table(name).read() for name in ("haunted", "split")]
    assert all(table.equals(other) for table, other in zip(got, expected, strict=True))
    assert set(got[0]["status"].to_pylist()) == {"kept"} and got[0].num_rows == len(ROWS)
    warnings = json.loads((there / "said.json").read_text())
    assert any("has lost" in text for text in warnings), warnings
    # What the second node had in hand is done again, a finished shard's lost result with it, and nothing else.
    in_hand = {number for number in ROWS if shard_of(number) in map(shard_of, last)}
    times = Counter(number for _, _, number in log.rows())
    assert sorted(number % SHARD for number in last) == [0, SHARD // 2]
    assert sum(times[number] for number in in_hand) == len(in_hand) + SHARD + SHARD // 2
    assert all(times[number] == 1 for number in set(ROWS) - in_hand)
