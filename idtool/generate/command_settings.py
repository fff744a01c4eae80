"""Settings of kind `command`, and what follows from them: which program, in which environment, with which checkout."""

from __future__ import annotations

import difflib
import os
import re
import shutil
from collections.abc import Collection
from pathlib import Path
from typing import Any, Literal

from pydantic import ConfigDict, Field, model_validator

from idtool.errors import MissingError, UsageError
from idtool.generate.method import MethodSettings
from idtool.generate.runner_environment import EnvironmentSettings, is_made
from idtool.generate.runners import Definition, definition
from idtool.registry import nearest

_SECRET = re.compile(r"key|token|secret|passw|credential|auth", re.IGNORECASE)


class CommandSettings(MethodSettings):
    """Settings of kind `command`. Keys that are not listed here are the runner's own: it gets them with each request,
    and a request may change them."""

    model_config = ConfigDict(extra="allow", frozen=True, validate_default=True)

    runner: str | None = None
    """A ready runner of idtool (`idtool/generate/runners/`), whose defaults stand below the values given here."""
    argv: tuple[str, ...] | None = Field(default=None, min_length=1)
    """The whole command, for containers and the like. `{work}` stands for the worker's folder. Never a shell's text."""
    python: str | None = None
    """An interpreter, for `script`."""
    venv: str | None = None
    """A virtual environment, whose interpreter is taken for `script`."""
    environment: EnvironmentSettings | Literal["own"] | None = None
    """An environment that uv makes in the cache, for `script`; own: the one that the ready runner states, unless argv,
    python or venv is given."""
    script: str | None = None
    """The program, a Python file."""
    args: tuple[str, ...] = ()
    """Further arguments of the script."""
    repo: str | None = None
    """The checkout that the runner drives."""
    people: tuple[int, int] = (1, 8)
    """Fewest and most people in one image."""
    faces: bool = False
    """Whether every reference must show a face, of which the runner gets box and points."""
    prompt: bool = True
    """Whether a request needs a prompt."""
    multiple: int = Field(default=1, ge=1)
    """Width and height must be multiples of it."""
    env: dict[str, str] = Field(default_factory=dict)
    """Environment variables with values that may be seen by anyone."""
    pass_env: tuple[str, ...] = ()
    """Names of variables that the runner gets as they are here; their values are kept out of logs."""
    timeout_s: float = Field(default=600.0, gt=0)
    """Seconds for one image."""
    start_timeout_s: float = Field(default=1800.0, gt=0)
    """Seconds until the runner must be ready."""
    heartbeat_s: float = Field(default=120.0, gt=0)
    """Seconds without a message after which a runner that promises heartbeats is taken to hang."""
    restarts: int = Field(default=5, ge=0)
    """Deaths in a row, without an answer in between, that are made good by a new start."""
    in_flight: int = Field(default=1, ge=1, le=64)
    """Requests that the runner holds at a time."""
    stop_s: float = Field(default=10.0, ge=0, le=600)
    """Seconds that the runner has to end by itself, and once more after SIGTERM."""

    @model_validator(mode="before")
    @classmethod
    def _defaults_of_runner(cls, values: Any) -> Any:
        if not isinstance(values, dict) or not isinstance(values.get("runner"), str):
            return values
        try:
            return {**definition(values["runner"]).settings, **values}
        except UsageError as error:
            raise ValueError(str(error)) from error

    @model_validator(mode="after")
    def _checked(self) -> CommandSettings:
        known = list(type(self).model_fields)
        own = definition(self.runner).settings if self.runner else None
        for key in self.model_extra or {}:
            guess = nearest(key, known)
            if own is not None and key not in own:
                raise ValueError(f"runner {self.runner!r} has no setting {key!r}; it has {', '.join(own)}")
            if own is None and guess is not None and _alike(key, guess):
                raise ValueError(f"unknown setting {key!r}: {guess!r} is meant?")
        for key in self.env:
            if _SECRET.search(key):
                raise ValueError(f"env: {key} looks like a secret; set it in the environment and list it in pass_env")
        if self.people[0] > self.people[1] or self.people[0] < 0:
            raise ValueError(f"people: fewest and most, got {list(self.people)}")
        return self


PATIENCE = ("timeout_s", "start_timeout_s", "heartbeat_s", "restarts", "in_flight", "stop_s")
"""How patiently a runner is run: no image depends on it."""


def why_no_command(settings: CommandSettings, ready: Definition | None) -> str | None:
    given = [name for name in ("argv", "python", "venv", "environment") if getattr(settings, name) is not None]
    if settings.environment == "own" and len(given) > 1:  # what stands in the shipped file, and what the user has
        given.remove("environment")
    if len(given) != 1:
        has = f"has {' and '.join(given)}" if given else "has none"
        return f"it needs one of the settings argv, python, venv, environment, and {has}"
    if settings.argv is not None:
        program = settings.argv[0]
        return None if shutil.which(program) else f"its program {program} is not here"
    script = script_of(settings)
    if script is None:
        return "it needs the setting script, or a ready runner (setting runner)"
    if not script.is_file():
        return f"its script {script} is not here"
    interpreter = interpreter_of(settings)
    if interpreter is not None:
        return None if shutil.which(str(interpreter)) else f"its interpreter {interpreter} is not here"
    if settings.environment == "own" and ready is None:
        return "environment: own is for ready runners (setting runner)"
    if not is_made(environment_of(settings)) and shutil.which("uv") is None:
        return "its environment is to be made by uv, which is not on PATH"
    return None


def why_no_repo(settings: CommandSettings, ready: Definition | None, slots: Collection[str]) -> str | None:
    if ready is not None and settings.repo is None and settings.argv is None:
        return f"it needs the setting repo, a checkout of {ready.repository} at {ready.revision[:10]}"
    if settings.repo is not None and not path_of(settings.repo).is_dir():
        return f"its checkout {settings.repo} is not here"
    for slot, published in (ready.models if ready else {}).items():
        if slot not in slots:
            return f"its model slot {slot!r} ({published}) is not bound"
    return None


def script_of(settings: CommandSettings) -> Path | None:
    if settings.script is not None:
        return path_of(settings.script)
    return definition(settings.runner).path if settings.runner else None


def interpreter_of(settings: CommandSettings) -> Path | None:
    if settings.python is not None:
        found = shutil.which(os.path.expanduser(settings.python))  # noqa: PTH111 - a name on PATH stays a name
        return Path(found).absolute() if found else path_of(settings.python)
    return None if settings.venv is None else path_of(settings.venv) / "bin" / "python"


def environment_of(settings: CommandSettings) -> EnvironmentSettings:
    if isinstance(settings.environment, EnvironmentSettings):
        return settings.environment
    if settings.runner is None:
        raise MissingError("environment: own is for ready runners.", "Give the setting runner.")
    return EnvironmentSettings.model_validate(definition(settings.runner).environment)


def path_of(text: str) -> Path:
    return Path(text).expanduser().absolute()


def _alike(key: str, guess: str) -> bool:
    return difflib.SequenceMatcher(None, key.lower(), guess).ratio() > 0.84
