"""The table of requests: files of every kind, ids that follow from the content, and rows that are refused by name."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from idtool.errors import UsageError
from idtool.generate.requests import SCHEMA, Wish, content_hash, read_wishes, rows
from idtool.media.images import encode


@pytest.fixture
def pictures(tmp_path: Path) -> list[Path]:
    paths = []
    for number in range(3):
        path = tmp_path / f"person {number}.png"
        path.write_bytes(encode(np.full((8, 8, 3), number * 40, np.uint8), "png"))
        paths.append(path)
    return paths


def test_every_kind_of_file_says_the_same(tmp_path: Path, pictures: list[Path]) -> None:
    first, second = (path.name for path in pictures[:2])
    (tmp_path / "a.csv").write_text(
        "prompt,references,identity,boxes,seed,n,mood\n"
        f'a walk,{first};{second},ann;bo,"0,0,0.5,1; 0.5,0,1,1",7,2,calm\n'
    )
    (tmp_path / "a.jsonl").write_text(
        json.dumps(
            {
                "prompt": "a walk",
                "references": [first, second],
                "identity": ["ann", "bo"],
                "boxes": [[0, 0, 0.5, 1], [0.5, 0, 1, 1]],
                "seed": 7,
                "n": 2,
                "mood": "calm",
            }
        )
    )
    table = pa.Table.from_pylist([json.loads((tmp_path / "a.jsonl").read_text())])
    pq.write_table(table, tmp_path / "a.parquet")
    made = [list(rows(read_wishes(str(tmp_path / name)))) for name in ("a.csv", "a.jsonl", "a.parquet")]
    assert made[0] == made[1] == made[2]
    assert [row["seed"] for row in made[0]] == [7, 8]
    row = made[0][0]
    assert [Path(uri).name for uri in row["references"]] == [first, second]
    assert row["people"] == ["ann", "bo"]
    assert row["boxes"][1] == [0.5, 0, 1, 1]
    assert json.loads(row["extra"]) == {"mood": "calm"}
    pa.Table.from_pylist(made[0], schema=SCHEMA)


def test_ids_follow_from_the_content(pictures: list[Path]) -> None:
    def ids(**changes: object) -> list[str]:
        wish = {"prompt": "a walk", "references": (str(pictures[0]),), "seed": 1, **changes}
        return [row["id"] for row in rows([Wish(**wish)])]  # type: ignore[arg-type]

    base = ids()
    assert ids() == base
    for change in ({"seed": 2}, {"prompt": "a run"}, {"width": 64}, {"settings": {"steps": 3}}):
        assert ids(**change) != base
    copied = pictures[0].with_name("copy.png")
    copied.write_bytes(pictures[0].read_bytes())
    assert ids(references=(str(copied),)) == base, "the bytes count, not the name"
    pictures[0].write_bytes(pictures[1].read_bytes())
    assert ids() != base
    assert len(ids(n=3)) == 3
    twice = Wish("a walk", (str(pictures[0]),), seed=1)
    assert len(list(rows([twice, twice]))) == 1
    assert content_hash("/no/such/file.png").startswith("uri ")


def test_the_other_person_is_somebody_else(pictures: list[Path]) -> None:
    people = ("ann", "ann", "bo")
    wishes = [Wish("x", (str(path),), (name,)) for path, name in zip(pictures, people, strict=True)]
    made = {row["references"][0]: row["other"] for row in rows(wishes)}
    first, second, third = map(str, pictures)
    assert made[first] == made[second] == third
    assert made[third] == first
    assert next(rows(wishes[:1]))["other"] is None
    both = Wish("x", (first, third), ("ann", "bo"))
    assert next(rows([both, *wishes]))["other"] is None


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("a,x.png,1.5,1,", "seed is no whole number"),
        ("a,x.png,0,0,", "n must be from 1"),
        ('a,x.png,0,1,"0,0,2,1"', "shares of the frame"),
        ('a,x.png,0,1,"0,0,1,1;0,0,1,1"', "2 boxes for 1 references"),
        ("a,x.png,0,1,here", "could not convert"),
    ],
)
def test_a_bad_row_is_named(tmp_path: Path, line: str, says: str) -> None:
    path = tmp_path / "r.csv"
    path.write_text(f"prompt,ref,seed,n,box\n{line}\n")
    with pytest.raises(UsageError, match="row 1: ") as error:
        read_wishes(str(path))
    assert says in str(error.value)


def test_files_that_are_no_table_of_requests(tmp_path: Path) -> None:
    path = tmp_path / "r.csv"
    path.write_text("promt,ref\na,b\n")
    with pytest.raises(UsageError, match=r"no column `prompt`\. Did you mean 'promt'"):
        read_wishes(str(path))
    path.write_text("prompt,ref\n")
    with pytest.raises(UsageError, match="has no rows"):
        read_wishes(str(path))
    with pytest.raises(UsageError, match="is no table of requests"):
        read_wishes(str(tmp_path))
