"""A run on a Ray cluster of two hosts (network namespaces joined by a virtual cable), undisturbed, with the second host
switched off in mid-run, and with the cable pulled. The tables must equal those of a local run. Needs root and
iproute2; tests/engine/test_two_nodes.py is the like on one host.

    uv run python perf/two_hosts.py
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from harness import machine, save

REPO = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPO))

from idtool.engine.local import LocalExecutor  # noqa: E402
from idtool.run import Run  # noqa: E402
from tests.engine.haunted import Log, wait_until  # noqa: E402
from tests.engine.two_nodes import run, start_nodes  # noqa: E402

HOSTS = ("10.77.0.1", "10.77.0.2")
WAYS = ("undisturbed", "switched off", "cable pulled")
# A pulled cable answers nothing: 5 checks of 0.5 + 2 s. Ray's own values are 3 + 10 s.
CHECKS = {"RAY_health_check_timeout_ms": "2000"}


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True)


@contextlib.contextmanager
def two_hosts() -> Iterator[tuple[str, str]]:
    """The names of two network namespaces that see each other and nothing else."""
    names = tuple(f"idtool{os.getpid()}{letter}" for letter in "ab")
    try:
        for name in names:
            ip("netns", "add", name)
            ip("-n", name, "link", "set", "lo", "up")
        ip("link", "add", "cable", "netns", names[0], "type", "veth", "peer", "name", "cable", "netns", names[1])
        for name, address in zip(names, HOSTS, strict=True):
            ip("-n", name, "address", "add", f"{address}/24", "dev", "cable")
            ip("-n", name, "link", "set", "cable", "up")
        yield names[0], names[1]
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "delete", name], check=False)


def try_one(way: str, folder: Path, expected: list[Any]) -> dict[str, Any]:
    folder.mkdir()
    log = Log(folder)
    sockets = Path(tempfile.mkdtemp(prefix="ray"))
    with contextlib.ExitStack() as stack:
        names = stack.enter_context(two_hosts())
        first, second = (["ip", "netns", "exec", name] for name in names)
        address, node = stack.enter_context(start_nodes(sockets, HOSTS, (first, second), CHECKS))
        command = [*first, sys.executable, "-m", "tests.engine.two_nodes", str(folder), address]
        driver = subprocess.Popen(command, cwd=REPO, env=os.environ | {"RAY_AUTH_MODE": "disabled"})
        try:
            wait_until("the second host", node.up)
            wait_until("the right moment", lambda: log.right_moment() or driver.poll() is not None)
            clock = time.monotonic()
            if way == "undisturbed":
                log.go_on.touch()
                log.stuck.unlink()
            elif way == "switched off":
                node.kill()
            else:
                ip("-n", names[1], "link", "set", "cable", "down")
            log.go_on.touch()
            code = driver.wait(timeout=300)
            seconds = time.monotonic() - clock
        finally:
            driver.kill()
            shutil.rmtree(sockets, ignore_errors=True)
    got = [Run(folder / "run").step_table(name).read() for name in ("haunted", "split")] if not code else []
    times = Counter(number for _, _, number in log.rows())
    return {
        "way": way,
        "exit code": code,
        "tables equal": bool(got) and all(table.equals(other) for table, other in zip(got, expected, strict=True)),
        "rows": len(times),
        "done twice": sum(count > 1 for count in times.values()),
        "s to the end": round(seconds, 1),
        "said": json.loads((folder / "said.json").read_text()) if not code else [],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--way", choices=WAYS, action="append", help="default: all")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # nodes and namespaces do not outlive the script
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        expected, _ = run(folder / "here", LocalExecutor(2))
        results = [try_one(way, folder / way.replace(" ", "-"), expected) for way in options.way or WAYS]
    for result in results:
        print(result)
    if options.json:
        save(options.json, {"machine": machine(), "results": results})


if __name__ == "__main__":
    main()
