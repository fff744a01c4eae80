"""Runners that misbehave, for tests of kind `command`, and a pipelines.yaml with nothing but the methods of a test."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from idtool.config import packaged_text

FOLDER = Path(__file__).parent


def bare_pipelines(path: Path, **methods: dict[str, Any]) -> Path:
    """A pipelines.yaml whose profile `bare` binds no role."""
    content = yaml.safe_load(packaged_text())
    content["profiles"]["bare"] = {"summary": "nothing", "device": "cpu", "roles": {}}
    content["methods"] = methods
    path.write_text(yaml.safe_dump(content, sort_keys=False, allow_unicode=True), "utf-8")
    return path
