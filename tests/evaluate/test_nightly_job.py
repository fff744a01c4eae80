"""The file of a nightly job, and the hooks that are told how a night went."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from idtool.cli import app
from idtool.evaluate.nightly.notify import notify
from idtool.evaluate.nightly.settings import Nightly, Notify, read, recorded
from idtool.evaluate.regression import load_rules
from idtool.evaluate.suite import suite_names
from tests.conftest import REPO

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


def test_paths_are_relative_to_the_file_and_names_are_not_paths(tmp_path, monkeypatch):
    (tmp_path / "smoke").write_text("a file that shadows nothing")
    written(
        tmp_path,
        "version: 1\nstore: s3://bucket/x\nwork: w\nidentities: sample\nregression: r.yaml\nbaseline: 2026-11-01\n",
    )
    monkeypatch.chdir(tmp_path)
    job = read(Path("nightly.yaml"))  # the job's paths stay what they are when the directory changes
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
