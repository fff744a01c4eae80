"""Methods that are somebody else's program, in an environment of its own: kind `command` (docs/runners.md).

idtool starts the program, keeps it running, and talks to it in lines of JSON on its standard streams.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import os
import re
import shutil
import subprocess
import sys
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from idtool.engine.operator import Context
from idtool.engine.step import Binding
from idtool.generate import runner_wire
from idtool.generate.command_settings import (
    PATIENCE,
    CommandSettings,
    environment_of,
    interpreter_of,
    path_of,
    script_of,
    why_no_command,
    why_no_repo,
)
from idtool.generate.method import Made, Method, MethodSettings, Request, Spec
from idtool.generate.runner_environment import python_of
from idtool.generate.runner_process import Launch
from idtool.generate.runner_session import FILES, Policy, Session
from idtool.generate.runners import definition
from idtool.models import sources

PASSED = (
    *("PATH", "HOME", "USER", "LANG", "LC_ALL", "LC_CTYPE", "TMPDIR", "TZ", "LD_LIBRARY_PATH", "CUDA_HOME"),
    *("CUDA_VISIBLE_DEVICES", "NVIDIA_VISIBLE_DEVICES", "NVIDIA_DRIVER_CAPABILITIES", "OMP_NUM_THREADS"),
    *("HF_HOME", "HF_HUB_CACHE", "HF_HUB_OFFLINE", "HF_ENDPOINT", "TRANSFORMERS_OFFLINE", "TORCH_HOME"),
    *("XDG_CACHE_HOME", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "DOCKER_HOST"),
)
"""Environment variables that every runner gets where they are set; others only by `pass_env`."""
_SECRET = re.compile(r"key|token|secret|passw|credential|auth", re.IGNORECASE)
_counter = itertools.count(1)


class Command(Method):
    """A program that is asked for images one by one, started again when it dies."""

    summary = "a program of its own, in its own environment"
    parallel = True  # its session takes turns itself
    people = (0, 16)
    fixed = tuple(name for name in CommandSettings.model_fields if name not in MethodSettings.model_fields)
    Settings: ClassVar[type[MethodSettings]] = CommandSettings
    optional: ClassVar[Mapping[str, str]] = {
        "base": "the base model",
        "adapter": "what is added to it",
        "weights": "further weights",
        "face": "the face network",
        "image_encoder": "the image encoder",
        "text_encoder": "the text encoder",
        "controlnet": "a control network",
        "vae": "the autoencoder",
        "segmenter": "the segmentation network",
    }

    def __init__(self, spec: Spec, roles: Mapping[str, Sequence[Binding]] | None = None) -> None:
        super().__init__(spec, roles)
        self.settings = _settings(spec)
        # What kinds know of themselves, a command knows of its entry.
        vars(self).update(
            people=self.settings.people,
            needs_face=self.settings.faces,
            needs_prompt=self.settings.prompt,
            multiple=self.settings.multiple,
        )

    @classmethod
    def why_not(cls, spec: Spec, roles: Mapping[str, Sequence[Binding]]) -> str | None:
        settings = _settings(spec)
        ready = definition(settings.runner) if settings.runner else None
        if (why := super().why_not(spec, roles)) is not None:
            return why
        if sys.platform == "win32":
            return "kind command needs process groups, which Windows does not have"
        return why_no_command(settings, ready) or why_no_repo(settings, ready, spec.bindings)

    def load(self, context: Context) -> None:
        """Start the runner and wait until it is ready. MissingError when it does not get that far."""
        settings = self.settings
        workers = Path(context.run_dir).absolute() / "runners" / _plain(self.spec.name)
        folder = workers / f"{os.uname().nodename}-{os.getpid()}-{next(_counter)}"
        folder.mkdir(parents=True, exist_ok=True)
        sweep(workers)
        models = {slot: sources.bound(binding).path.absolute() for slot, binding in self.spec.bindings.items()}
        start = runner_wire.start_message(
            device=context.device.partition(":")[0],
            models=models,
            settings=settings.model_extra or {},
            repo=None if settings.repo is None else str(path_of(settings.repo)),
            folder=folder,
        )
        passed = {name: os.environ[name] for name in settings.pass_env if name in os.environ}
        launch = Launch(
            command=tuple(part.replace("{work}", str(folder)) for part in self._argv()),
            folder=folder,
            environment=environment(settings, passed, context.device),
            secrets=tuple(value for value in passed.values() if len(value) > 3),
            stop_s=settings.stop_s,
        )
        policy = Policy(
            settings.timeout_s, settings.start_timeout_s, settings.heartbeat_s, settings.restarts, settings.in_flight
        )
        self.session = Session(self.spec.name, launch, start, policy)
        # However this object ends, the runner ends with it.
        weakref.finalize(self, self.session.close)
        self.session.begin()

    def generate(self, requests: Sequence[Request]) -> Sequence[Made | Exception]:
        return self.session.serve(requests)

    def close(self) -> None:
        """End the runner."""
        if (session := getattr(self, "session", None)) is not None:
            session.close()

    def preprocessing(self) -> Mapping[str, Any]:
        return {"runner": self.session.ready, "repository": revision(self.settings.repo)}

    def dtype(self) -> str:
        said = self.session.ready.get("dtype")
        return said if isinstance(said, str) else "not stated"

    def fingerprint(self) -> dict[str, Any]:
        """As of any method, with the script's content and the checkout's commit beside where they are."""
        found = super().fingerprint()
        script = script_of(self.settings)
        return {
            **found,
            "settings": {key: value for key, value in found["settings"].items() if key not in PATIENCE},
            "protocol": runner_wire.PROTOCOL,
            "script": hashlib.sha256(script.read_bytes()).hexdigest() if script and script.is_file() else None,
            "repository": revision(self.settings.repo),
        }

    def _argv(self) -> tuple[str, ...]:
        settings = self.settings
        if settings.argv is not None:
            return settings.argv
        interpreter = interpreter_of(settings)
        if interpreter is None:
            interpreter = python_of(environment_of(settings), announce=_to_stderr)
        return (str(interpreter), "-u", str(script_of(settings)), *settings.args)


def environment(settings: CommandSettings, passed: Mapping[str, str], device: str) -> dict[str, str]:
    """The environment of the process: an allow-list, what the entry states, and the accelerator of this worker."""
    found = {name: os.environ[name] for name in PASSED if name in os.environ}
    found |= {"PYTHONUNBUFFERED": "1", "PYTHONIOENCODING": "utf-8", **settings.env, **passed}
    kind, _, number = device.partition(":")
    if kind == "cpu":
        found["CUDA_VISIBLE_DEVICES"] = ""
    elif kind == "cuda" and number:
        visible = [name for name in found.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
        found["CUDA_VISIBLE_DEVICES"] = visible[int(number)] if int(number) < len(visible) else number
    return found


def sweep(workers: Path) -> None:
    """Remove the files of workers of this machine that were killed; their logs stay."""
    for folder in workers.iterdir():
        host, _, rest = folder.name.rpartition("-")[0].rpartition("-")
        if host == os.uname().nodename and rest.isdigit() and not _is_alive(int(rest)):
            for name in FILES:
                shutil.rmtree(folder / name, ignore_errors=True)


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def revision(repo: str | None) -> str | None:
    """The commit of a checkout; None where it cannot be told."""
    git = shutil.which("git")
    if repo is None or git is None:
        return None
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        done = subprocess.run(
            [git, "-C", str(path_of(repo)), "rev-parse", "HEAD"], capture_output=True, timeout=20, check=False
        )
        return done.stdout.decode().strip() or None if done.returncode == 0 else None
    return None


def _settings(spec: Spec) -> CommandSettings:
    if not isinstance(spec.settings, CommandSettings):
        raise TypeError(f"method {spec.name!r} has {type(spec.settings).__name__}, not CommandSettings")
    return spec.settings


def _plain(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9_.-]", "_", name).lstrip(".")[:80] or "method"


def _to_stderr(text: str) -> None:
    print(text, file=sys.stderr, flush=True)  # noqa: T201
