"""A run: one directory that holds everything a recipe computed, with a manifest that says how (DESIGN §1, §2).

run.json              manifest: recipe, profile, inputs, every step with its fingerprint and counts
recipe.yaml           the resolved recipe
steps/NN-name/        table/*.parquet, step.json (written last: the step is complete), parts/ while it runs
rejects/NN-name.parquet
media/                content-addressed images
dataset/  report.html
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa
import pyarrow.parquet as pq

from idtool.engine.plan import step_dir
from idtool.engine.table import Table
from idtool.errors import UsageError
from idtool.manifest_folder import ManifestFolder

MANIFEST = "run.json"
REJECT_COLUMNS = ("id", "uri", "name", "media", "reason", "value", "threshold", "message", "status")


class Run(ManifestFolder):
    """A run directory. `Run(path)` opens one to read; `Run.create(path)` makes it or opens it to go on."""

    file = MANIFEST
    noun = "run"
    other = "is not a run"
    writer = "idtool curate"
    fresh: ClassVar[dict[str, Any]] = {"steps": []}

    @property
    def store_root(self) -> Path:
        return self.path / "media"

    def step_dir(self, index: int, name: str) -> Path:
        return step_dir(self.path, index, name)

    @property
    def steps(self) -> list[dict[str, Any]]:
        """Manifest entries of the recipe's steps, in order."""
        entries: list[dict[str, Any]] = self.manifest.get("steps", [])
        return entries

    def entry(self, step: str | int) -> dict[str, Any]:
        """The manifest entry of a step, by name or by index. Raises UsageError when there is none."""
        for entry in self.steps:
            if step in (entry["name"], entry["index"]):
                return entry
        names = ", ".join(entry["name"] for entry in self.steps)
        raise UsageError(f"{self.path} has no step {step!r}.", f"It has: {names}.")

    def step_table(self, step: str | int) -> Table:
        """The table of a finished step."""
        entry = self.entry(step)
        table = Table(self.step_dir(entry["index"], entry["name"]) / "table")
        if entry["state"] != "done" or not table.files:
            raise UsageError(f"step {entry['name']!r} of {self.path} is not done.", "Run the same command to go on.")
        return table

    def rejects(self, columns: list[str] | None = None) -> Iterator[pa.Table]:
        """Rejected and failed rows of all steps, in recipe order, a table per step."""
        for entry in self.steps:
            path = self.path / "rejects" / f"{entry['index']:02d}-{entry['name']}.parquet"
            if entry["state"] == "done" and path.exists():
                yield pq.read_table(path, columns=columns)
