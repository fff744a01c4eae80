"""Inputs on a real object server of this machine (moto's): s3:// to a finished run, and no secret left behind."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from idtool.media.video import write_video
from idtool.run import Run
from tests.acceptance.runs import idtool, reasons
from tests.conftest import REPO
from tests.object_store import KEY, SECRET, served

s3fs = pytest.importorskip("s3fs", reason="needs the extra `s3`")

PLACES = ("uri", "media", "input_id")
"""Columns that say where a file is; an input id is a hash of its uri, as is the id of a file without content."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photos of two people, a copy, an empty file, a clip, and a manifest of three of them."""
    folder = tmp_path_factory.mktemp("files") / "faces"
    draw = np.random.default_rng(0)
    for number in range(6):
        path = folder / f"person {number % 2}" / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        small = draw.integers(0, 256, (9, 12, 3), dtype=np.uint8)
        Image.fromarray(small).resize((160, 120), Image.Resampling.BICUBIC).save(path)
    first = folder / "person 0" / "0.jpg"
    (folder / "copy.jpg").write_bytes(first.read_bytes())
    (folder / "zero.jpg").write_bytes(b"")
    frames = [np.roll(np.asarray(Image.open(first)), 8 * shift, 1) for shift in range(8)]
    write_video(folder / "clip.mp4", frames, fps=10)
    rows = [f"person {number % 2}/{number}.jpg,{number % 2}" for number in range(3)]
    (folder / "some.csv").write_text("\n".join(["path,identity", *rows]) + "\n")
    return folder


@pytest.fixture(scope="module")
def bucket(folder: Path) -> Iterator[str]:
    """URL of the same files on the server."""
    with served("photos"):
        for path in sorted(folder.rglob("*.*")):
            s3fs.S3FileSystem().pipe_file(f"photos/faces/{path.relative_to(folder).as_posix()}", path.read_bytes())
        yield "s3://photos/faces"


def curate(given: str | Path, output: Path, *more: str, code: int = 0) -> str:
    """The recipe without networks; what it printed."""
    config = REPO / "tests" / "cheap.yaml"
    options = ["--recipe", "cheap", "--config", config, "--engine", "local", "--workers", "2", "--output", output]
    result = idtool("curate", *options, "--input", given, *more)
    assert result.exit_code == code, result.output
    return result.output


def same_but_for_places(one: Path, other: Path) -> None:
    for step in ("ingest", "frames", "measure", "gate", "dedup"):
        tables = [Run(path).step_table(step) for path in (one, other)]
        a, b = (table.read(kept_only=True).drop_columns([*PLACES]) for table in tables)
        assert a.equals(b), step
        lost = [
            sorted((row["name"], row["status"], row["reason"]) for row in table.read().to_pylist()) for table in tables
        ]
        assert lost[0] == lost[1], step


def assert_no_secret(run: Path, printed: str) -> None:
    assert SECRET not in printed and KEY not in printed
    for path in run.rglob("*"):
        if path.is_file():
            data = path.read_bytes()
            assert SECRET.encode() not in data and KEY.encode() not in data, path
    for step in Run(run).steps:  # Parquet is compressed
        if step["state"] == "done":
            text = str(Run(run).step_table(step["name"]).read().to_pylist())
            assert SECRET not in text and KEY not in text, step["name"]


@pytest.fixture(scope="module")
def local(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run on the files themselves."""
    run = tmp_path_factory.mktemp("local") / "run"
    curate(folder, run)
    return run


@pytest.mark.parametrize("copy", ["auto", "never"])
def test_a_folder_on_s3_gives_the_tables_of_the_same_folder_here(
    local: Path, bucket: str, tmp_path: Path, copy: str
) -> None:
    run = tmp_path / "run"
    printed = curate(bucket, run, "--set", f"ingest.copy={copy}")
    same_but_for_places(local, run)
    rows = Run(run).step_table("ingest").read().to_pylist()
    assert {row["uri"].partition("/photos/")[0] for row in rows} == {"s3:/"}
    kept = [row for row in rows if row["status"] == "kept"]
    assert len(kept) == 7 and {row["group"] for row in kept} >= {"person 0", "person 1"}
    for row in kept:
        if copy == "never":
            assert row["media"] == row["uri"]
        else:
            assert (run / "media" / row["media"].removeprefix("store:")).stat().st_size == row["bytes"]
    assert sorted(reasons(run).values()) == ["duplicate.exact", "empty"]
    assert_no_secret(run, printed)


def test_a_manifest_on_s3_names_files_beside_it(bucket: str, tmp_path: Path) -> None:
    run = tmp_path / "run"
    printed = curate(f"{bucket}/some.csv", run)
    rows = Run(run).step_table("ingest").read(["uri", "identity_label", "status"]).to_pylist()
    assert {(row["uri"], row["identity_label"], row["status"]) for row in rows} == {
        (f"{bucket}/person {number % 2}/{number}.jpg", str(number % 2), "kept") for number in range(3)
    }
    assert_no_secret(run, printed)


def test_an_object_that_is_gone_when_its_turn_comes_is_a_reject(bucket: str, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text(f"path\n{bucket}/person 0/0.jpg\n{bucket}/person 0/none.jpg\n")
    curate(tmp_path / "list.csv", tmp_path / "run")
    assert reasons(tmp_path / "run") == {"none.jpg": "missing_file"}
    assert s3fs.S3FileSystem().exists(f"{bucket}/person 0/0.jpg")  # reading changed nothing


def test_a_login_in_the_url_is_refused_and_not_repeated(bucket: str, tmp_path: Path) -> None:
    url = bucket.replace("s3://", f"s3://{KEY}:{SECRET.replace('/', '%2F')}@")
    printed = curate(url, tmp_path / "run", code=2)
    assert "password in its URL" in printed
    assert "NeverToBeWrittenDown" not in printed and KEY not in printed
    assert not list(tmp_path.rglob("*.parquet"))


@pytest.mark.parametrize("where", ["s3://photos/nothing", "s3://no-such-bucket/faces"])
def test_what_is_not_there_is_told(bucket: str, where: str, tmp_path: Path) -> None:
    assert "does not exist" in curate(where, tmp_path / "run", code=2)
