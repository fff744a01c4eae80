"""Ready runners for official repositories: what each needs (`<name>.yaml`) and the script that talks to idtool.

The scripts run in environments of their own, on Python 3.9 or newer, without idtool; `protocol.py` is all they share.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict

from idtool.errors import UsageError
from idtool.registry import did_you_mean

FOLDER = Path(__file__).parent


class Definition(BaseModel):
    """What is known of a repository that a runner drives."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    summary: str
    repository: str
    """Where its code is; the user checks it out."""
    revision: str
    """The commit that the script was written for."""
    licence: str
    """Of code and weights, as their authors state it."""
    conditions_on: str | None = None
    script: str
    """File beside the definition."""
    environment: dict[str, Any]
    """Python version and requirements, for `environment: own`."""
    models: dict[str, str] = {}
    """Slot -> published weights."""
    settings: dict[str, Any] = {}
    """Defaults: the repository's own, and what idtool must know of it (`people`, `faces`, size)."""

    @property
    def path(self) -> Path:
        """The script."""
        return FOLDER / self.script


def names() -> list[str]:
    """Every ready runner."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


@cache
def definition(name: str) -> Definition:
    """A ready runner. UsageError when there is none of that name."""
    if name not in names():
        raise UsageError(f"There is no ready runner {name!r}.", did_you_mean(name, names()))
    return Definition.model_validate(yaml.safe_load((FOLDER / f"{name}.yaml").read_text("utf-8")))
