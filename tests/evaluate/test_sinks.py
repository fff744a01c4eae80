"""Numbers sent to experiment trackers: to their local stores, and read back from there."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from idtool.errors import MissingError, RunFailed, UsageError
from idtool.evaluate.report import leaderboard, write_reports
from idtool.evaluate.report.sinks import SINKS, send
from tests.evaluate.fake_bench import MEANS, Made, build

FACESIM = "facesim/arcface-mbf"


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Path:
    means = {name: MEANS[name] for name in ("strong", "copy")}
    made = Made(identities=3, prompts=2, means=means, images=False)
    folder = build(tmp_path_factory.mktemp("bench"), made)
    write_reports(folder)
    return folder


@pytest.mark.parametrize("sink", list(SINKS))
def test_a_package_that_is_not_here_is_named(bench: Path, sink: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, sink, None)
    with pytest.raises(MissingError, match=f"Sink {sink} needs the package {SINKS[sink][1]}"):
        send(bench, sink)


def test_strange_sinks_and_options(bench: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no sink 'tensorboard'"):
        send(bench, "tensorboard")
    with pytest.raises(UsageError, match="takes no option 'colour'"):
        send(bench, "mlflow", colour="red")
    with pytest.raises(UsageError, match="is no benchmark"):
        send(tmp_path, "mlflow")


def test_nothing_to_send(tmp_path: Path) -> None:
    (tmp_path / "bench.json").write_text(json.dumps({"suite": {"name": "s"}, "methods": {}}), "utf-8")
    with pytest.raises(UsageError, match="has no scores to send"):
        send(tmp_path, "mlflow")


def test_mlflow(bench: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    uri = (tmp_path / "runs").as_uri()
    places = send(bench, "mlflow", uri=uri)
    client = mlflow.MlflowClient(tracking_uri=uri)
    experiment = client.get_experiment_by_name("idtool fake")
    runs = {run.info.run_name: run for run in client.search_runs([experiment.experiment_id])}
    assert set(runs) == {"strong", "copy", "report"} and len(places) == 2
    told = leaderboard(bench)
    for method in ("strong", "copy"):
        assert runs[method].data.metrics[FACESIM] == told[FACESIM][method]["mean"]
        assert runs[method].data.metrics[f"{FACESIM}_ci_low"] == told[FACESIM][method]["ci_low"]
        assert runs[method].data.metrics["clip_t/vit-l-14.at.raw"] == told["clip_t/vit-l-14@raw"][method]["mean"]
    assert "kid_ci_low" not in runs["strong"].data.metrics
    assert runs["strong"].data.params["profile"] == "offline" and runs["strong"].info.status == "FINISHED"
    sent = {file.path for file in client.list_artifacts(runs["report"].info.run_id)}
    assert sent == {"report.md", "report.parquet"}, "pictures of people stay here unless they are asked for"
    send(bench, "mlflow", uri=uri, experiment="other", pictures=True)
    other = client.search_runs([client.get_experiment_by_name("other").experiment_id])
    report = next(run for run in other if run.info.run_name == "report")
    assert "report.html" in {file.path for file in client.list_artifacts(report.info.run_id)}


def test_mlflow_refuses(bench: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    with pytest.raises(RunFailed, match=r"^mlflow: "):
        send(bench, "mlflow", uri="no-such-scheme://somewhere")


def test_trackio(bench: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("trackio")
    import sqlite3

    monkeypatch.setattr("trackio.utils.TRACKIO_DIR", tmp_path, raising=True)
    for name in ("trackio.sqlite_storage", "trackio.media.utils"):
        if hasattr(sys.modules.get(name), "TRACKIO_DIR"):
            monkeypatch.setattr(f"{name}.TRACKIO_DIR", tmp_path)
    assert send(bench, "trackio", project="fake-project") == ["fake-project/strong", "fake-project/copy"]
    with sqlite3.connect(tmp_path / "fake-project.db") as base:
        rows = {run: json.loads(metrics) for run, metrics in base.execute("select run_name, metrics from metrics")}
    assert rows["strong"][FACESIM] == leaderboard(bench)[FACESIM]["strong"]["mean"]


def test_wandb(bench: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_SILENT", "true")
    places = send(bench, "wandb", mode="offline", folder=str(tmp_path))
    assert len(places) == 2
    kept = list(tmp_path.glob("wandb/offline-run-*/*.wandb"))
    assert len(kept) == 3
    written = b"".join(path.read_bytes() for path in kept)
    for words in (FACESIM, "clip_t/vit-l-14@raw", "fingerprint kid", "report-fake"):
        assert words.encode() in written
