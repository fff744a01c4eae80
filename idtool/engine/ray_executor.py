"""The Ray executor: an actor per worker slot holds a step's operators; a free actor takes the next shard.

Ray Core, not Ray Data: on two cores an actor pool over chunks was 1.4 to 5 times faster than Ray Data's tasks and
actors on decode-and-measure work, and shards with stable keys are what resume needs (DESIGN §4)."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

import idtool
from idtool.engine.apply import Warn
from idtool.engine.executor import Program, Shard
from idtool.engine.operator import Resources
from idtool.errors import MissingError, UsageError

RETRIES_BEFORE_SPLIT = 1
"""A shard whose worker died is tried once more as it is (the node may have been lost), then split."""


class Worker:
    """The actor: operators are set up once, then called on shard after shard. Set-up happens in the first call, so
    that its errors reach the driver as they are."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.ready = False
        self.warnings: list[str] = []

    def process(self, rows: pa.Table) -> tuple[pa.Table, list[str]]:
        if not self.ready:
            self.program.setup()
            self.ready = True
        result = self.program(rows, self.warnings.append)
        warnings, self.warnings = self.warnings, []
        return result, warnings


class RayExecutor:
    """Actors on the cluster at `address`, or on a private one started on this machine."""

    name = "ray"

    def __init__(self, address: str | None = None, workers: int | None = None) -> None:
        self.address, self.workers = address, workers
        self._ray: Any = None
        self._started = False

    def _connect(self) -> Any:
        if self._ray is not None:
            return self._ray
        # `uv run` would otherwise make Ray upload the working directory and rebuild the environment per worker.
        os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        try:
            import ray
        except ImportError as error:
            raise MissingError("--engine ray needs the package `ray`.", "Install it, or use --engine local.") from error
        if not ray.is_initialized():
            options: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR", "configure_logging": False}
            if self.address is None:
                options |= {"include_dashboard": False, "num_cpus": self.workers}
            else:
                # Nodes have the dependencies; this very code goes along, so that all run the same.
                options["runtime_env"] = {"py_modules": [str(Path(idtool.__file__).parent)]}
            try:
                ray.init(address=self.address or "local", **options)
            except (ConnectionError, ValueError, RuntimeError) as error:
                where = f"the Ray cluster at {self.address!r}" if self.address else "a local Ray cluster"
                raise MissingError(
                    f"Cannot reach {where}: {error}.",
                    "Check --address, or leave it out. For a cluster that asks for a token set RAY_AUTH_MODE=token.",
                ) from error
            self._started = True
        self._ray = ray
        return ray

    def describe(self) -> str:
        total = self._connect().cluster_resources()
        where = f"cluster {self.address}" if self.address else "a cluster on this machine"
        return f"ray, {where}, {total.get('CPU', 0):g} CPUs, {total.get('GPU', 0):g} GPUs"

    def slots(self, need: Resources) -> int:
        """How many workers fit on the cluster. Raises UsageError, with the numbers, when the plan cannot be met:
        actors that no node can hold would wait for ever."""
        total = self._connect().cluster_resources()
        fits = [
            int(total.get(name, 0.0) / amount) for name, amount in (("CPU", need.cpus), ("GPU", need.gpus)) if amount
        ]
        most = min(fits, default=1)
        asked = self.workers or most
        if most < 1 or asked > most:
            raise UsageError(
                f"{max(asked, 1)} worker(s) of {need.cpus:g} CPU and {need.gpus:g} GPU each do not fit the cluster: "
                f"it has {total.get('CPU', 0.0):g} CPU and {total.get('GPU', 0.0):g} GPU, room for {most}.",
                "Lower --workers, or add nodes.",
            )
        return asked

    def run(self, program: Program, shards: Iterator[Shard], warn: Warn) -> Iterator[tuple[Shard, pa.Table]]:
        ray = self._connect()
        need = program_resources(program)
        slots = self.slots(need)
        shared = ray.put(program)
        actor_class = ray.remote(Worker).options(num_cpus=need.cpus, num_gpus=need.gpus, max_restarts=0)
        source, queue = iter(shards), deque[_Attempt]()
        idle: list[Any] = []
        running: dict[Any, tuple[Any, _Attempt]] = {}
        parts: dict[str, list[pa.Table]] = {}
        open_parts: dict[str, int] = {}
        whole: dict[str, Shard] = {}
        try:
            while True:
                while len(running) < slots and (attempt := _next(source, queue)) is not None:
                    if attempt.shard.key not in whole:
                        whole[attempt.shard.key], open_parts[attempt.shard.key] = attempt.shard, 1
                    if not idle:
                        idle.append(actor_class.remote(shared))
                    actor = idle.pop()
                    running[actor.process.remote(attempt.shard.rows)] = (actor, attempt)
                if not running:
                    return
                (done,), _ = ray.wait(list(running), num_returns=1)
                actor, attempt = running.pop(done)
                key = attempt.shard.key
                try:
                    result, warnings = ray.get(done)
                except ray.exceptions.RayTaskError as error:
                    raise error.cause from None
                except ray.exceptions.RayError as error:
                    if "creation task" in str(error):
                        raise _unfit(error) from error
                    retry = attempt.next_tries()
                    if retry is not None:
                        open_parts[key] += len(retry) - 1
                        queue.extend(retry)
                        continue
                    result, warnings = program.crashed(attempt.shard.rows), []
                else:
                    idle.append(actor)
                for text in warnings:
                    warn(text)
                parts.setdefault(key, []).append(result)
                open_parts[key] -= 1
                if not open_parts[key]:
                    del open_parts[key]
                    yield whole.pop(key), pa.concat_tables(parts.pop(key), promote_options="default")
        finally:
            for actor in [*idle, *(actor for actor, _ in running.values())]:
                ray.kill(actor)

    def close(self) -> None:
        if self._ray is not None and self._started:
            self._ray.shutdown()
        self._ray = None


def _unfit(error: Exception) -> MissingError:
    """A worker that cannot even be made: its class needs nothing but imports, so a package is not there."""
    lines = [line.strip() for line in str(error).splitlines() if "Error" in line]
    return MissingError(
        f"The workers of the Ray cluster cannot be set up: {lines[-1] if lines else error}.",
        "Install idtool with its dependencies on every node, at the version that is installed here.",
    )


class _Attempt:
    """A shard, or a part of one, with how often its worker has died."""

    def __init__(self, shard: Shard, failures: int = 0) -> None:
        self.shard, self.failures = shard, failures

    def next_tries(self) -> list[_Attempt] | None:
        """What to try next, or None when this one row is to blame."""
        if self.failures < RETRIES_BEFORE_SPLIT:
            return [_Attempt(self.shard, self.failures + 1)]
        if self.shard.rows.num_rows == 1:
            return None
        return [_Attempt(half) for half in self.shard.halves()]


def _next(source: Iterator[Shard], queue: deque[_Attempt]) -> _Attempt | None:
    if queue:
        return queue.popleft()
    shard = next(source, None)
    return None if shard is None else _Attempt(shard)


def program_resources(program: Program) -> Resources:
    """What one actor reserves: its operators run one after another, so the largest need of each kind."""
    return Resources(
        cpus=max(operator.resources.cpus for operator in program.operators),
        gpus=max(operator.resources.gpus for operator in program.operators),
    )
