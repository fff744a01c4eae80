"""The store of nightly results, its lock, and the judgement of a night."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest

from idtool.errors import MissingError, UsageError
from idtool.evaluate.nightly.judge import judge, series
from idtool.evaluate.nightly.lock import Lock
from idtool.evaluate.nightly.settings import Nightly
from idtool.evaluate.nightly.store import FILES, Store
from idtool.evaluate.report_table import write_report_table
from tests.conftest import REPO
from tests.evaluate.fake_bench import MEANS, Made, build
from tests.object_store import served

MADE = Made(identities=4, prompts=2, images=False, means={name: MEANS[name] for name in ("strong", "weak", "copy")})
DAYS = ("2026-03-01", "2026-03-02", "2026-03-03", "2026-03-04")


# -- the lock ----------------------------------------------------------------------------------------------------------

HOLDER = """
import sys, time
from idtool.evaluate.nightly.store import Store
with Store(sys.argv[1], "tiny").locked(1.0):
    print("held", flush=True)
    time.sleep(120)
"""


def test_another_process_holds_the_store_until_it_dies(tmp_path):
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)],
        cwd=REPO,
        env={**os.environ, "PYTHONPATH": str(REPO)},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert holder.stdout is not None and holder.stdout.readline() == "held\n"
        with pytest.raises(UsageError, match=f"in use since .* by process {holder.pid} on"), store(tmp_path):
            pass
    finally:
        holder.send_signal(signal.SIGKILL)
        holder.wait()
    assert (tmp_path / "suite=tiny" / "lock.json").exists()
    with store(tmp_path):
        pass
    assert not (tmp_path / "suite=tiny" / "lock.json").exists()


def store(folder: Path, hours: float = 1.0) -> Any:
    return Store(str(folder), "tiny").locked(hours)


@pytest.mark.parametrize(
    ("changes", "taken_over"),
    [
        ({"host": "elsewhere", "age": 10.0}, False),
        ({"host": "elsewhere", "age": 3700.0}, True),
        ({"space": 1, "age": 10.0, "pid": 2**22 + 1}, False),  # a container with the same name, where pids mean others
        ({"age": 10.0, "pid": 2**22 + 1}, True),
    ],
)
def test_a_lock_is_taken_over_when_it_is_not_renewed_or_its_process_is_gone(tmp_path, changes, taken_over):
    file = tmp_path / "suite=tiny" / "lock.json"
    with store(tmp_path):
        held = json.loads(file.read_text())
    age = changes.pop("age")
    file.write_text(json.dumps({**held, "time": time.time() - age, **changes}))
    if taken_over:
        with store(tmp_path):
            assert json.loads(file.read_text())["pid"] == os.getpid()
        assert not file.exists()
    else:
        with pytest.raises(UsageError, match="is in use since"), store(tmp_path):
            pass
        assert file.exists()


def test_a_lock_that_was_cut_off_while_it_was_written_is_taken_over(tmp_path):
    (tmp_path / "suite=tiny").mkdir()
    (tmp_path / "suite=tiny" / "lock.json").write_text('{"host": "els')
    with store(tmp_path):
        pass


def read_lock(path: str) -> dict[str, Any]:
    """What a lock says that is being renewed: it may be read while it is written."""
    for _ in range(50):
        with contextlib.suppress(ValueError):
            return dict(json.loads(Path(path).read_text()))
        time.sleep(0.01)
    raise AssertionError(f"{path} stays empty")


def test_a_lock_is_renewed_while_it_is_held_and_left_alone_when_it_was_taken(tmp_path):
    hours = 3 / 3600
    path = str(tmp_path / "lock.json")
    mine = Lock(fsspec.filesystem("file"), path, "here", hours)
    mine.take()
    try:
        first = read_lock(path)
        time.sleep(1.5)
        second = read_lock(path)
        assert second["time"] - first["time"] > 0.4
        with pytest.raises(UsageError):
            Lock(fsspec.filesystem("file"), path, "here", hours).take()
        taken = {**first, "token": "of another"}
        Path(path).write_text(json.dumps(taken))
        time.sleep(1)
    finally:
        mine.release()
    assert json.loads(Path(path).read_text()) == taken


# -- the store ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def benchmark(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = build(tmp_path_factory.mktemp("made") / "bench", MADE)
    write_report_table(folder)
    for name in ("report.html", "report.md"):
        (folder / name).write_text("a page")
    return folder


@pytest.fixture
def made(benchmark: Path, tmp_path: Path) -> Path:
    """A benchmark with two methods, one of which lost images and faces, one that failed, one that cannot run."""
    return shutil.copytree(benchmark, tmp_path / "made")


@pytest.fixture
def s3() -> Iterator[str]:
    """A bucket on a server on this machine."""
    with served("bucket"):
        yield "s3://bucket/results"


@pytest.mark.parametrize("where", ["folder", "memory", "s3"])
def test_a_store_keeps_nights(made, where, tmp_path, request):
    url = {"folder": str(tmp_path / "a[b]c"), "memory": f"memory://{tmp_path.name}"}.get(where)
    if url is None:
        url = request.getfixturevalue("s3")
    here = Store(url, "fake")
    assert here.nights() == []
    for day, good in zip(DAYS, (True, False, True, True), strict=True):
        with here.locked(1.0):
            here.publish(made, day, {"good": good})
    assert [(night.date, night.good) for night in Store(url, "fake").nights()] == list(
        zip(DAYS, (True, False, True, True), strict=True)
    )
    assert not here.fs.exists(f"{here.root}/lock.json")
    assert {path.rsplit("/", 1)[-1] for path in here.fs.ls(here.folder(DAYS[0]), detail=False)} == {
        *FILES,
        "status.json",
    }
    fetched = here.fetch(DAYS[1], tmp_path / "fetched")
    assert (fetched / "report.parquet").read_bytes() == (made / "report.parquet").read_bytes()
    here.fs.pipe_file(f"{here.folder(DAYS[3])}/status.json", b'{"good": tr')  # cut off
    here.fs.rm_file(f"{here.folder(DAYS[2])}/status.json")
    here.remove(DAYS[0])
    here.remove("2025-01-01")
    assert [night.date for night in here.nights()] == [DAYS[1]]
    here.publish(made, DAYS[2], {"good": True})
    assert [night.date for night in here.nights()] == [DAYS[1], DAYS[2]]


def test_a_store_that_is_not_there_is_told_with_its_url(monkeypatch):
    pytest.importorskip("s3fs", reason="needs the extra `s3`")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    import s3fs

    s3fs.S3FileSystem.clear_instance_cache()
    with pytest.raises(MissingError, match="Cannot read the store s3://bucket/x: "):
        Store("s3://bucket/x", "tiny").nights()
    s3fs.S3FileSystem.clear_instance_cache()


# -- the judgement -----------------------------------------------------------------------------------------------------


def job(**settings: Any) -> Nightly:
    return Nightly.model_validate({"version": 1, "store": "unused", **settings})


def test_what_is_expected_of_a_night(made, tmp_path):
    here = Store(str(tmp_path), "fake")
    expect = {"methods": ["strong", "absent"], "made": 0.9, "metrics": ["facesim", "kid", "expression"], "missing": 0.1}
    manifest = json.loads((made / "bench.json").read_text())
    (made / "bench.json").write_text(json.dumps({**manifest, "requests": 8}))
    told = judge(job(expect={**expect, "requests": 9}), here, made, DAYS[0])
    assert told["troubles"] == [
        "method absent is cannot: hf:nobody/large is not on this machine.",
        "weak made 6 of 8 images, less than 90%.",
        "method broken failed: out of memory on every image.",
        "8 requests per method instead of 9.",
        "metric expression was not made: the profile binds no role expression.",
        "facesim/arcface-mbf of weak: 2 of 8 not scored.",
        "facesim/edgeface-s of weak: 2 of 8 not scored.",
    ]
    calm = judge(job(expect={"made": 0.5, "missing": 0.5, "metrics": ["facesim"]}), here, made, DAYS[0])
    assert calm["troubles"] == ["method broken failed: out of memory on every image."]


def test_a_night_that_cannot_be_compared_is_a_trouble_once(made, tmp_path):
    """Else no night could be good again after a network was exchanged."""
    here = Store(str(tmp_path / "store"), "fake")
    changed = tmp_path / "changed"
    lenient = job(expect={"made": 0.5})
    manifest = json.loads((made / "bench.json").read_text())
    del manifest["methods"]["broken"]
    (made / "bench.json").write_text(json.dumps(manifest))
    before = judge(lenient, here, made, DAYS[0])
    assert before["troubles"] == [] and before["compared"] == {}
    here.publish(made, DAYS[0], {"good": True, **before})
    shutil.copytree(made, changed)
    manifest["metrics"]["facesim/arcface-mbf"]["fingerprint"] = "another"
    (changed / "bench.json").write_text(json.dumps(manifest))
    write_report_table(changed)

    first = judge(lenient, here, changed, DAYS[1])
    [trouble] = first["troubles"]
    assert trouble.startswith(f"The previous ({DAYS[0]}) cannot be compared: ") and "another fingerprint" in trouble
    here.publish(changed, DAYS[1], {"good": False, **first})

    second = judge(lenient, here, changed, DAYS[2])
    assert second["troubles"] == [] and "another fingerprint" in second["compared"]["previous"]["cannot"]
    assert (
        second["series"] == first["series"] != before["series"] == series(json.loads((made / "bench.json").read_text()))
    )
    # What was named as the baseline must be comparable until another is named.
    [still] = judge(lenient.model_copy(update={"baseline": DAYS[0]}), here, changed, DAYS[2])["troubles"]
    assert still.startswith(f"The baseline ({DAYS[0]}) cannot be compared")
    here.publish(changed, DAYS[2], {"good": True, **second})
    assert judge(lenient, here, changed, DAYS[3])["compared"]["previous"]["with"] == DAYS[2]


def test_a_broken_floor_is_told_once_whatever_the_night_is_compared_with(made, tmp_path):
    here = Store(str(tmp_path / "store"), "fake")
    here.publish(made, DAYS[0], {"good": True})
    rules = tmp_path / "rules.yaml"
    rules.write_text("version: 1\nrules:\n  - {metric: facesim/arcface-mbf, method: weak, min: 0.9, max_drop: 0}\n")
    told = judge(job(regression=str(rules), baseline=str(made)), here, made, DAYS[1])
    [floor] = [text for text in told["troubles"] if "facesim" in text]
    assert floor.startswith("weak, facesim/arcface-mbf, all: is ") and "below 0.9" in floor
    assert list(told["compared"]) == ["previous", "baseline"]
    assert all(len(one["violations"]) == 1 for one in told["compared"].values())
