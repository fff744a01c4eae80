"""Kind `command`: a program in another interpreter, that crashes, hangs, lies, or does what it should."""

from __future__ import annotations

import json
import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from idtool.engine.operator import Context, Rejected
from idtool.engine.step import Binding
from idtool.errors import MissingError, RunFailed, UsageError
from idtool.generate import methods
from idtool.generate.command import Command
from idtool.generate.command_settings import CommandSettings
from idtool.generate.method import Made, Person, Request, Spec, with_changes
from idtool.generate.requests import Wish
from idtool.generate.runner_process import RunnerDied, RunnerTimeout
from idtool.generate.runner_streams import MAX_LOG
from idtool.generate.runner_wire import RunnerError, UnusableImage
from idtool.generate.runners import definition, names
from idtool.media import images
from idtool.models.faces import Face
from idtool.models.sources import Weights
from tests.conftest import REPO
from tests.generate.made import configuration, run, table
from tests.generate.runners import FOLDER, bare_pipelines

FAULTY = str(FOLDER / "faulty.py")
QUICK = {"timeout_s": 20.0, "start_timeout_s": 20.0, "stop_s": 2.0, "width": 32, "height": 24}
pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="process groups")

Start = Callable[..., Command]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Methods on the faulty runner, ended after the test."""
    made: list[Command] = []

    def make(*args: str, load: bool = True, **settings: Any) -> Command:
        values = {"python": sys.executable, "script": FAULTY, "args": args, "people": (0, 2), **QUICK, **settings}
        method = Command(Spec("faulty", "command", {}, CommandSettings.model_validate(values)))
        made.append(method)
        if load:
            method.load(Context(str(tmp_path)))
        return method

    yield make
    for method in made:
        method.close()


def asked(method: Command, *prompts: str, people: tuple[Person, ...] = (), **changes: Any) -> list[Made | Exception]:
    settings = with_changes(method.spec.settings, changes)
    size = (settings.width, settings.height)
    requests = [Request(f"r{k}", prompt, people, k, *size, settings) for k, prompt in enumerate(prompts)]
    return list(method.generate(requests))


def made(outcome: Made | Exception) -> Made:
    assert isinstance(outcome, Made), repr(outcome)
    return outcome


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def gone(pid: int, seconds: float = 5.0) -> bool:
    until = time.monotonic() + seconds
    while is_running(pid) and time.monotonic() < until:
        time.sleep(0.02)
    return not is_running(pid)


def logged(path: Path, name: str) -> str:
    return "".join(file.read_text("utf-8", "replace") for file in path.glob(f"runners/faulty/*/{name}"))


def test_a_runner_gets_all_of_the_request_and_gives_an_image(start: Start, tmp_path: Path) -> None:
    method = start(steps=7, nested={"a": [1, 2]})
    picture = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    face = Face(np.array([1.0, 2, 21, 18]), 0.875, np.arange(10, dtype=np.float64).reshape(5, 2))
    person = Person("/a.png", picture, face, "ann", (0.0, 0.0, 0.5, 1.0))
    [outcome, plain] = asked(method, "reference", "plain", people=(person, person), steps=9)
    assert np.array_equal(made(outcome).image, picture), "references arrive bit for bit"
    facts = made(outcome).facts
    assert facts["settings"] == {"steps": 9, "nested": {"a": [1, 2]}}, "a request changes the runner's own settings"
    assert facts["face"] == {"box": [1, 2, 21, 18], "kps": [[0, 1], [2, 3], [4, 5], [6, 7], [8, 9]], "score": 0.875}
    assert (facts["label"], facts["box"]) == ("ann", [0, 0, 0.5, 1])
    assert made(plain).image.shape == (24, 32, 3)
    assert made(plain).facts["references"] == 2
    told = method.preprocessing()["runner"]
    assert method.dtype() == told["dtype"] == "float16"
    folder = Path(told["start"]["work"]).parent
    assert folder.is_relative_to(tmp_path / "runners" / "faulty")
    assert not list((folder / "in").iterdir()) and not list((folder / "out").iterdir()), "nothing piles up"
    method.close()
    assert [path.name for path in folder.iterdir()] == ["stdout.log"], "logs stay, the rest goes"


@pytest.mark.parametrize(
    "prompt",
    ["garbage", "flood", "twice", "unknown", "nan", "much", "child"],
    ids=lambda prompt: prompt.replace(" ", "-"),
)
def test_noise_does_no_harm(start: Start, tmp_path: Path, prompt: str) -> None:
    method = start()
    first, second = map(made, asked(method, prompt, "plain"))
    odd = {"nan": {"loss": None}, "much": {"left_out": "more than 65536 bytes"}}
    assert first.facts == odd[prompt] if prompt in odd else first.facts["pid"] == second.facts["pid"]
    assert int(second.image[0, 0, 2]) == 1, "answers do not slip to the next request"
    if prompt == "flood":
        assert 10 << 20 < sum(file.stat().st_size for file in tmp_path.glob("runners/*/*/stdout.log")) <= MAX_LOG
    log = logged(tmp_path, "stdout.log")
    assert "a word before the first message" in log
    if prompt in ("twice", "unknown"):
        assert "ignored: an answer to" in log


@pytest.mark.parametrize(
    ("prompt", "says"),
    [
        ("half", "half written"),
        ("text", "damaged"),
        ("none", "names no image"),
        ("number", "names no image"),
        ("missing", "is not there"),
        ("outside", "must lie in the folder"),
        ("dots", "must lie in the folder"),
        ("link", "must lie in the folder"),
        ("folder link", "must lie in the folder"),
        ("pipe", "no regular file"),
    ],
)
def test_what_is_no_image_is_refused(start: Start, tmp_path: Path, prompt: str, says: str) -> None:
    bad, good = asked(start(), prompt, "plain")
    assert isinstance(bad, UnusableImage)
    assert says in str(bad)
    assert made(good).image.shape == (24, 32, 3)
    work = next(tmp_path.glob("runners/*/*/work"))
    if prompt in ("outside", "dots", "link", "folder link"):
        assert (work / "stolen.png").is_file(), "a file outside is neither read nor removed"


def test_the_runner_may_refuse_and_fail(start: Start) -> None:
    failed, refused, odd = asked(start(), "error", "reject", "reject oddly")
    assert isinstance(failed, RunnerError)
    assert str(failed) == "the runner says: the prompt is too odd for me"
    assert isinstance(refused, Rejected) and isinstance(odd, Rejected)
    assert (refused.reason, refused.message) == ("reference.no_face", "nobody there")
    assert odd.reason == "runner.rejected"


@pytest.mark.parametrize(("prompt", "says"), [("crash", "exit code 3"), ("segfault", "signal SIGSEGV")])
def test_a_request_that_kills_twice_is_given_up(start: Start, prompt: str, says: str) -> None:
    before, bad, after = asked(start(), "plain", prompt, "plain")
    assert isinstance(bad, RunnerDied)
    assert f"2 times at this request: it ended with {says}" in str(bad)
    if prompt == "crash":
        assert "its last words: Traceback: the sky fell" in str(bad)
    assert made(before).facts["pid"] != made(after).facts["pid"], "the others go on in a new process"


def test_a_crash_that_passes_costs_nothing(start: Start) -> None:
    assert [type(outcome) for outcome in asked(start(), "crash once", "plain")] == [Made, Made]


def test_several_in_flight(start: Start) -> None:
    method = start(in_flight=4)
    outcomes = asked(method, "plain", "plain", "crash", "plain", "error", "plain")
    assert [type(outcome) for outcome in outcomes] == [Made, Made, RunnerDied, Made, RunnerError, Made]
    assert [int(made(outcomes[k]).image[0, 0, 2]) for k in (0, 1, 3, 5)] == [0, 1, 3, 5]


def test_a_hang_ends_at_the_time_limit(start: Start) -> None:
    method = start(timeout_s=0.5, stop_s=0.2)
    began = time.monotonic()
    hung, good = asked(method, "hang", "plain")
    assert isinstance(hung, RunnerTimeout)
    assert "no image within 0.5 s" in str(hung)
    assert made(good)
    assert time.monotonic() - began < 10


def test_a_runner_that_promises_heartbeats_must_send_them(start: Start) -> None:
    hung, good = asked(start("beat", heartbeat_s=0.5), "silent", "plain")
    assert isinstance(hung, RunnerTimeout)
    assert "no heartbeat for 0.5 s" in str(hung)
    assert made(good)


def test_a_runner_that_dies_at_everything_stops_the_run(start: Start) -> None:
    method = start(restarts=3)
    with pytest.raises(RunFailed, match=r"went down 4 times in a row.*the sky fell"):
        asked(method, *["crash"] * 5)


@pytest.mark.parametrize(
    ("mode", "says"),
    [
        ("exit", r"ended with exit code 1; its last words: no module named torch"),
        ("mute", r"not ready within 1 s"),
        ("closed", r"closed its standard output"),
        ("future", r"speaks version 2 of the protocol; this idtool speaks 1"),
    ],
)
def test_a_runner_that_does_not_start(start: Start, tmp_path: Path, mode: str, says: str) -> None:
    method = start(mode, load=False, start_timeout_s=1.0 if mode == "mute" else 20.0, stop_s=0.2)
    with pytest.raises(MissingError, match=says):
        method.load(Context(str(tmp_path)))
    assert method.session._current is not None
    assert not method.session._current.alive


def test_shutdown_takes_everything_along(start: Start) -> None:
    """A runner that ignores SIGTERM and the end of its input, and a process that it started."""
    method = start("deaf", stop_s=0.3)
    facts = made(asked(method, "child")[0]).facts
    assert is_running(facts["pid"]) and is_running(facts["child"])
    method.close()
    assert gone(facts["pid"]) and gone(facts["child"])
    with pytest.raises(RunFailed, match="was stopped"):
        asked(method, "plain")


def test_what_a_dead_runner_started_goes_with_it(start: Start) -> None:
    method = start()
    child = made(asked(method, "child")[0]).facts["child"]
    asked(method, "crash")
    assert gone(child)


def test_a_method_that_is_forgotten_ends_its_runner(tmp_path: Path) -> None:
    values = {"python": sys.executable, "script": FAULTY, **QUICK}
    method = Command(Spec("faulty", "command", {}, CommandSettings.model_validate(values)))
    assert pickle.loads(pickle.dumps(method)).settings == method.settings  # noqa: S301 - ours
    method.load(Context(str(tmp_path)))
    pid = made(asked(method, "plain", people=(PERSON,))[0]).facts["pid"]
    del method
    assert gone(pid)


PERSON = Person("/a.png", np.zeros((8, 8, 3), np.uint8))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL], ids=["ctrl-c", "kill-9"])
def test_no_orphans_whatever_ends_idtool(tmp_path: Path, number: signal.Signals) -> None:
    """Ctrl-C; and `kill -9` of the process and its children, which is how Ray ends a worker."""
    settings = {"python": sys.executable, "script": FAULTY, "args": ["deaf"], "people": [0, 1], **QUICK, "stop_s": 0.3}
    config = bare_pipelines(tmp_path / "pipelines.yaml", faulty={"kind": "command", "settings": settings})
    options = ["--config", str(config), "--profile", "bare", "-o", str(tmp_path / "run"), "--engine", "local"]
    process = subprocess.Popen(
        [sys.executable, "-m", "idtool", "generate", "-m", "faulty", "--prompt", "hang", *options],
        cwd=REPO,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    try:
        until = time.monotonic() + 60
        while not (found := list((tmp_path / "run").glob("runners/*/*/in/*"))) and time.monotonic() < until:
            assert process.poll() is None, process.communicate()[1].decode()
            time.sleep(0.05)
        assert found
        pids = [pid for pid in _processes() if str(tmp_path) in _folder_of(pid)]
        assert any("faulty.py" in _command_line(pid) for pid in pids)
        for pid in [pid for pid in _processes() if number == signal.SIGKILL and _parent_of(pid) == process.pid]:
            os.kill(pid, number)
        os.kill(process.pid, number)
        _, told = process.communicate(timeout=20)
    finally:
        process.kill()
    assert all(gone(pid, 10) for pid in pids)
    until = time.monotonic() + 5
    while (left := [pid for pid in _processes() if str(tmp_path) in _folder_of(pid)]) and time.monotonic() < until:
        time.sleep(0.05)
    assert not left
    if number == signal.SIGINT:
        assert process.returncode == 130
        assert b"Stopped. What is finished is kept" in told


def _processes() -> list[int]:
    return [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()]


def _parent_of(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0


def _command_line(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
    except OSError:
        return ""


def _folder_of(pid: int) -> str:
    try:
        return str(Path(f"/proc/{pid}/cwd").readlink())
    except OSError:
        return ""


def test_the_environment_is_an_allow_list_and_secrets_stay_out_of_logs(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RUNNER_TOKEN", "hunter2-hunter2")
    monkeypatch.setenv("OPENAI_API_KEY", "sk-not-yours")
    monkeypatch.setenv("PYTHONPATH", "/not/yours")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5")
    method = start(pass_env=("RUNNER_TOKEN", "NOT_SET"), env={"MODE": "fast"})
    environment = made(asked(method, "environment")[0]).facts["environment"]
    assert environment["RUNNER_TOKEN"] == os.environ["RUNNER_TOKEN"]
    assert environment["MODE"] == "fast"
    assert environment["CUDA_VISIBLE_DEVICES"] == "", "a run on the CPU hides the accelerators"
    assert not {"OPENAI_API_KEY", "PYTHONPATH", "VIRTUAL_ENV", "NOT_SET"} & set(environment)
    [leak] = asked(method, "secret")
    assert "its last words: token is ***" in str(leak)
    assert "token is ***" in logged(tmp_path, "stderr.log")
    everything = b"".join(path.read_bytes() for path in tmp_path.rglob("*.log"))
    assert b"hunter2" not in everything + json.dumps(method.fingerprint()).encode()


def test_each_worker_has_its_accelerator(monkeypatch: pytest.MonkeyPatch) -> None:
    from idtool.generate.command import environment

    settings = CommandSettings.model_validate({"python": "python", "script": "x.py"})
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5")
    assert environment(settings, {}, "cuda")["CUDA_VISIBLE_DEVICES"] == "4,5", "as Ray, or the user, has set it"
    assert environment(settings, {}, "cuda:1")["CUDA_VISIBLE_DEVICES"] == "5"
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    assert environment(settings, {}, "cuda:1")["CUDA_VISIBLE_DEVICES"] == "1"
    assert "CUDA_VISIBLE_DEVICES" not in environment(settings, {}, "cuda")


def test_a_long_request_is_refused_by_itself(start: Start) -> None:
    long, good = asked(start(), "word " * 300_000, "plain")
    assert isinstance(long, Rejected)
    assert long.reason == "request.too_long"
    assert made(good)


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"timout_s": 3}, "'timeout_s' is meant"),
        ({"env": {"MY_API_KEY": "x"}}, "looks like a secret"),
        ({"people": (3, 2)}, "fewest and most"),
        ({"runner": "fotomaker"}, "Did you mean 'photomaker'"),
        ({"runner": "photomaker", "stepps": 3}, "has no setting 'stepps'"),
        ({"environment": {"requirements": ["--index-url=x"]}}, "is no requirement"),
        ({"environment": {"python": "3.10; rm"}}, "environment"),
        ({"argv": "bash -c ls"}, "argv"),
    ],
)
def test_settings_are_checked(values: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        CommandSettings.model_validate(values)


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({}, "needs one of the settings argv, python, venv, environment, and has none"),
        ({"python": sys.executable, "venv": "/x"}, "has python and venv"),
        ({"python": sys.executable}, "needs the setting script"),
        ({"python": sys.executable, "script": "/no/script.py"}, "script /no/script.py is not here"),
        ({"python": "/no/python", "script": FAULTY}, "interpreter /no/python is not here"),
        ({"venv": "/no/venv", "script": FAULTY}, "interpreter /no/venv/bin/python is not here"),
        ({"argv": ["/no/docker", "run"]}, "program /no/docker is not here"),
        ({"environment": "own", "script": FAULTY}, "is for ready runners"),
        ({"python": sys.executable, "script": FAULTY, "repo": "/no/repo"}, "checkout /no/repo is not here"),
        ({"python": sys.executable, "runner": "photomaker"}, "a checkout of https://github.com/TencentARC/PhotoMaker"),
        ({"python": sys.executable, "runner": "photomaker", "repo": "/"}, "model slot 'base'"),
    ],
)
def test_what_cannot_run_says_why(tmp_path: Path, values: dict[str, Any], says: str) -> None:
    config = bare_pipelines(tmp_path / "pipelines.yaml", faulty={"kind": "command", "settings": values})
    row = methods.row(configuration(config), "faulty", {})
    assert row.state == "cannot"
    assert says in row.why


def test_a_wrong_program_is_told_by_its_supervisor(start: Start, tmp_path: Path) -> None:
    program = tmp_path / "program"
    program.write_text("#!/no/such/interpreter\n")
    program.chmod(0o755)
    method = start(load=False, python=None, script=None, args=(), argv=(str(program),))
    with pytest.raises(MissingError, match=r"exit code 127; its last words: .*cannot be started"):
        method.load(Context(str(tmp_path / "run")))


def test_commands_as_lists_know_the_work_folder(start: Start) -> None:
    """As a container's command line would: the folder is mounted under its own name."""
    argv = (sys.executable, FAULTY, "ready", "-v", "{work}:{work}")
    method = start(argv=argv, python=None, script=None, args=())
    assert made(asked(method, "plain")[0])


