"""Errors that are the user's to fix: one clear sentence each, no traceback, and the exit code of the CLI."""

from __future__ import annotations

from typing import Any


class IdtoolError(Exception):
    """Something the user has to act on. `message` says what and where, `hint` what to do."""

    exit_code = 1

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.details: dict[str, Any] = {}
        """What `--json` prints of the work up to the error."""

    def __reduce__(self) -> tuple[type[IdtoolError], tuple[str, str]]:
        return type(self), (self.message, self.hint)

    def __str__(self) -> str:
        return f"{self.message} {self.hint}".rstrip()


class RunFailed(IdtoolError):
    """The run could not be completed; what was computed is kept (exit 1)."""

    exit_code = 1


class UsageError(IdtoolError):
    """Bad arguments, configuration or input (exit 2)."""

    exit_code = 2


class QualityError(IdtoolError):
    """A quality gate or a regression threshold was not met (exit 3)."""

    exit_code = 3


class MissingError(IdtoolError):
    """A model, package, device or file that is needed is not here (exit 4)."""

    exit_code = 4


class Interrupted(IdtoolError):
    """Stopped by the user; the same command resumes (exit 130)."""

    exit_code = 130
