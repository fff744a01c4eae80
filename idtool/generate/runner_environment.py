"""Environments of runners, made on request with uv: once for each Python version and list of requirements, in the
cache."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated

from pydantic import Field, StringConstraints, field_validator

from idtool.engine.step import Settings
from idtool.errors import MissingError
from idtool.models.weights import cache_dir

TIMEOUT_S = 3600.0
"""Seconds that one call of uv may take: environments with PyTorch are gigabytes."""
_DONE = "idtool-environment.json"
"""Written last, so that a folder without it was left half made."""


class EnvironmentSettings(Settings):
    """What an environment holds."""

    python: Annotated[str, StringConstraints(pattern=r"^3\.\d{1,2}(\.\d{1,2})?$")] = "3.10"
    """Version of the interpreter, which must be on this machine or be one that uv can fetch."""
    requirements: tuple[str, ...] = Field(default=(), max_length=200)
    """As in a requirements file, a requirement each; options are not taken."""

    @field_validator("requirements")
    @classmethod
    def _no_options(cls, requirements: tuple[str, ...]) -> tuple[str, ...]:
        for one in requirements:
            if not one.strip() or one.lstrip().startswith("-") or "\n" in one:
                raise ValueError(f"{one!r} is no requirement")
        return requirements

    @property
    def key(self) -> str:
        """Tells environments apart."""
        content = json.dumps([self.python, sorted(self.requirements)])
        return hashlib.sha256(content.encode()).hexdigest()[:24]


def folder_of(settings: EnvironmentSettings) -> Path:
    """Where the environment is, or would be."""
    return cache_dir() / "environments" / settings.key


def is_made(settings: EnvironmentSettings) -> bool:
    return (folder_of(settings) / _DONE).is_file()


def python_of(settings: EnvironmentSettings, announce: Callable[[str], None] | None = None) -> Path:
    """The interpreter of an environment, made now when it is not there. MissingError when it cannot be made."""
    folder = folder_of(settings)
    interpreter = folder / "bin" / "python"
    if is_made(settings):
        return interpreter
    if os.environ.get("IDTOOL_OFFLINE") == "1":
        raise MissingError("A runner's environment is not made yet, and IDTOOL_OFFLINE=1 forbids it.", "Unset it once.")
    uv = shutil.which("uv")
    if uv is None:
        raise MissingError(
            "`environment` needs uv, which is not on PATH.",
            "Install uv, or make the environment yourself and give `python` or `venv`.",
        )
    folder.parent.mkdir(parents=True, exist_ok=True)
    with _locked(folder.with_suffix(".lock")):
        if is_made(settings):  # by another process, while this one waited
            return interpreter
        shutil.rmtree(folder, ignore_errors=True)
        if announce is not None:
            announce(
                f"Making an environment with Python {settings.python} for {len(settings.requirements)} requirement(s)"
            )
        _uv(uv, "venv", "--no-project", "--python", settings.python, str(folder))
        if settings.requirements:
            listed = folder / "requirements.txt"
            listed.write_text("\n".join(settings.requirements) + "\n", "utf-8")
            _uv(uv, "pip", "install", "--python", str(interpreter), "--requirement", str(listed))
        (folder / _DONE).write_text(settings.model_dump_json(), "utf-8")
    return interpreter


def _uv(uv: str, *arguments: str) -> None:
    # The caller's own environment must not be taken for the one that is meant.
    environment = {key: value for key, value in os.environ.items() if key not in ("VIRTUAL_ENV", "PYTHONPATH")}
    try:
        done = subprocess.run(
            [uv, *arguments, "--quiet"],
            cwd=cache_dir(),  # not where a pyproject.toml would have its say
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise MissingError(f"uv {arguments[0]} took more than {TIMEOUT_S:g} s.") from None
    if done.returncode:
        words = " ".join(done.stderr.decode("utf-8", "replace").split())[-400:]
        raise MissingError(
            f"A runner's environment cannot be made: uv {arguments[0]} ended with {done.returncode}: {words}",
            "Correct `environment`, or give `python` or `venv`.",
        )


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    import fcntl

    with open(path, "ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
