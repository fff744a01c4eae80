"""What a nightly job rests on: its file, the lock and the store, hooks, and the judgement of a night."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import fsspec
import pytest
import yaml
from typer.testing import CliRunner

from idtool.cli import app
from idtool.errors import MissingError, UsageError
from idtool.evaluate.nightly.judge import judge, series
from idtool.evaluate.nightly.lock import Lock
from idtool.evaluate.nightly.notify import notify
from idtool.evaluate.nightly.settings import Nightly, Notify, read, recorded
from idtool.evaluate.nightly.store import FILES, Store
from idtool.evaluate.regression import load_rules
from idtool.evaluate.report_table import write_report_table
from idtool.evaluate.suite import suite_names
from tests.conftest import REPO
from tests.evaluate.fake_bench import MEANS, Made, build

MADE = Made(identities=4, prompts=2, images=False, means={name: MEANS[name] for name in ("strong", "weak", "copy")})
DAYS = ("2026-03-01", "2026-03-02", "2026-03-03", "2026-03-04")


# -- the file ----------------------------------------------------------------------------------------------------------


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "nightly.yaml"
    path.write_text(text)
    return path


@pytest.mark.parametrize("where", ["nightly.yaml", "rayjob-cron.yaml"])
def test_the_shipped_jobs_and_their_rules_are_valid(tmp_path, where):
    path = REPO / "deploy" / "nightly" / where
    if where == "rayjob-cron.yaml":  # they lie in its ConfigMap
        for name, text in next(yaml.safe_load_all(path.read_text()))["data"].items():
            (tmp_path / name).write_text(text)
        assert yaml.safe_load((tmp_path / "rayjob.yaml").read_text())["kind"] == "RayJob"
        path = tmp_path / "nightly.yaml"
    job = read(path)
    assert job.suite in suite_names() and job.regression
    assert load_rules(Path(job.regression)).rules


def test_paths_are_relative_to_the_file_and_names_are_not_paths(tmp_path):
    (tmp_path / "smoke").write_text("a file that shadows nothing")
    job = read(
        written(
            tmp_path,
            "version: 1\nstore: s3://bucket/x\nwork: w\nidentities: sample\nregression: r.yaml\nbaseline: 2026-11-01\n",
        )
    )
    assert job.store == "s3://bucket/x" and job.suite == "smoke" and job.identities == "sample"
    assert job.work == str(tmp_path / "w") and job.regression == str(tmp_path / "r.yaml")
    assert job.baseline == "2026-11-01"  # which YAML makes a date of
    job = read(written(tmp_path, "version: 1\nstore: here\nsuite: mine.yaml\nbaseline: good/bench\nmodels_dir: /m\n"))
    assert job.store == str(tmp_path / "here") and job.suite == str(tmp_path / "mine.yaml")
    assert job.baseline == str(tmp_path / "good" / "bench") and job.models_dir == "/m"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("version: 1\nstroe: x\n", "nightly.yaml:2: unknown key 'stroe'"),
        ("version: 1\nstore: x\nkeep:\n  day: 3\n", "nightly.yaml:4: keep: unknown key 'day'"),
        ("version: 1\nstore: x\nexpect: {made: 2}\n", "nightly.yaml:3: expect.made"),
        ("version: 1\nstore: x\nnotify: {on: trouble}\n", "nightly.yaml:3: notify: give command or url"),
        ("version: 1\nstore: x\nnotify: {url: hooks.example.org}\n", "nightly.yaml:3: notify.url"),
        ("store: x\nmethods: []\n", "nightly.yaml:2: methods"),
        ("", "nightly.yaml: 'version' is missing"),
        ("version: 1\nversion: 1\nstore: x\n", "nightly.yaml:2"),
    ],
)
def test_a_mistake_in_the_file_is_told_with_its_line(tmp_path, text, said):
    result = CliRunner().invoke(app, ["nightly", str(written(tmp_path, text))])
    assert result.exit_code == 2
    assert said in result.stderr
    assert not list(tmp_path.glob("*/"))


def test_the_record_of_a_job_has_no_secrets():
    job = Nightly(
        version=1, store="s3://key:secret@bucket/x", notify=Notify(url="https://hooks.example.org/T0/secret"), limit=3
    )
    assert recorded(job) == {"version": 1, "store": "s3://bucket/x", "limit": 3}


# -- hooks -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def server() -> Iterator[HTTPServer]:
    """Keeps what is posted in `got`, and answers with `status`."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            self.server.got.append((self.path, self.headers["content-type"], json.loads(body)))  # type: ignore[attr-defined]
            self.send_response(self.server.status)  # type: ignore[attr-defined]
            self.end_headers()

        def log_message(self, *_: object) -> None: ...

    server = HTTPServer(("127.0.0.1", 0), Handler)
    server.got, server.status = [], 200  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()


