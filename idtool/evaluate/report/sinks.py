"""Sinks: a benchmark's numbers and reports sent to an experiment tracker. One run per method, grouped by suite.

    mlflow     experiment `idtool <suite>`
    wandb      project `idtool`, group `<suite>`
    trackio    project `idtool-<suite>`

Each takes the login, address and offline mode that its own environment variables say. Sending again makes new runs.
"""

from __future__ import annotations

import importlib
import re
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from idtool.errors import MissingError, RunFailed, UsageError
from idtool.evaluate.report.data import report_data

FILES = ("report.md", "report.parquet")
"""What goes along with the numbers, where the sink takes files."""
PICTURES = "report.html"
"""Goes along where that is asked for: it shows faces."""
BATCH = 100
"""Parameters that MLflow takes at once."""
_MLFLOW = re.compile(r"[^A-Za-z0-9_\-. /]")


@dataclass(frozen=True)
class Sent:
    """What one method's run holds."""

    name: str
    config: dict[str, Any]
    """Suite, profile, versions, models, settings: strings and numbers."""
    metrics: dict[str, float]
    """`<metric>`, and the same with `_ci_low`, `_ci_high`, `_n`, `_n_missing`."""


def send(bench: Path | str, sink: str, *, pictures: bool = False, **options: Any) -> list[str]:
    """Send the benchmark in `bench` to `sink`, one of `SINKS`; returns where the runs are, one address each. Numbers,
    report.md and report.parquet are sent; with `pictures` also report.html, and with it pictures of people.

    Options: `mlflow` takes `uri` (tracking address or folder) and `experiment`; `wandb` takes `project`, `entity`,
    `mode` (`online`, `offline`) and `folder`; `trackio` takes `project` and `space` (of the hub). UsageError for
    another sink, an option that it does not take, or a benchmark that is not scored; MissingError for a package that is
    not installed; RunFailed where the tracker refuses.
    """
    if sink not in SINKS:
        raise UsageError(f"There is no sink {sink!r}.", f"Available: {', '.join(SINKS)}.")
    function, package, known = SINKS[sink]
    strange = sorted(set(options) - set(known))
    if strange:
        raise UsageError(f"Sink {sink} takes no option {strange[0]!r}.", f"It takes {', '.join(known)}.")
    data = report_data(bench)
    runs = list(_runs(data))
    if not runs:
        raise UsageError(f"{bench} has no scores to send.", "Run `idtool bench` first.")
    try:
        module = importlib.import_module(sink)
    except ImportError as error:
        raise MissingError(
            f"Sink {sink} needs the package {package}, which is not installed.", f"`pip install {package}`."
        ) from error
    names = (*FILES, PICTURES) if pictures else FILES
    files = [path for name in names if (path := Path(data["bench"]) / name).is_file()]
    try:
        return function(module, data, runs, files, **options)
    except Exception as error:
        # Each tracker has errors of its own, which cannot be named without importing it. A fault of ours stays one.
        if isinstance(error, OSError) or type(error).__module__.split(".")[0] in (sink, "requests", "httpx"):
            raise RunFailed(
                f"{sink}: {str(error).strip().rstrip('.')}.", "What was sent before stays there."
            ) from error
        raise


def _runs(data: Mapping[str, Any]) -> Iterator[Sent]:
    suite = data["suite"]
    fixed = {
        "suite": suite.get("name"),
        "suite_hash": suite.get("hash"),
        "profile": data["profile"],
        "device": data["device"],
        "seed": data["seed"],
        "idtool": data["idtool"],
        "date": data["updated"],
        "identities": data["size"]["identities"],
        "requests": data["size"]["requests"],
        "random_weights": ", ".join(data["random_weights"]),
    }
    for method in data["methods"]:
        found: dict[str, float] = {}
        prints: dict[str, str] = {}
        for name, rows in data["scores"].items():
            row = rows.get(method["name"])
            if row is None or row["mean"] is None:
                continue
            told = {key: row[key] for key in ("ci_low", "ci_high", "n", "n_missing")}
            found |= {name: row["mean"], **{f"{name}_{key}": value for key, value in told.items() if value is not None}}
            prints[f"fingerprint {name}"] = row["fingerprint"]
        if found:
            mine = {
                "method": method["name"],
                "baseline": method["baseline"],
                "licence": method["licence"] or "not stated",
                "conditions_on": method["conditions_on"] or "",
                "models": ", ".join(str(model["model"]) for model in method["models"]),
            }
            yield Sent(
                method["name"], {**fixed, **mine, **prints}, {name: float(value) for name, value in found.items()}
            )


