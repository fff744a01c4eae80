from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from idtool.curate import grouped
from idtool.curate.grouped import by_identity, lengths, thumbs
from idtool.engine import sorting
from idtool.engine.table import KeptRows
from tests.curate.tables import stored


@settings(max_examples=40, deadline=None)
@given(st.lists(st.none() | st.sampled_from("abcde"), max_size=50), st.integers(1, 12), st.integers(1, 9))
def test_identities_come_whole_and_in_order(
    tmp_path_factory: pytest.TempPathFactory, identities: list[str | None], bucket: int, run: int
) -> None:
    folder = tmp_path_factory.mktemp("grouped")
    ids = [f"{k * 7 % 53:02d}" for k in range(len(identities))]
    rows = pa.table({"id": pa.array(ids, pa.string()), "identity": pa.array(identities, pa.string())})
    source = KeptRows(stored(folder / "in", rows).path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(grouped, "READ_ROWS", 3)
        patch.setattr(sorting, "RUN_ROWS", run)
        patch.setattr(sorting, "FAN_IN", 2)
        found = [table.to_pylist() for table in by_identity(source, folder / "spool", bucket_rows=bucket)]
    told = [(row["identity"], row["id"]) for table in found for row in table]
    assert told == sorted((name, key) for name, key in zip(identities, ids, strict=True) if name is not None)
    names = [{row["identity"] for row in table} for table in found]
    assert sum(len(here) for here in names) == len(set().union(*names))
    assert all(len(table) >= bucket for table in found[:-1])
    assert not (folder / "spool").exists()


def test_lengths_are_of_the_whole_table(tmp_path: Path) -> None:
    rows = pa.table(
        {
            "identity": [None, "a", "b"],
            "embedding": pa.array([[1.0, 2.0], None, [1.0]], pa.list_(pa.float32())),
            "fixed": pa.array([None, None, [1.0, 2.0]], pa.list_(pa.float32(), 2)),
            "face_thumb": pa.array([b"12", b"", b"1234"], pa.binary()),
            "nothing": pa.array([None] * 3, pa.binary()),
        }
    )
    source = KeptRows(stored(tmp_path / "in", rows).path)
    columns = ["embedding", "fixed", "face_thumb", "nothing"]
    assert lengths(source, columns) == {"embedding": 1, "fixed": 2, "face_thumb": 4, "nothing": 0}


def test_thumbs() -> None:
    found = thumbs(pa.chunked_array([[b"1234", None, b"12"]]), 4)
    assert found is not None and found.shape == (3, 2, 2)
    assert found.reshape(3, 4).tolist() == [[49, 50, 51, 52], [0] * 4, [0] * 4]
    assert thumbs(pa.chunked_array([[b"123"]]), 3) is None
