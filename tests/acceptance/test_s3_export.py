"""Data sets sent to a real object server of this machine (moto's): the files of a local export, all of them or none."""

from __future__ import annotations

import hashlib
import json
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from idtool.curate import export, uploads
from idtool.curate.formats import FORMATS
from idtool.curate.layout import PAIRS
from idtool.curate.store_folder import LOCK, MOVING, WRITING, StoreFolder
from tests.acceptance.runs import idtool
from tests.curate import fake_run
from tests.curate.test_removal import embed
from tests.object_store import KEY, SECRET, served

s3fs = pytest.importorskip("s3fs", reason="needs the extra `s3`")

FILE_BYTES = 600_000
"""Of one file: an export has several."""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = fake_run.make_run(tmp_path_factory.mktemp("run"), frames=2)
    embed(made, PAIRS)
    return made


@pytest.fixture(scope="module", autouse=True)
def server() -> Iterator[None]:
    with served("lab") as patch:
        asked = export.target_of
        patch.setattr(export, "target_of", lambda *args: replace(asked(*args), file_bytes=FILE_BYTES))
        patch.setenv("COLUMNS", "1000")
        yield


@pytest.fixture
def url(request: pytest.FixtureRequest) -> str:
    """A place in the bucket of its own, beside which there is a file of somebody else."""
    name = request.node.name.replace("[", "-").replace("]", "")
    s3().pipe_file(f"lab/{name}-not-ours/data/train.tar", b"mine")
    return f"s3://lab/{name}"


def s3() -> Any:
    """The file system that exports use, too: fsspec has one for all who ask for the same."""
    files = s3fs.S3FileSystem()
    files.invalidate_cache()
    return files


def there(url: str) -> dict[str, bytes]:
    """What is below a URL."""
    root = url.removeprefix("s3://").rstrip("/")
    assert s3().cat_file(f"{root}-not-ours/data/train.tar") == b"mine"
    return {path.removeprefix(f"{root}/"): s3().cat_file(path) for path in s3().find(root)}


