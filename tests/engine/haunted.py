"""A toy step for a cluster of two nodes, whose workers wait for each other so that losing the second node hurts most
at a known moment. Apart from what drives it, because each worker imports this module."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

from idtool.engine.operator import Operator, Row, map_rows
from idtool.engine.step import RowStep, Settings

ROWS = range(113)
SHARD = 8
WORKERS = 3
"""One on the first node, two on the second."""


def wait_until(what: str, true: Callable[[], bool], seconds: float = 300) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what}: not within {seconds:g} s")
        time.sleep(0.05)


class Log:
    """What the workers wrote down, one line a row: node, process, number."""

    def __init__(self, folder: Path) -> None:
        self.path, self.stuck = folder / "rows", folder / "stuck"
        self.halted, self.go_on = folder / "halted", folder / "go_on"

    def rows(self) -> list[tuple[str, str, int]]:
        if not self.path.exists():
            return []
        lines = [line.split() for line in self.path.read_text().splitlines()]
        return [(node, process, int(number)) for node, process, number in lines]

    def last_rows(self, node: str) -> dict[str, list[int]]:
        """By process of the node: the last row of each shard that it has begun, but for the canary."""
        last: dict[str, dict[int, int]] = {}
        for name, process, number in self.rows():
            if name == node and number:
                last.setdefault(process, {})[shard_of(number)] = number
        return {process: list(shards.values()) for process, shards in last.items()}

    def right_moment(self) -> bool:
        """Whether one worker of the second node is stuck in a shard, and the other has a result that nobody fetches."""
        if not (self.halted.exists() and self.stuck.exists()):
            return False
        ends = [shards[-1] for shards in self.last_rows("second").values() if len(shards) > 1]
        if not any(number % SHARD == 0 for number in ends):
            return False
        time.sleep(0.5)  # from the last row to the result
        return True


def shard_of(number: int) -> int:
    """The first shard is row 0 alone."""
    return -(-number // SHARD)


class HauntedOperator(Operator):
    """Off a cluster, a plain operator. On it, the workers wait for each other so that it always goes the same way:
    the first worker of the second node to get half-way through a shard is stuck there; the other one has its first
    result fetched and then works on until its second result is there; the first node's worker delivers after that."""

    reads = ("number",)
    writes = pa.schema([pa.field("text", pa.string())])

    def __init__(self, folder: Path) -> None:
        self.log = Log(folder)

    def config(self) -> dict[str, Any]:
        return {}

    def __call__(self, batch: pa.Table) -> pa.Table:
        return map_rows(batch, self._row, self.writes)

    def _row(self, row: Row) -> Row:
        node = os.environ.get("TOY_NODE")
        if node is not None:
            self._haunt(node, row["number"])
        # 160 kB a shard: Ray leaves results above 100 kB where they were made until they are asked for.
        return {"text": f"{row['number']:04d}" * 5_000}

    def _haunt(self, node: str, number: int) -> None:
        log, me = self.log, str(os.getpid())
        time.sleep(0.05)
        if node == "second" and number % SHARD == 0 and len(log.last_rows(node).get(me, [])) > 1:
            wait_until("the driver halts", log.halted.exists)
        with log.path.open("a") as sink:
            sink.write(f"{node} {me} {number}\n")
        wait_until("all workers at work", lambda: len({process for _, process, _ in log.rows()}) >= WORKERS)
        if node == "first":
            wait_until("a second result", lambda: any(len(each) > 1 for each in log.last_rows("second").values()))
        elif number % SHARD == SHARD // 2 and not log.go_on.exists():
            with contextlib.suppress(FileExistsError):
                log.stuck.open("x").close()
                wait_until("for ever", lambda: not log.stuck.exists(), seconds=600)  # unless somebody unlinks it


class HauntedSettings(Settings):
    folder: str


class Haunted(RowStep):
    kind = "haunted"
    Settings = HauntedSettings
    shard_rows = SHARD

    def reads(self, available: Mapping[str, pa.Field]) -> tuple[str, ...]:
        return ("number",)

    def writes(self, available: Mapping[str, pa.Field]) -> pa.Schema:
        return HauntedOperator.writes

    def config(self) -> dict[str, Any]:
        return {}

    def operators(self) -> list[Operator]:
        return [HauntedOperator(Path(self.settings.folder))]