def test_patience_tells_no_images_apart_but_the_script_does(start: Start, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text("1")
    one = start(load=False, script=str(script), timeout_s=1.0).fingerprint()
    assert one == start(load=False, script=str(script), timeout_s=2.0).fingerprint()
    assert one != start(load=False, script=str(script), steps=3).fingerprint()
    script.write_text("2")
    assert one != start(load=False, script=str(script)).fingerprint()
    json.dumps(one)


def other_interpreters() -> list[str]:
    folder = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    return [str(path) for path in sorted(folder.glob("3.*/bin/python")) if path.parts[-3].startswith(("3.9", "3.13"))]


@pytest.mark.parametrize("python", other_interpreters() or [""], ids=lambda path: path and path.split("/")[-3])
def test_another_python(start: Start, tmp_path: Path, python: str) -> None:
    """The example of the docs and the helper for scripts, on interpreters that have none of our packages."""
    if not python:
        pytest.skip("no other Python here")
    example = start(python=python, script=str(REPO / "docs" / "examples" / "runner.py"), args=())
    picture = np.full((8, 8, 3), 7, np.uint8)
    [outcome] = asked(example, "three small words", people=(Person("/a", picture),))
    assert np.array_equal(made(outcome).image, picture)
    assert made(outcome).facts == {"prompt_words": 3}
    script = tmp_path / "helped.py"
    script.write_text(HELPED.format(folder=str(FOLDER.parents[2] / "idtool" / "generate" / "runners")), "utf-8")
    good, bad, refused = asked(start(python=python, script=str(script), args=()), "fine", "bad", "refuse")
    assert made(good).facts == {"python": python.split("/")[-3]}
    assert isinstance(bad, RunnerError) and "ZeroDivisionError" in str(bad)
    assert isinstance(refused, Rejected) and refused.reason == "too.bad"


HELPED = """
import platform, sys
sys.path.insert(0, {folder!r})
from protocol import Rejected, serve

class Picture:
    def save(self, path, format):
        import struct, zlib
        def chunk(kind, data):
            return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data) & 0xFFFFFFFF)
        head = struct.pack(">IIBBBBB", 2, 1, 8, 2, 0, 0, 0)
        rows = zlib.compress(bytes([0, 1, 2, 3, 250, 5, 6]))
        data = bytes([137]) + b"PNG\\r\\n" + bytes([26, 10])
        data += chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
        with open(path, "wb") as file:
            file.write(data)

def load(start):
    print("prints do not reach the protocol")

def make(state, request):
    if request["prompt"] == "bad":
        1 / 0
    if request["prompt"] == "refuse":
        raise Rejected("too.bad", "no")
    return Picture(), {{"python": platform.python_version()}}

serve(load, make, dtype="float16")
"""


@pytest.mark.parametrize("name", names())
def test_ready_runners_are_well_formed(name: str) -> None:
    """What can be checked without the repositories: the definition, and that the script compiles and speaks."""
    ready = definition(name)
    assert len(ready.revision) == 40
    assert ready.repository.startswith("https://github.com/")
    assert "Unproven" in ready.path.read_text("utf-8").partition("import")[0]
    settings = CommandSettings.model_validate({"runner": name, "python": sys.executable, "repo": "/"})
    assert set(ready.models) <= set(Command.optional)
    assert settings.model_dump(mode="json")["people"] == list(ready.settings["people"])
    for python in [sys.executable, *other_interpreters()]:
        done = subprocess.run([python, str(ready.path), "--check"], capture_output=True, timeout=60, check=True)
        assert json.loads(done.stdout)["check"]["protocol"] == 1


PROMPTS = {"face_diffuser": "a man <|image|>", "omg": "a man and a woman", "photomaker": "a man in the rain"}
CALLED = (
    '"""Stands for the command line of the checkout: a picture where it would write one."""\n'
    + """
import sys
from pathlib import Path
from PIL import Image

given = dict(zip(sys.argv[1:], sys.argv[2:]))
names = {"-o": "drive/0.png", "--output_dir": "output_0.png", "--save_dir": "seed_0/stage-2.png"}
[(option, name)] = [(key, value) for key, value in names.items() if key in given]
path = Path(given[option], name)
path.parent.mkdir(parents=True, exist_ok=True)
Image.new("RGB", (8, 8), (1, 2, 250)).save(path)
"""
)


@pytest.mark.parametrize("name", names())
def test_ready_runners_go_through_with_stand_ins(name: str, start: Start, tmp_path: Path) -> None:
    """With stand-ins for all that they drive: every setting, model and reference that they ask for is there."""
    repo = tmp_path / "repo"
    for file in ("infer.py", "inference_instantid.py", "facediffuser/inference.py", "accelerate/commands/launch.py"):
        (repo / file).parent.mkdir(parents=True, exist_ok=True)
        (repo / file).write_text(CALLED, "utf-8")
    for folder in ("accelerate", "accelerate/commands"):  # before the real one, which takes seconds to start
        (repo / folder / "__init__.py").touch()
    ready = definition(name)
    argv = (sys.executable, str(FOLDER / "stand_ins.py"), str(ready.path))
    defaults = {"python": None, "script": None, "args": (), "people": tuple(ready.settings["people"])}
    sizes = {side: ready.settings.get(side, 64) for side in ("width", "height")}
    method = start(load=False, **defaults, **sizes, runner=name, repo=str(repo), argv=argv)
    paths = {slot: Path(f"/models/{slot}") for slot in ready.models}
    method.load(Context(str(tmp_path), device="cuda")) if not paths else _load(method, tmp_path, paths)
    count = max(1, method.people[0]) if method.people[1] else 0
    [outcome] = asked(method, PROMPTS.get(name, "a portrait"), people=(PERSON,) * count)
    assert made(outcome).image.shape == (8, 8, 3)
    if name == "photomaker":
        assert made(outcome).facts["prompt"] == "a man img in the rain"
    assert not list(tmp_path.glob("runners/*/*/out/*")), "what it left beside its image goes too"


def _load(method: Command, folder: Path, paths: dict[str, Path]) -> None:
    """As `load`, with models that are not there."""
    from unittest import mock

    bindings = {slot: Binding(slot, f"local:{path}") for slot, path in paths.items()}
    method.spec = Spec(method.spec.name, "command", bindings, method.spec.settings)
    with mock.patch("idtool.models.sources.bound", lambda binding: Weights(binding.model, paths[binding.role])):
        method.load(Context(str(folder), device="cuda"))


def test_what_killed_workers_left_is_removed(start: Start, tmp_path: Path) -> None:
    gone_process = subprocess.Popen([sys.executable, "-c", ""])
    gone_process.wait()
    for process in (gone_process.pid, os.getppid()):
        (tmp_path / "runners" / "faulty" / f"{os.uname().nodename}-{process}-1" / "in" / "r0").mkdir(parents=True)
    start()
    left = {path.parent.name.split("-")[-2] for path in tmp_path.glob("runners/faulty/*/in") if path.is_dir()}
    assert left == {str(os.getppid())}


def test_an_environment_made_by_uv(start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From a local package, so that no index is asked."""
    import shutil

    if shutil.which("uv") is None:
        pytest.skip("uv is not here")
    wheel = _wheel(tmp_path)
    monkeypatch.setenv("IDTOOL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("UV_OFFLINE", "1")
    monkeypatch.setenv("UV_PYTHON_DOWNLOADS", "never")
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    environment = {"python": version, "requirements": [f"idtool-tiny @ {wheel.as_uri()}"]}
    script = tmp_path / "script.py"
    script.write_text("import idtool_tiny\n" + (FOLDER / "faulty.py").read_text("utf-8"), "utf-8")
    method = start(load=False, python=None, environment=environment, script=str(script), args=())
    with monkeypatch.context() as patch:
        patch.setenv("IDTOOL_OFFLINE", "1")
        with pytest.raises(MissingError, match="IDTOOL_OFFLINE=1 forbids it"):
            method.load(Context(str(tmp_path / "a")))
    method.load(Context(str(tmp_path / "run")))
    assert made(asked(method, "plain")[0])
    with monkeypatch.context() as patch:
        patch.setenv("PATH", "/nowhere")
        again = start(load=False, python=None, environment=environment, script=str(script), args=())
        again.load(Context(str(tmp_path / "b")))  # made already: uv is not needed
        other = {"python": version, "requirements": []}
        with pytest.raises(MissingError, match="uv, which is not on PATH"):
            start(load=False, python=None, environment=other, script=FAULTY).load(Context(str(tmp_path / "c")))
    bad = {"python": version, "requirements": ["idtool-no-such-package-at-all"]}
    with pytest.raises(MissingError, match="uv pip ended with"):
        start(load=False, python=None, environment=bad, script=FAULTY).load(Context(str(tmp_path / "d")))


def _wheel(folder: Path) -> Path:
    import zipfile

    path = folder / "idtool_tiny-1.0-py3-none-any.whl"
    info = "idtool_tiny-1.0.dist-info"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("idtool_tiny.py", "")
        archive.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: idtool-tiny\nVersion: 1.0\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    return path


def test_through_the_pipeline(fixtures: Path, tmp_path: Path) -> None:
    """A run with a real photo: good rows kept, each bad one with its own outcome and the runner's last words."""
    obama = str(fixtures / "identities" / "obama" / "00_face_recognition.jpg")
    settings = {"python": sys.executable, "script": FAULTY, "people": [1, 1], **QUICK, "timeout_s": 5.0, "stop_s": 0.2}
    config = bare_pipelines(tmp_path / "pipelines.yaml", faulty={"kind": "command", "settings": settings})
    prompts = ["reference", "plain", "crash", "half", "reject", "garbage"]
    wishes = [Wish(prompt, (obama,), settings={"steps": 3}) for prompt in prompts]
    wishes += [Wish("plain", (obama,), settings={"timeout_s": 1}), Wish("two", (obama, obama))]
    run("faulty", wishes, tmp_path / "run", config=config, profile="bare", max_error_rate=1.0)
    rows = {(row["prompt"], row["settings"]): row for row in table(tmp_path / "run")}
    found = {prompt: rows[prompt, '{"steps": 3}'] for prompt in prompts}
    assert {prompt: row["status"] for prompt, row in found.items()} == {
        "reference": "kept",
        "plain": "kept",
        "garbage": "kept",
        "crash": "error",
        "half": "error",
        "reject": "rejected",
    }
    assert found["crash"]["reason"] == "RunnerDied"
    assert found["crash"]["message"].endswith("its last words: Traceback: the sky fell")
    assert found["reject"]["reason"] == "reference.no_face"
    assert "is the method's" in rows["plain", '{"timeout_s": 1}']["message"]
    assert rows["two", None]["reason"] == "request.people"
    photo = images.decode(Path(obama).read_bytes())
    stored = tmp_path / "run" / "media" / found["reference"]["media"].removeprefix("store:")
    assert np.array_equal(images.decode(stored.read_bytes()), photo)
    assert json.loads(found["plain"]["facts"])["settings"] == {"steps": 3}
    assert found["plain"]["dtype"] == "float16"
    with pytest.raises(UsageError, match="timout_s"):
        run("faulty", wishes, tmp_path / "no", config=config, profile="bare", settings={"timout_s": 1})
