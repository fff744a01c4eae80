from __future__ import annotations

import random
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from idtool.engine import table as module
from idtool.engine.table import Table, batches_of, write_table

SCHEMA = pa.schema([("id", pa.string()), ("data", pa.binary())])


def rows(count: int, size: int = 1) -> pa.Table:
    return pa.table(
        {"id": [f"{k:06d}" for k in range(count)], "data": [bytes([k % 251]) * size for k in range(count)]}, SCHEMA
    )


@pytest.mark.parametrize("cut", [1, 700, 1024, 2500, 5000])
def test_a_file_does_not_depend_on_how_its_rows_came(tmp_path: Path, cut: int) -> None:
    whole = rows(3000)
    write_table(tmp_path / "whole", [whole], SCHEMA)
    write_table(tmp_path / "cut", (whole.slice(at, cut) for at in range(0, 3000, cut)), SCHEMA)
    [one], [other] = Table(tmp_path / "whole").files, Table(tmp_path / "cut").files
    assert one.read_bytes() == other.read_bytes()


@pytest.mark.parametrize("limit", [1, 300, 1024, 1500, 2048, 4096, 10_000])
def test_batches_have_whole_groups_and_at_most_so_many_rows(tmp_path: Path, limit: int) -> None:
    table = write_table(tmp_path / "t", [rows(3000)], SCHEMA)
    found = [batch.num_rows for batch in table.batches(rows=limit)]
    assert sum(found) == 3000 and max(found) == min(limit, 3000 if limit >= 3000 else max(1024, limit // 1024 * 1024))
    assert table.read().equals(rows(3000))


def test_wide_groups_are_read_one_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BATCH_BYTES", 1_000_000)
    table = write_table(tmp_path / "t", [rows(4000, 2000)], SCHEMA)
    assert [batch.num_rows for batch in table.batches(rows=4096)] == [1024, 1024, 1024, 928]


def test_memory_of_reading_does_not_grow_with_the_file(tmp_path: Path) -> None:
    def peak(count: int) -> int:
        path = tmp_path / f"{count}.parquet"
        with pq.ParquetWriter(path, SCHEMA) as writer:
            for number in range(count):
                data = [random.Random(100 * number + k).randbytes(20_000) for k in range(100)]
                writer.write_table(pa.table({"id": [str(k) for k in range(100)], "data": data}, SCHEMA))
        before, most = pa.total_allocated_bytes(), 0
        with pq.ParquetFile(path) as file:
            for _ in batches_of(file, 100):
                most = max(most, pa.total_allocated_bytes() - before)
        return most

    assert peak(20) < 1.5 * peak(2)
