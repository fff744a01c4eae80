"""The runner on both executors: equal tables, three outcomes, reuse, resume, budgets, crashes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest

from idtool.engine.executor import Executor
from idtool.engine.fingerprint import IdDigest
from idtool.engine.local import LocalExecutor
from idtool.engine.operator import Context
from idtool.engine.plan import Upstream, plan_steps, state_of
from idtool.engine.ray_executor import RayExecutor
from idtool.engine.runner import Options, Runner
from idtool.engine.step import Step
from idtool.engine.table import KeptRows, Table
from idtool.errors import MissingError, QualityError, RunFailed, UsageError
from idtool.run import Run
from tests.engine.toy import ENV, Quiet, Select, Split, Square, Total, numbers


@pytest.fixture(scope="module")
def ray_executor() -> Iterator[RayExecutor]:
    executor = RayExecutor(workers=2)
    yield executor
    executor.close()


@pytest.fixture(params=["local", "ray"])
def executor(request: pytest.FixtureRequest) -> Executor:
    if request.param == "ray":
        return request.getfixturevalue("ray_executor")
    return LocalExecutor(2)


def execute(
    path: Path, steps: list[tuple[str, Step]], executor: Executor, rows: range = range(40), **options: object
) -> tuple[Run, Table, Quiet]:
    watcher = Quiet()
    with Run.create(path) as run:
        sources = numbers(path / "steps" / "00-sources" / "table", rows)
        digest = IdDigest()
        digest.update(sources.read(["id"])["id"])
        planned = plan_steps(steps, KeptRows(sources.path).schema)
        runner = Runner(run, executor, Context(str(path)), watcher, Options(**options))  # type: ignore[arg-type]
        table = runner.execute(planned, sources, Upstream("sources", digest.hexdigest()))
    return run, table, watcher


def square(**settings: object) -> tuple[str, Step]:
    return "square", Square(Square.Settings(**settings), ENV)


def test_rows_come_out_complete_and_in_order(tmp_path: Path, executor: Executor) -> None:
    run, table, _ = execute(tmp_path, [square(reject_above=29, fail=(7,))], executor, max_error_rate=0.1)
    rows = table.read().to_pylist()
    assert [row["number"] for row in rows] == list(range(40))
    by_status = Counter(row["status"] for row in rows)
    assert by_status == {"kept": 29, "rejected": 10, "error": 1}
    assert {row["power"] for row in rows if row["status"] == "kept"} == {n * n for n in range(30) if n != 7}
    failed = rows[7]
    assert (failed["reason"], failed["message"]) == ("ZeroDivisionError", "cannot do 7")
    assert (rows[35]["reason"], rows[35]["value"], rows[35]["threshold"]) == ("number.high", 35.0, "<= 29")
    assert run.entry("square")["reasons"] == {"number.high": 10, "ZeroDivisionError": 1}
    rejects = pa.concat_tables(run.rejects()).to_pylist()
    assert {row["id"] for row in rejects} == {row["id"] for row in rows if row["status"] != "kept"}


def test_both_executors_write_equal_tables(tmp_path: Path, ray_executor: RayExecutor) -> None:
    steps = [square(reject_above=33, fail=(5,)), ("split", Split(Split.Settings(), ENV))]
    _, local, _ = execute(tmp_path / "a", steps, LocalExecutor(2), max_error_rate=0.1)
    _, remote, _ = execute(tmp_path / "b", steps, ray_executor, max_error_rate=0.1)
    assert local.read().equals(remote.read())
    assert len(local.files) == 1


def test_children_name_their_parent(tmp_path: Path) -> None:
    steps = [square(), ("split", Split(Split.Settings(), ENV))]
    _, table, _ = execute(tmp_path, steps, LocalExecutor(2))
    rows = table.read().to_pylist()
    assert len(rows) == sum(n % 3 for n in range(40))
    assert all(row["id"] == f"{row['parent']}-{row['child']}" for row in rows)


def test_a_row_that_kills_its_worker_is_found_and_recorded(tmp_path: Path, ray_executor: RayExecutor) -> None:
    run, table, _ = execute(tmp_path, [square(crash=(13,))], ray_executor, max_error_rate=0.1)
    rows = table.read().to_pylist()
    assert [row["number"] for row in rows if row["status"] == "error"] == [13]
    assert rows[13]["reason"] == "WorkerCrashed"
    assert run.entry("square")["kept"] == 39


def test_local_run_survives_a_native_crash_on_the_next_try(tmp_path: Path) -> None:
    import subprocess
    import sys

    code = (
        "from pathlib import Path; from tests.engine.test_runner import *;"
        f"execute(Path({str(tmp_path)!r}), [square(crash=(13,))], LocalExecutor(2), max_error_rate=.1)"
    )
    first = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert first.returncode == 139
    again = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert again.returncode == 0, again.stderr
    rows = Run(tmp_path).step_table("square").read().to_pylist()
    assert [(row["number"], row["reason"]) for row in rows if row["status"] != "kept"] == [(13, "WorkerCrashed")]


def test_out_of_memory_halves_the_batch(tmp_path: Path) -> None:
    _, table, watcher = execute(tmp_path, [square(oom_above_rows=3)], LocalExecutor(1))
    assert table.read(["power"])["power"].to_pylist() == [n * n for n in range(40)]
    assert any("out of memory" in text for text in watcher.warnings)


def test_set_up_errors_stop_at_once_with_their_own_message(tmp_path: Path, executor: Executor) -> None:
    with pytest.raises(MissingError, match="model 'toy' is not here"):
        execute(tmp_path, [square(need_model=True)], executor)
    assert Run(tmp_path).entry("square")["state"] == "failed"


def test_full_disk_is_a_failure_of_the_run_not_of_rows(tmp_path: Path, executor: Executor) -> None:
    with pytest.raises(RunFailed, match="No space left on device"):
        execute(tmp_path, [square(full_disk=True)], executor)


def test_error_budget(tmp_path: Path, executor: Executor) -> None:
    with pytest.raises(RunFailed, match="ZeroDivisionError") as caught:
        execute(tmp_path, [square(fail=tuple(range(10, 20)))], executor)
    assert caught.value.exit_code == 1
    assert list((tmp_path / "steps" / "01-square" / "parts").glob("*.parquet")), "finished shards are kept"


def test_a_run_over_its_budget_goes_on_with_only_errors(tmp_path: Path) -> None:
    log = tmp_path / "log"
    steps = [square(fail=tuple(range(9)), log=str(log))]
    for _ in range(2):
        with pytest.raises(RunFailed, match=r"'square' stopped: .* ZeroDivisionError \(cannot do \d\)"):
            execute(tmp_path / "run", steps, LocalExecutor(1))
    _, table, _ = execute(tmp_path / "run", [square(log=str(log))], LocalExecutor(1), retry_errors=True)
    _, fresh, _ = execute(tmp_path / "fresh", [square()], LocalExecutor(1))
    assert table.read().equals(fresh.read())


def test_nothing_left_because_of_errors_is_a_failure(tmp_path: Path) -> None:
    with pytest.raises(RunFailed, match=r"kept none of its 1 rows \(ZeroDivisionError x1\)"):
        execute(tmp_path, [square(fail=(0,))], LocalExecutor(1), range(1))


def test_nothing_left_names_the_gate(tmp_path: Path) -> None:
    with pytest.raises(QualityError, match=r"'select' kept none of its 40 rows \(power.high x40\)") as caught:
        execute(tmp_path, [square(), ("select", Select(Select.Settings(below=0), ENV))], LocalExecutor(1))
    assert caught.value.exit_code == 3


def test_second_run_does_nothing_and_a_changed_gate_redoes_only_the_gate(tmp_path: Path) -> None:
    log = tmp_path / "log"

    def steps(below: int, power: int = 2) -> list[tuple[str, Step]]:
        gate = ("select", Select(Select.Settings(below=below), ENV))
        again = ("cube", Square(Square.Settings(power=3, log=str(log)), ENV))
        return [square(power=power), gate, again]

    run_dir = tmp_path / "run"
    execute(run_dir, steps(400), LocalExecutor(2))
    assert len(log.read_text().split()) == 20
    execute(run_dir, steps(400), LocalExecutor(2))
    assert len(log.read_text().split()) == 20
    _, table, watcher = execute(run_dir, steps(900), LocalExecutor(2))
    assert len(log.read_text().split()) == 30, "only the ten rows that the wider gate lets in"
    assert any("20 rows taken over" in note for note in watcher.notes)
    _, fresh, _ = execute(tmp_path / "fresh", steps(900), LocalExecutor(2))
    assert table.read().equals(fresh.read())
    execute(run_dir, steps(900, power=1), LocalExecutor(2))
    assert len(log.read_text().split()) == 30 + 30 + 40, "other values upstream: all rows again"


def test_only_errors_retries_just_those(tmp_path: Path) -> None:
    log = tmp_path / "log"
    run_dir = tmp_path / "run"
    execute(run_dir, [square(fail=(3,), log=str(log))], LocalExecutor(1))
    assert len(log.read_text().split()) == 40
    execute(run_dir, [square(log=str(log))], LocalExecutor(1))
    assert len(log.read_text().split()) == 40, "errors are not retried unless asked"
    run, table, _ = execute(run_dir, [square(log=str(log))], LocalExecutor(1), retry_errors=True)
    assert log.read_text().split()[40:] == ["n000003"]
    assert run.entry("square")["errors"] == 0
    assert table.read(["power"])["power"].to_pylist() == [n * n for n in range(40)]


def test_table_steps_and_planning(tmp_path: Path) -> None:
    steps: list[tuple[str, Step]] = [square(), ("total", Total(Total.Settings(), ENV))]
    run, table, _ = execute(tmp_path, steps, LocalExecutor(1))
    assert table.read(["total"]).to_pylist() == [{"total": sum(n * n for n in range(40))}]
    assert run.entry("total")["statistics"] == {"total": sum(n * n for n in range(40))}
    planned = plan_steps([square(power=5), steps[1]], KeptRows(tmp_path / "steps/00-sources/table").schema)
    states = state_of(planned, run.path, None)
    assert states[0] == ("run", "settings.power: 2 -> 5; operators[0].config.power: 2 -> 5")
    assert states[1][0] == "depends"


def test_a_column_that_nobody_writes_is_refused_at_plan_time() -> None:
    with pytest.raises(UsageError, match="'select' reads column 'power', which no step before it writes") as caught:
        plan_steps([("select", Select(Select.Settings(), ENV))], pa.schema([pa.field("id", pa.string())]))
    assert caught.value.exit_code == 2


def test_ray_plan_that_cannot_be_met_is_refused_with_numbers(ray_executor: RayExecutor, tmp_path: Path) -> None:
    greedy = RayExecutor(workers=64)
    greedy._ray = ray_executor._connect()
    with pytest.raises(UsageError, match=r"64 worker\(s\) of 1 CPU .* room for 2"):
        execute(tmp_path, [square()], greedy)


def test_two_runs_on_one_output(tmp_path: Path) -> None:
    with Run.create(tmp_path), pytest.raises(UsageError, match="is in use by process"):
        Run.create(tmp_path).lock()


def test_output_that_holds_something_else(tmp_path: Path) -> None:
    (tmp_path / "holiday.jpg").write_bytes(b"x")
    with pytest.raises(UsageError, match="is not empty and is not a run"):
        Run.create(tmp_path)


def test_read_only_output() -> None:
    with pytest.raises(UsageError, match="Cannot write to /proc/idtool"):
        Run.create("/proc/idtool")


def test_many_rows_are_sorted_through_buckets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("idtool.engine.commit.SWEEP_ROWS", 16)
    monkeypatch.setattr("idtool.engine.sorting.RUN_ROWS", 16)
    _, table, _ = execute(tmp_path, [square()], LocalExecutor(2), rows=range(200))
    assert table.read(["number"])["number"].to_pylist() == list(range(200))
    assert not (tmp_path / "steps/01-square/spool").exists()
