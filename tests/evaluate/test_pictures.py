"""Images that are there already: whose they are, and tables of them that cannot be read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from idtool.errors import UsageError
from idtool.evaluate.pictures import rows_of_folder, rows_of_table


def jsonl(folder: Path, **row: Any) -> str:
    path = folder / "t.jsonl"
    path.write_text(json.dumps({"image": "a.png", **row}) + "\n", "utf-8")
    return str(path)


@pytest.mark.parametrize(
    ("cells", "says"),
    [
        ({"seed": "first"}, "row 1: could not convert"),
        ({"seed": 1.5}, "seed is no whole number"),
        ({"targets": "[1]"}, "targets is no JSON object"),
        ({"targets": "{"}, "row 1"),
        ({"reference": [3]}, "no path"),
        ({"image": ""}, "no value in column `image`"),
    ],
)
def test_a_row_that_cannot_be_read_is_named(cells: dict[str, Any], says: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=says):
        list(rows_of_table(jsonl(tmp_path, **cells)))


def test_cells_without_a_value_are_no_slices(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    pq.write_table(
        pa.table({"image": ["a.png"], "age": [float("nan")], "light": ["dim"], "seed": [float("nan")]}), path
    )
    [row] = rows_of_table(str(path))
    assert json.loads(row["slices"]) == {"light": "dim"}
    assert (row["seed"], row["media"]) == (0, str(tmp_path / "a.png"))


def test_an_image_belongs_to_its_folder_or_to_the_longest_name(tmp_path: Path) -> None:
    for name in ("refs/ann.png", "refs/ann_lee.png", "out/ann/1.png", "out/ann_lee_2.png", "out/.hidden.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    found = {
        Path(row["media"]).name: row["identity"] for row in rows_of_folder(tmp_path / "out", tmp_path / "refs", {})
    }
    assert found == {"1.png": "ann", "ann_lee_2.png": "ann_lee"}
    (tmp_path / "out" / "bob.png").touch()
    with pytest.raises(UsageError, match=r"No reference belongs to bob\.png"):
        list(rows_of_folder(tmp_path / "out", tmp_path / "refs", {}))