def _mlflow(
    mlflow: Any,
    data: Mapping[str, Any],
    runs: list[Sent],
    files: list[Path],
    *,
    uri: str | None = None,
    experiment: str | None = None,
) -> list[str]:
    """Names may hold only letters, digits and `_-. /` here: `@` becomes `.at.`, others `_`."""
    client = mlflow.MlflowClient(tracking_uri=uri)
    name = experiment or f"idtool {data['suite'].get('name')}"
    known = client.get_experiment_by_name(name)
    number = known.experiment_id if known is not None else client.create_experiment(name)
    places = []
    for one in runs:
        run = client.create_run(number, run_name=one.name, tags={"idtool.suite": str(data["suite"].get("name"))})
        key = run.info.run_id
        params = [mlflow.entities.Param(_plain(what), str(value)[:500]) for what, value in one.config.items()]
        now = int(time.time() * 1000)
        metrics = [mlflow.entities.Metric(_plain(what), value, now, 0) for what, value in one.metrics.items()]
        for start in range(0, max(len(params), len(metrics)), BATCH):
            client.log_batch(key, metrics=metrics[start : start + BATCH], params=params[start : start + BATCH])
        client.set_terminated(key)
        places.append(f"{name}/{key}")
    report = client.create_run(number, run_name="report", tags={"idtool.report": "true"})
    for file in files:
        client.log_artifact(report.info.run_id, str(file))
    client.set_terminated(report.info.run_id)
    return places


def _plain(name: str) -> str:
    return _MLFLOW.sub("_", name.replace("@", ".at."))


def _wandb(
    wandb: Any,
    data: Mapping[str, Any],
    runs: list[Sent],
    files: list[Path],
    *,
    project: str = "idtool",
    entity: str | None = None,
    mode: str | None = None,
    folder: str | None = None,
) -> list[str]:
    suite = str(data["suite"].get("name"))
    places = []
    fixed = {"project": project, "entity": entity, "group": suite, "mode": mode, "dir": folder}
    for one in runs:
        with wandb.init(name=one.name, job_type="method", config=one.config, **fixed) as run:
            run.summary.update(one.metrics)
            places.append(run.url or run.dir)
    with wandb.init(name="report", job_type="report", **fixed) as run:
        artifact = wandb.Artifact(re.sub(r"[^\w.-]", "-", f"report-{suite}"), type="report")
        for file in files:
            artifact.add_file(str(file))
        run.log_artifact(artifact)
    return places


def _trackio(
    trackio: Any,
    data: Mapping[str, Any],
    runs: list[Sent],
    files: list[Path],
    *,
    project: str | None = None,
    space: str | None = None,
) -> list[str]:
    """Trackio keeps numbers only; the files stay where they are."""
    name = project or re.sub(r"[^\w-]", "-", f"idtool-{data['suite'].get('name')}")
    for one in runs:
        trackio.init(project=name, name=one.name, config=one.config, space_id=space)
        trackio.log(one.metrics)
        trackio.finish()
    return [f"{name}/{one.name}" for one in runs]


SINKS: dict[str, tuple[Callable[..., list[str]], str, tuple[str, ...]]] = {
    "mlflow": (_mlflow, "mlflow-skinny", ("uri", "experiment")),
    "wandb": (_wandb, "wandb", ("project", "entity", "mode", "folder")),
    "trackio": (_trackio, "trackio", ("project", "space")),
}
"""Name -> what sends, the package that it needs, and the options that it takes."""
