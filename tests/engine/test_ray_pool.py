"""What the Ray executor makes of a worker that ends, and of nodes of many kinds. The ends themselves are in
test_runner.py (a process) and test_two_nodes.py (a node)."""

from __future__ import annotations

import pyarrow as pa
import pytest

from idtool.engine.executor import Shard
from idtool.engine.operator import Resources
from idtool.engine.ray_pool import LOSSES_BEFORE_BLAME, RETRIES_BEFORE_SPLIT, Attempt, node_lost, room

ray = pytest.importorskip("ray")

SHARD = Shard("key", pa.table({"number": [1, 2, 3]}))


def test_lost_nodes_are_not_blamed_on_rows_until_there_are_many() -> None:
    attempt = Attempt(SHARD)
    for _ in range(LOSSES_BEFORE_BLAME):
        (attempt,) = attempt.after_loss() or []
        assert attempt.shard is SHARD and attempt.deaths == 0
    (attempt,) = attempt.after_loss() or []
    assert attempt.shard is SHARD and attempt.deaths == 1
    halves = attempt.after_loss() or []
    assert [half.shard.rows.num_rows for half in halves] == [1, 2]
    assert all(half.deaths == half.losses == 0 for half in halves)


def test_a_shard_is_split_when_its_process_dies_again_whatever_happened_to_nodes() -> None:
    attempt = Attempt(SHARD)
    for _ in range(RETRIES_BEFORE_SPLIT):
        (attempt,) = attempt.after_death() or []
        (attempt,) = attempt.after_loss() or []
    halves = attempt.after_death() or []
    assert [half.shard.rows.num_rows for half in halves] == [1, 2]
    assert Attempt(halves[0].shard, deaths=RETRIES_BEFORE_SPLIT).after_death() is None


def test_what_is_a_lost_node() -> None:
    errors = ray.exceptions
    crash, silent = errors.ActorDiedError(), errors.ActorUnavailableError("no answer", None)
    gone = errors.ObjectReconstructionFailedError("00" * 28, None, "")
    assert not node_lost(errors, crash, "a", {"a", "b"})
    assert node_lost(errors, crash, "a", {"b"})
    assert node_lost(errors, silent, "a", {"a", "b"})
    assert node_lost(errors, gone, "a", {"a", "b"})


def test_a_worker_fits_on_one_node_not_on_what_nodes_have_left_over() -> None:
    nodes = {"a": {"CPU": 3.0}, "b": {"CPU": 3.0, "GPU": 1.0}, "c": {}}
    assert room(nodes, Resources(cpus=2)) == 2
    assert room(nodes, Resources(cpus=1)) == 6
    assert room(nodes, Resources(cpus=1, gpus=0.3)) == 3
    assert room(nodes, Resources(cpus=1, gpus=1)) == 1
    assert room(nodes, Resources(cpus=4)) == 0
    assert room({"a": {"CPU": 0.3}}, Resources(cpus=0.1)) == 3
    assert room(nodes, Resources(cpus=0)) == 1