def here(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def sent(run: Path, url: str, *more: str, code: int = 0) -> str:
    """Export to a URL; what was printed."""
    result = idtool("export", run, "-o", url, *more)
    assert result.exit_code == code, result.output
    assert not (run / ".export.sending").exists() and "Traceback" not in result.output
    return result.output


def local(run: Path, folder: Path, *more: str) -> dict[str, bytes]:
    assert idtool("export", run, "-o", folder, *more).exit_code == 0
    return here(folder)


def whole(files: dict[str, bytes]) -> bool:
    """Whether this is a finished data set."""
    if "checksums.sha256" not in files:
        return False
    listed = dict(line.split("  ")[::-1] for line in files.pop("checksums.sha256").decode().splitlines())
    return listed == {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}


@pytest.mark.parametrize("name", ["parquet", "webdataset"])
def test_what_is_sent_is_what_a_local_export_writes(run: Path, url: str, tmp_path: Path, name: str) -> None:
    wanted = local(run, tmp_path / "out", "--format", name)
    told = json.loads(sent(run, f"{url}/", "--format", name, "--json"))
    assert told["path"] == url and told["format"] == name
    files = there(url)
    assert files == wanted and len(wanted) > 5
    text = json.dumps(told).encode() + b"".join([*here(run).values(), *files.values()])
    assert SECRET.encode() not in text and KEY.encode() not in text


def test_lance_is_sent_and_read_back(run: Path, url: str, tmp_path: Path) -> None:
    pytest.importorskip("lance", reason="needs the extra `exports`")
    local(run, tmp_path / "out", "--format", "lance")
    sent(run, url, "--format", "lance")
    for name, data in there(url).items():
        (tmp_path / "back" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "back" / name).write_bytes(data)
    lance = FORMATS.get("lance")
    out, back = (list(lance.read(tmp_path / folder, PAIRS, whole=True)) for folder in ("out", "back"))
    assert str(out) == str(back) and len(out) > 5 and whole(here(tmp_path / "back"))  # NaN is not NaN


def test_the_disk_holds_a_few_files_at_a_time(run: Path, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    most: list[int] = []
    send = uploads.Uploads.send
    monkeypatch.setattr(uploads, "WAITING_BYTES", 1)
    monkeypatch.setattr(sys.modules[__name__], "FILE_BYTES", 150_000)

    def measured(self: Any, path: Path, key: str) -> None:
        send(self, path, key)
        most.append(sum(map(len, here(run / ".export.sending").values())))

    monkeypatch.setattr(uploads.Uploads, "send", measured)
    sent(run, url, "--format", "webdataset")
    size = sum(map(len, there(url).values()))
    assert max(most) < 4 * FILE_BYTES < size / 2


def test_another_export_takes_the_place_of_ours_and_of_nothing_else(run: Path, url: str, tmp_path: Path) -> None:
    sent(run, url)
    wanted = local(run, tmp_path / "out", "--format", "webdataset")
    sent(run, url, "--format", "webdataset")
    assert there(url) == wanted
    s3().pipe_file(f"{url}/data/notes.txt", b"of a colleague")
    before = there(url)
    assert f"{url} is not empty and holds files that are not of the data set there (data/notes.txt)." in sent(
        run, url, code=2
    )
    beside = url.replace("s3://lab", "s3://lab/other")
    s3().pipe_file(f"{beside}/x", b"x")
    result = idtool("export", run, "-o", beside)
    assert result.exit_code == 2 and "is not empty and holds no data set of this tool (x)" in result.output
    assert idtool("export", run, "-o", f"{beside}/x").exit_code == 2
    assert there(url) == before and s3().find(beside) == [f"{beside.removeprefix('s3://')}/x"]


def lose(patch: pytest.MonkeyPatch, call: str, after: int) -> None:
    """The network, for every call of a kind after some."""
    calls, real = iter(range(after)), getattr(s3(), call)

    def failing(*args: Any, **options: Any) -> Any:
        if next(calls, None) is None:
            raise OSError("Connection was closed before we received a valid response")
        return real(*args, **options)

    patch.setattr(s3(), call, failing)


def test_an_interrupted_upload_leaves_the_old_data_set(run: Path, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        lose(patch, "put_file", after=2)
        told = sent(run, url, "--format", "webdataset", code=1)
    assert f"The export to {url} broke off: Connection was closed" in told
    assert there(url) == {}
    sent(run, url)
    before = there(url)
    put = s3().put_file
    with monkeypatch.context() as patch:
        patch.setattr(s3(), "put_file", lambda path, key: put(path, f"{key}.part" if "val-000000" in key else key))
        told = sent(run, url, "--format", "webdataset", code=1)
    assert "data/val-000000.tar did not arrive whole at" in told and "What was there is unchanged." in told
    assert there(url) == before and whole(before)


def test_a_broken_change_of_place_is_no_data_set_and_the_next_export_mends_it(
    run: Path, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent(run, url)
    with monkeypatch.context() as patch:
        lose(patch, "cp_file", after=2)
        assert "The data set there is incomplete." in sent(run, url, "--format", "webdataset", code=1)
    left = there(url)
    assert "checksums.sha256" not in left and "README.md" not in left and MOVING in left
    with monkeypatch.context() as patch:  # breaks off again, and earlier
        lose(patch, "put_file", after=1)
        sent(run, url, code=1)
    wanted = local(run, tmp_path / "out", "--format", "webdataset")
    sent(run, url, "--format", "webdataset")
    assert there(url) == wanted


def test_what_a_killed_export_left_is_cleared_and_a_living_one_is_not_disturbed(run: Path, url: str) -> None:
    files = s3()
    files.pipe_file(f"{url}/{WRITING}/files/data/train-000000.tar", b"half")
    lock = {"host": "elsewhere", "pid": 1, "since": "today", "token": "x", "time": time.time()}
    files.pipe_file(f"{url}/{LOCK}", json.dumps(lock).encode())
    assert "is in use since today by process 1 on elsewhere" in sent(run, url, code=2)
    assert sorted(there(url)) == [f"{WRITING}/files/data/train-000000.tar", LOCK]
    files.pipe_file(f"{url}/{LOCK}", json.dumps({**lock, "time": time.time() - 3600}).encode())
    sent(run, url)
    assert whole(there(url))


def test_that_a_person_is_out_is_proved_on_what_the_store_holds(
    run: Path, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    everything = local(run, tmp_path / "everything", "--format", "folder")
    people = pq.read_table(tmp_path / "everything" / "rows" / "train.parquet")["identity"].to_pylist()
    who = ("--remove-identity", people[0])
    wanted = local(run, tmp_path / "out", *who, "--format", "folder")
    told = json.loads(sent(run, url, *who, "--format", "folder", "--json"))
    assert told["proof"]["file"] == f"{url}/removal.json" and told["removed"] > 0
    files = there(url)
    assert json.loads(files["removal.json"])["holds"] and whole(dict(files))
    timed = ("removal.json", "checksums.sha256")
    assert {name: files[name] for name in files if name not in timed} == {
        name: wanted[name] for name in wanted if name not in timed
    }
    # A picture of the person in the place of another's, on the store alone.
    theirs = next(data for name, data in everything.items() if name.endswith(".jpg") and data not in wanted.values())
    put, swaps = s3().put_file, list[str]()

    def swapped(path: str, key: str) -> None:
        if key.endswith(".jpg") and not swaps:
            swaps.append(key)
            Path(path).write_bytes(theirs)
        put(path, key)

    monkeypatch.setattr(s3(), "put_file", swapped)
    monkeypatch.setattr(StoreFolder, "_arrived", lambda *_: None)  # as if the sizes were equal
    told = sent(run, url, *who, "--format", "folder", code=3)
    assert f"{url} was not written: of its rows" in told and "have a picture of a removed person" in told
    failure = json.loads((run / "export.removal.json").read_text())
    assert not failure["holds"] and failure["checked"]["media"]["found"] > 0
    assert there(url) == files and theirs not in files.values()


def test_a_store_that_does_not_take_it_is_told_in_one_sentence(
    run: Path, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def told(place: str, code: int, *more: str) -> str:
        result = idtool("export", run, "-o", place, *more)
        assert result.exit_code == code, result.output
        assert "Traceback" not in result.output and SECRET not in result.output
        return result.output

    assert "Cannot write to s3://no-such-bucket/x: it does not exist (The specified bucket" in told(
        "s3://no-such-bucket/x", 4
    )
    assert not s3().exists("no-such-bucket")
    assert "password in its URL" in told(f"s3://{KEY}:{SECRET.replace('/', '%2F')}@lab/x", 2)
    assert "not behind a URL" in told(url, 2, "--format", "trl")
    monkeypatch.setattr("idtool.curate.formats.hub.ready", lambda: "x")
    assert "--push sends a data set that is on this machine" in told(url, 2, "--push", "hf:lab/x")

    def refused(*_: Any, **__: Any) -> None:
        raise PermissionError(f"Access Denied for {os.environ['AWS_SECRET_ACCESS_KEY']}")

    with monkeypatch.context() as patch:
        patch.setattr(s3(), "pipe_file", refused)
        assert "no right to do so (Access Denied for …)" in told(url, 4)
    assert there(url) == {}
    with monkeypatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
        patch.setenv("AWS_MAX_ATTEMPTS", "1")
        s3fs.S3FileSystem.clear_instance_cache()
        assert f"Cannot write to {url}: Could not connect to the endpoint" in told(url, 4)
    s3fs.S3FileSystem.clear_instance_cache()


def test_a_file_system_with_folders_takes_it_too(run: Path, tmp_path: Path) -> None:
    import fsspec

    wanted = local(run, tmp_path / "out")
    place = f"memory://{tmp_path.name}/deep/set"
    for _ in range(2):
        export.export_run(run, place)
        files = fsspec.filesystem("memory")
        root = f"/{tmp_path.name}/deep/set"
        assert {path.removeprefix(f"{root}/"): files.cat_file(path) for path in files.find(root)} == wanted
        top = {name.partition("/")[0] for name in wanted}
        assert {path.removeprefix(f"{root}/") for path in files.ls(root, detail=False)} == top
