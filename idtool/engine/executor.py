"""What runs operators on shards. Both executors take the same program and give the same tables."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import pyarrow as pa

from idtool.engine.apply import Warn, apply, failed_rows
from idtool.engine.operator import Context, Operator


class WorkerCrashed(Exception):
    """A worker process died while it held exactly this row."""


@dataclass(frozen=True)
class Shard:
    """The unit of scheduling, commit and resume: some input rows and a key that names them."""

    key: str
    rows: pa.Table
    suspect: bool = False
    """A process died while it held this shard: run it where a crash does no harm."""

    def halves(self) -> list[Shard]:
        half = self.rows.num_rows // 2
        return [Shard(self.key, self.rows.slice(0, half)), Shard(self.key, self.rows.slice(half))]


@dataclass(frozen=True)
class Program:
    """The operators of a step with what they need to know of the run. Picklable until `setup`."""

    operators: tuple[Operator, ...]
    context: Context

    def setup(self) -> None:
        for operator in self.operators:
            operator.setup(self.context)

    def __call__(self, rows: pa.Table, warn: Warn = lambda _: None) -> pa.Table:
        return apply(self.operators, rows, warn)

    def crashed(self, rows: pa.Table) -> pa.Table:
        """The outcome of a row that kills its worker whenever it is tried."""
        error = WorkerCrashed("the worker process died while it processed this row")
        return failed_rows(rows, pa.schema([]), error)


def shard_key(fingerprint: str, ids: list[str]) -> str:
    """Names a shard by what it holds and by what is done to it; the same work always has the same key."""
    digest = hashlib.sha256(fingerprint.encode())
    for value in ids:
        digest.update(b"\0" + value.encode("utf-8", "surrogatepass"))
    return digest.hexdigest()[:32]


class Executor(Protocol):
    """Runs a program on shards; results come in any order, each shard exactly once."""

    name: str

    def describe(self) -> str:
        """One sentence: where the work runs, with how many workers."""
        ...

    def run(self, program: Program, shards: Iterator[Shard], warn: Warn) -> Iterator[tuple[Shard, pa.Table]]:
        """Set the program up and yield each shard with its output. Raises on set-up errors only: whatever a row
        does, up to killing its worker, ends up as that row's outcome."""
        ...

    def close(self) -> None:
        """Give back what the executor holds."""
        ...


class Borrowed:
    """An executor that somebody else will close."""

    def __init__(self, executor: Executor) -> None:
        self.executor = executor
        self.name = executor.name

    def describe(self) -> str:
        return self.executor.describe()

    def run(self, program: Program, shards: Iterator[Shard], warn: Warn) -> Iterator[tuple[Shard, pa.Table]]:
        return self.executor.run(program, shards, warn)

    def close(self) -> None:
        """Leaves it open."""
