from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from idtool.engine import commit, sorting
from idtool.engine.commit import sorted_batches
from idtool.engine.sorting import external_sort, recut
from idtool.engine.table import write_file

SCHEMA = pa.schema([("uri", pa.string()), ("id", pa.string()), ("number", pa.int64()), ("input_id", pa.string())])
KEYS = ("id", "uri", "input_id")
TEXT = st.text(st.sampled_from("abz~\u00e9\U0001f600\U0010ffff"), max_size=2)
ROWS = st.lists(st.tuples(st.none() | TEXT, TEXT, TEXT), max_size=60)


def tables(rows: list[tuple[str | None, str, str]], size: int) -> list[pa.Table]:
    whole = [{"uri": u, "id": i, "input_id": k, "number": n} for n, (u, i, k) in enumerate(rows)]
    return [pa.Table.from_pylist(whole[at : at + size], SCHEMA) for at in range(0, len(whole), size)]


def told(row: dict[str, Any]) -> tuple[Any, ...]:
    """Its place: nulls last."""
    return row["id"], row["uri"] is None, row["uri"] or "", row["input_id"]


def same_rows(found: list[pa.Table], given: list[pa.Table]) -> None:
    rows = [row for table in found for row in table.to_pylist()]
    wanted = [row for table in given for row in table.to_pylist()]
    assert [told(row) for row in rows] == sorted(told(row) for row in wanted)
    assert sorted(rows, key=lambda row: row["number"]) == wanted


@settings(max_examples=60, deadline=None)
@given(ROWS, st.integers(1, 9), st.integers(1, 8), st.integers(2, 4), st.integers(1, 3))
def test_external_sort_is_a_sort(
    tmp_path_factory: pytest.TempPathFactory,
    rows: list[tuple[str | None, str, str]],
    size: int,
    run: int,
    fan: int,
    window: int,
) -> None:
    spool = tmp_path_factory.mktemp("sort") / "spool"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sorting, "RUN_ROWS", run)
        patch.setattr(sorting, "FAN_IN", fan)
        patch.setattr(sorting, "WINDOW_ROWS", window)
        same_rows(list(external_sort(tables(rows, size), KEYS, spool)), tables(rows, size))
    assert not spool.exists()


@settings(max_examples=40, deadline=None)
@given(ROWS, st.integers(1, 9), st.integers(1, 20), st.booleans())
def test_parts_are_sorted(
    tmp_path_factory: pytest.TempPathFactory,
    rows: list[tuple[str | None, str, str]],
    size: int,
    sweep: int,
    by_id: bool,
) -> None:
    """Whether the files follow one another, as the shards of most steps do, or overlap."""
    folder = tmp_path_factory.mktemp("parts")
    given = tables(sorted(rows, key=lambda row: row[1]) if by_id else rows, size)
    files = [folder / f"{len(given) - k:03d}.parquet" for k in range(len(given))]
    for table, file in zip(given, files, strict=True):
        write_file(table, file, group_rows=3)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(commit, "SWEEP_ROWS", sweep)
        patch.setattr(sorting, "RUN_ROWS", 7)
        same_rows(list(sorted_batches(files, SCHEMA, folder / "spool")), given)
    assert not (folder / "spool").exists()


def test_shards_that_follow_one_another_are_not_written_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commit, "SWEEP_ROWS", 8)
    monkeypatch.setattr(commit, "external_sort", None)
    given = tables([(None, f"{k:03d}", "") for k in range(100)], 4)
    files = [tmp_path / f"{k * 7 % 25:03d}.parquet" for k in range(25)]
    for table, file in zip(given, files, strict=True):
        write_file(table, file)
    found = list(sorted_batches(files, SCHEMA, tmp_path / "spool"))
    same_rows(found, given)
    assert max(table.num_rows for table in found) <= 12


def test_parts_that_overlap_are_not_read_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commit, "SWEEP_ROWS", 8)
    monkeypatch.setattr(sorting, "RUN_ROWS", 10)
    monkeypatch.setattr(sorting, "WINDOW_ROWS", 2)
    given = tables([(None, f"{k * 37 % 100:03d}", "") for k in range(100)], 4)
    files = [tmp_path / f"{k:03d}.parquet" for k in range(25)]
    for table, file in zip(given, files, strict=True):
        write_file(table, file)
    found = list(sorted_batches(files, SCHEMA, tmp_path / "spool"))
    same_rows(found, given)
    assert max(table.num_rows for table in found) <= 2 * 9  # a window of each run


def test_ids_too_long_for_statistics(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commit, "SWEEP_ROWS", 2)
    given = tables([(None, f"{'x' * 5000}{k % 7}", f"{k:02d}") for k in range(20)], 3)
    files = [tmp_path / f"{k}.parquet" for k in range(len(given))]
    for table, file in zip(given, files, strict=True):
        write_file(table, file)
    same_rows(list(sorted_batches(files, SCHEMA, tmp_path / "spool")), given)


def test_open_files_and_rows_in_memory_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"RUN_ROWS": 10, "FAN_IN": 4, "WINDOW_ROWS": 2}.items():
        monkeypatch.setattr(sorting, name, value)
    given = tables([(None, f"{k * 37 % 1000:03d}", "") for k in range(1000)], 5)
    open_, largest = set(), 0
    for table in external_sort(given, KEYS, tmp_path / "spool"):
        links = [link for link in Path("/proc/self/fd").iterdir() if link.is_symlink()]
        open_.add(sum("spool" in str(link.readlink()) for link in links))
        largest = max(largest, table.num_rows)
    assert 1 <= max(open_) <= 4
    assert largest <= 4 * 2


def test_an_end_before_time_leaves_no_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sorting, "RUN_ROWS", 2)
    coming = external_sort(tables([(None, str(k), "") for k in range(9)], 2), KEYS, tmp_path / "spool")
    next(coming)
    assert (tmp_path / "spool").exists()
    coming.close()  # type: ignore[attr-defined]
    assert not (tmp_path / "spool").exists()


@given(st.lists(st.integers(0, 7), max_size=9), st.integers(1, 5))
def test_recut(sizes: list[int], size: int) -> None:
    given = [pa.table({"n": pa.array(range(count), pa.int64())}) for count in sizes]
    found = list(recut(given, size))
    assert [n for table in found for n in table["n"].to_pylist()] == [n for count in sizes for n in range(count)]
    assert all(table.num_rows == size for table in found[:-1])
    assert not found or 0 < found[-1].num_rows <= size
