"""The local executor: threads in this process that share one set of models. Decoding and inference release the
interpreter lock, so threads fill the cores without a copy of the models each."""

from __future__ import annotations

import copy
import multiprocessing
import os
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, ThreadPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool

import pyarrow as pa

from idtool.engine.apply import Warn
from idtool.engine.executor import Program, Shard


def available_cpus() -> int:
    """Processors that this process may use (affinity and cgroup masks respected where the system tells)."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:
        return os.cpu_count() or 1


class LocalExecutor:
    """`workers` threads (default: one per processor) that take shards; at most two shards a worker are in memory."""

    name = "local"

    def __init__(self, workers: int | None = None) -> None:
        self.workers = workers or available_cpus()

    def describe(self) -> str:
        return f"local, {self.workers} worker thread{'s' if self.workers > 1 else ''}"

    def run(self, program: Program, shards: Iterator[Shard], warn: Warn) -> Iterator[tuple[Shard, pa.Table]]:
        ready = False
        suspects: list[Shard] = []
        child = ChildProcess(copy.deepcopy(program))  # set up, it could no longer be pickled
        pool = ThreadPoolExecutor(self.workers, thread_name_prefix="idtool")
        running: dict[Future[pa.Table], Shard] = {}
        try:
            for shard in shards:
                if not ready:
                    program.setup()
                    ready = True
                if shard.suspect:
                    suspects.append(shard)
                    continue
                running[pool.submit(program, shard.rows, warn)] = shard
                if len(running) >= 2 * self.workers:
                    yield from _collect(running)
            while running:
                yield from _collect(running)
            for shard in suspects:
                yield shard, child(shard.rows)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
            child.close()

    def close(self) -> None:
        """Threads end with each run; nothing is held between steps."""


def _collect(running: dict[Future[pa.Table], Shard]) -> Iterator[tuple[Shard, pa.Table]]:
    finished, _ = wait(running, return_when=FIRST_COMPLETED)
    for future in finished:
        yield running.pop(future), future.result()


class ChildProcess:
    """Runs a program in a child process that may die of a row; a new child takes over when it does."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self._pool: ProcessPoolExecutor | None = None

    def __call__(self, rows: pa.Table) -> pa.Table:
        """The output of `rows`. If the child dies, the rows are halved until the one that kills it stands alone:
        that row becomes an error, the others are processed."""
        if self._pool is None:
            context = multiprocessing.get_context("spawn")
            self._pool = ProcessPoolExecutor(1, context, initializer=_set_up, initargs=(self.program,))
        try:
            return self._pool.submit(_process, rows).result()
        except BrokenProcessPool:
            self.close()
            if rows.num_rows == 1:
                return self.program.crashed(rows)
            half = rows.num_rows // 2
            parts = [self(part) for part in (rows.slice(0, half), rows.slice(half))]
            return pa.concat_tables(parts, promote_options="default")

    def close(self) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)
            self._pool = None


_programs: list[Program] = []


def _set_up(program: Program) -> None:
    program.setup()
    _programs[:] = [program]


def _process(rows: pa.Table) -> pa.Table:
    return _programs[0](rows)
