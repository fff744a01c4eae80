"""The Ray executor: an actor per worker slot holds a step's operators; a free actor takes the next shard.

Ray Core, not Ray Data: on two cores an actor pool over chunks was 1.4 to 5 times faster than Ray Data's tasks and
actors on decode-and-measure work, and shards with stable keys are what resume needs (DESIGN §4)."""

from __future__ import annotations

import contextlib
import os
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

import idtool
from idtool.engine.apply import Warn
from idtool.engine.executor import Program, Shard
from idtool.engine.operator import Resources
from idtool.engine.ray_pool import Attempt, Pool, alive_nodes, room
from idtool.errors import MissingError, RunFailed, UsageError

LOOK_SECONDS = 2.0
"""How often the cluster is looked at for nodes that were lost or have joined."""
PATIENCE_SECONDS = 60.0
"""How long no worker may be ready before it is said what the run waits for."""
NO_NODE_SECONDS = 600.0
"""How long a cluster may have no node that holds a worker before the run gives up."""


class RayExecutor:
    """Actors on the cluster at `address`, or on a private one started on this machine."""

    name = "ray"

    def __init__(self, address: str | None = None, workers: int | None = None) -> None:
        self.address, self.workers = address, workers
        self._ray: Any = None
        self._started = False
        self._seen: dict[str, dict[str, float]] = {}
        """What the nodes hold that have been part of the cluster, by node id."""

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
            # Ray prints to the standard output that a node is lost, in the midst of what --json prints. `_Watch`
            # says so as a warning.
            internals = ray._private.worker
            if hasattr(internals, "print_to_stdstream"):
                internals.print_to_stdstream = lambda *_, **__: None
        self._ray = ray
        return ray

    def describe(self) -> str:
        total = self._connect().cluster_resources()
        where = f"cluster {self.address}" if self.address else "a cluster on this machine"
        return f"ray, {where}, {total.get('CPU', 0):g} CPUs, {total.get('GPU', 0):g} GPUs"

    def slots(self, need: Resources) -> int:
        """How many of the workers asked for fit on the cluster now: fewer than asked, or none, when it has lost
        nodes. Raises UsageError, with the numbers, when they would not fit on all the nodes that this executor has
        ever seen: actors that no node can hold would wait for ever."""
        nodes = alive_nodes(self._connect())
        self._seen |= nodes
        most = room(self._seen, need)
        if most < 1 or (self.workers or 0) > most:
            cpus, gpus = (sum(held.get(name, 0.0) for held in self._seen.values()) for name in ("CPU", "GPU"))
            raise UsageError(
                f"{self.workers or 1} worker(s) of {need.cpus:g} CPU and {need.gpus:g} GPU each do not fit the "
                f"cluster: it has {cpus:g} CPU and {gpus:g} GPU, room for {most}.",
                "Lower --workers, or add nodes.",
            )
        now = room(nodes, need)
        return min(self.workers or now, now)

    def run(self, program: Program, shards: Iterator[Shard], warn: Warn) -> Iterator[tuple[Shard, pa.Table]]:
        ray = self._connect()
        need = program_resources(program)
        watch = _Watch(self, need, warn)
        source, queue = iter(shards), deque[Attempt]()
        parts: dict[str, list[pa.Table]] = {}
        open_parts: dict[str, int] = {}
        whole: dict[str, Shard] = {}
        with contextlib.closing(Pool(ray, program, need)) as pool:
            while True:
                slots = watch.slots(pool.ready)
                while len(queue) + pool.running < slots and (shard := next(source, None)) is not None:
                    whole[shard.key], open_parts[shard.key] = shard, 1
                    queue.append(Attempt(shard))
                while queue and pool.idle:
                    pool.give(queue.popleft())
                while pool.starting < len(queue) and pool.actors < slots:
                    pool.start()
                if not queue and not pool.running:
                    return
                ended = pool.wait(LOOK_SECONDS)
                if ended is None:
                    continue
                key, result = ended.attempt.shard.key, ended.rows
                if result is None and ended.next_tries is not None:
                    open_parts[key] += len(ended.next_tries) - 1
                    queue.extend(ended.next_tries)
                    continue
                for text in ended.warnings:
                    warn(text)
                parts.setdefault(key, []).append(
                    program.crashed(ended.attempt.shard.rows) if result is None else result
                )
                open_parts[key] -= 1
                if not open_parts[key]:
                    del open_parts[key]
                    yield whole.pop(key), pa.concat_tables(parts.pop(key), promote_options="default")

    def close(self) -> None:
        if self._ray is not None and self._started:
            self._ray.shutdown()
        self._ray = None


class _Watch:
    """Looks at the cluster now and then, says what it lost, and loses patience when no worker can be had."""

    def __init__(self, executor: RayExecutor, need: Resources, warn: Warn) -> None:
        self.executor, self.need, self.warn = executor, need, warn
        self.now = executor.slots(need)
        self.looked = self.worked = time.monotonic()
        self.said = False
        if executor.workers is not None and self.now < executor.workers:
            warn(f"The cluster has lost nodes: it has room for {self.now} of {executor.workers} workers.")

    def slots(self, ready: int) -> int:
        """How many workers to have, at least one, with `ready` at work or idle. Raises RunFailed when the cluster
        has had no node for them for NO_NODE_SECONDS."""
        clock = time.monotonic()
        if clock - self.looked > LOOK_SECONDS:
            before, self.now, self.looked = self.now, self.executor.slots(self.need), clock
            if self.now < before:
                self.warn(
                    f"The cluster has lost a node: it has room for {self.now} worker{'s' * (self.now != 1)}, where it "
                    f"had room for {before}. What was at work there is done again."
                )
        if ready:
            self.worked, self.said = clock, False
        waited = clock - self.worked
        if waited > PATIENCE_SECONDS and not self.said:
            self.said = True
            self.warn(f"No worker of the Ray cluster is ready after {waited:.0f} s: its nodes are lost, busy or slow.")
        if waited > NO_NODE_SECONDS and not self.now:
            raise RunFailed(
                f"No node of the Ray cluster has held a worker for {waited:.0f} s.",
                "What is computed is kept; add nodes, then run the same command again.",
            )
        return max(self.now, 1)


def program_resources(program: Program) -> Resources:
    """What one actor reserves: its operators run one after another, so the largest need of each kind."""
    return Resources(
        cpus=max(operator.resources.cpus for operator in program.operators),
        gpus=max(operator.resources.gpus for operator in program.operators),
    )
