"""The Ray executor's actors: which of them start, wait for work or hold a shard, and what their ends mean.

A shard is only ever given to an actor that has answered: one that waits for a place on the cluster may wait for ever,
as when the node that it was meant for is lost."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from idtool.engine.executor import Program, Shard
from idtool.engine.operator import Resources
from idtool.errors import MissingError

RETRIES_BEFORE_SPLIT = 1
"""A shard whose worker process died is tried once more as it is (the machine may have been short of memory), then
split."""
LOSSES_BEFORE_BLAME = 5
"""A shard whose node was lost is tried again as it is. From this many lost nodes on it may be what fells them."""
STARTS_BEFORE_FAILURE = 5
"""So many workers in a row that die before they are ready mean that none can be had."""


class Worker:
    """The actor: operators are set up once, then called on shard after shard. Set-up happens in the first call, so
    that its errors reach the driver as they are."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.ready = False
        self.warnings: list[str] = []

    def node(self) -> str:
        """Where the worker lives; that it answers says that it has a place."""
        import ray

        return str(ray.get_runtime_context().get_node_id())

    def process(self, rows: pa.Table) -> tuple[pa.Table, list[str]]:
        if not self.ready:
            self.program.setup()
            self.ready = True
        result = self.program(rows, self.warnings.append)
        warnings, self.warnings = self.warnings, []
        return result, warnings


@dataclass(frozen=True)
class Attempt:
    """A shard, or a part of one, with how often its worker process has died and its node was lost."""

    shard: Shard
    deaths: int = 0
    losses: int = 0

    def after_loss(self) -> list[Attempt] | None:
        """What to try next when the node was lost, the result with it, or the worker cannot be reached."""
        if self.losses < LOSSES_BEFORE_BLAME:
            return [Attempt(self.shard, self.deaths, self.losses + 1)]
        return self.after_death()

    def after_death(self) -> list[Attempt] | None:
        """What to try next when the worker process died, or None when this one row is to blame."""
        if self.deaths < RETRIES_BEFORE_SPLIT:
            return [Attempt(self.shard, self.deaths + 1, self.losses)]
        if self.shard.rows.num_rows == 1:
            return None
        return [Attempt(half) for half in self.shard.halves()]


@dataclass(frozen=True)
class Ended:
    """An attempt with its result (None when its worker ended without one) and what to try instead."""

    attempt: Attempt
    rows: pa.Table | None
    warnings: list[str] = field(default_factory=list)
    next_tries: list[Attempt] | None = None


class Pool:
    """The actors that run one program. `close` ends them all."""

    def __init__(self, ray: Any, program: Program, need: Resources) -> None:
        self.ray = ray
        self._program = ray.put(program)
        self._make = ray.remote(Worker).options(num_cpus=need.cpus, num_gpus=need.gpus, max_restarts=0)
        self._starting: dict[Any, tuple[Any, set[str]]] = {}
        """Actors that have not answered yet, with the nodes that lived when they were asked for."""
        self._idle: list[tuple[Any, str]] = []
        self._running: dict[Any, tuple[Any, str, Attempt]] = {}
        self._failed_starts = 0

    @property
    def actors(self) -> int:
        return len(self._starting) + self.ready

    @property
    def ready(self) -> int:
        return len(self._idle) + len(self._running)

    @property
    def idle(self) -> int:
        return len(self._idle)

    @property
    def starting(self) -> int:
        return len(self._starting)

    @property
    def running(self) -> int:
        return len(self._running)

    def start(self) -> None:
        """Ask for one more actor."""
        actor = self._make.remote(self._program)
        self._starting[actor.node.remote()] = (actor, set(alive_nodes(self.ray)))

    def give(self, attempt: Attempt) -> None:
        """Hand work to an idle actor."""
        actor, node = self._idle.pop()
        self._running[actor.process.remote(attempt.shard.rows)] = (actor, node, attempt)

    def wait(self, seconds: float) -> Ended | None:
        """The next attempt that ends; None when an actor becomes ready, fails to, or nothing happens for so long.
        Raises what the program's set-up raises, and MissingError when actors cannot be made."""
        done, _ = self.ray.wait([*self._starting, *self._running], num_returns=1, timeout=seconds)
        if not done:
            return None
        if done[0] in self._running:
            return self._ended(done[0])
        self._started(done[0])
        return None

    def close(self) -> None:
        for actor, *_ in [*self._idle, *self._running.values(), *self._starting.values()]:
            self.ray.kill(actor)

    def _started(self, reference: Any) -> None:
        actor, nodes = self._starting.pop(reference)
        try:
            node = self.ray.get(reference)
        except self.ray.exceptions.RayError as error:
            self.ray.kill(actor)
            unreachable = isinstance(error, self.ray.exceptions.ActorUnavailableError)
            if not unreachable and nodes <= alive_nodes(self.ray).keys():  # else it may have gone with a node
                self._failed_starts += 1
            if getattr(error, "actor_init_failed", False) or self._failed_starts >= STARTS_BEFORE_FAILURE:
                raise _unfit(error) from error
        else:
            self._failed_starts = 0
            self._idle.append((actor, node))

    def _ended(self, reference: Any) -> Ended:
        actor, node, attempt = self._running.pop(reference)
        try:
            rows, warnings = self.ray.get(reference)
        except self.ray.exceptions.RayTaskError as error:
            if not isinstance(error.cause, self.ray.exceptions.RayError):
                self._idle.append((actor, node))
                raise error.cause from None
            next_tries = attempt.after_loss()  # the worker could not get its input from another node
        except self.ray.exceptions.RayError as error:
            lost = node_lost(self.ray.exceptions, error, node, alive_nodes(self.ray))
            next_tries = attempt.after_loss() if lost else attempt.after_death()
        else:
            self._idle.append((actor, node))
            return Ended(attempt, rows, warnings)
        self.ray.kill(actor)
        return Ended(attempt, None, next_tries=next_tries)


def node_lost(exceptions: Any, error: Exception, node: str, alive: Collection[str]) -> bool:
    """Whether the node, the network or the object store is at fault, and not the worker's process. A worker that does
    not answer is one whose node is not known to be dead yet."""
    elsewhere = (exceptions.ActorUnavailableError, exceptions.NodeDiedError, exceptions.ObjectLostError)
    return isinstance(error, elsewhere) or getattr(error, "preempted", False) or node not in alive


def alive_nodes(ray: Any) -> dict[str, dict[str, float]]:
    """What each living node of the cluster holds in all, by node id."""
    return {node["NodeID"]: node["Resources"] for node in ray.nodes() if node["Alive"]}


def room(nodes: dict[str, dict[str, float]], need: Resources) -> int:
    """How many workers fit: a worker lives on one node, so the remainders of nodes do not add up to a place."""
    wanted = [(name, amount) for name, amount in (("CPU", need.cpus), ("GPU", need.gpus)) if amount]
    if not wanted:
        return 1
    # The small number is for fractions: 0.3 / 0.1 is a little less than 3.
    return sum(min(int(held.get(name, 0.0) / amount + 1e-9) for name, amount in wanted) for held in nodes.values())


def _unfit(error: Exception) -> MissingError:
    """A worker that cannot even be made: its class needs nothing but imports, so a package is not there."""
    lines = [line.strip() for line in str(error).splitlines() if "Error" in line]
    why = lines[-1].rstrip(".") if lines else "their processes die at once"
    return MissingError(
        f"The workers of the Ray cluster cannot be set up: {why}.",
        "Install idtool with its dependencies on every node, at the version that is installed here.",
    )