def test_a_command_gets_the_summary_on_its_standard_input(tmp_path):
    said = tmp_path / "said"
    assert notify(Notify(command=("sh", "-c", f"cat > {said}")), {"good": True, "näme": 1}) == []
    assert json.loads(said.read_text()) == {"good": True, "näme": 1}


def test_a_hook_that_fails_is_told_and_raises_nothing(tmp_path):
    assert notify(Notify(command=("sh", "-c", "echo no >&2; exit 7")), {}) == ["the notification command exited 7: no"]
    [why] = notify(Notify(command=("no-such-program",)), {})
    assert why.startswith("the notification command cannot run: ")
    # One that reads nothing of a summary larger than a pipe.
    assert notify(Notify(command=("true",)), {"text": "x" * 1_000_000}) == []


def test_a_hook_that_hangs_ends_with_all_that_it_started():
    started = time.monotonic()
    [why] = notify(Notify(command=("sh", "-c", "sleep 60; true"), timeout=0.5), {})
    assert why == "the notification command did not end within 0.5 s"
    assert time.monotonic() - started < 10


def test_a_url_gets_the_summary_and_a_failure_does_not_show_its_path(server):
    url = f"http://127.0.0.1:{server.server_port}/T0/secret"
    assert notify(Notify(url=url), {"good": False}) == []
    assert server.got == [("/T0/secret", "application/json", {"good": False})]
    server.status = 500
    # The command is tried, and told, all the same.
    assert notify(Notify(url=url, command=("false",)), {}) == [
        "the notification command exited 1: ",
        "the notification to 127.0.0.1 failed: status 500",
    ]
    assert len(server.got) == 2
    [why] = notify(Notify(url="http://127.0.0.1:9/secret", timeout=2), {})
    assert why == "the notification to 127.0.0.1 failed: ConnectError"


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


def test_a_lock_is_renewed_while_it_is_held_and_left_alone_when_it_was_taken(tmp_path):
    hours = 3 / 3600
    path = str(tmp_path / "lock.json")
    mine = Lock(fsspec.filesystem("file"), path, "here", hours)
    mine.take()
    try:
        first = json.loads(Path(path).read_text())
        time.sleep(1.5)
        second = json.loads(Path(path).read_text())
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
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A bucket on a server on this machine."""
    moto = pytest.importorskip("moto.server", reason="needs moto[server] and s3fs")
    pytest.importorskip("s3fs", reason="needs s3fs")
    server = moto.ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    for name, value in {
        "AWS_ACCESS_KEY_ID": "x",
        "AWS_SECRET_ACCESS_KEY": "x",
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
    import s3fs

    s3fs.S3FileSystem.clear_instance_cache()
    s3fs.S3FileSystem().mkdir("bucket")
    yield "s3://bucket/results"
    s3fs.S3FileSystem.clear_instance_cache()
    server.stop()


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
    pytest.importorskip("s3fs", reason="needs s3fs")
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
