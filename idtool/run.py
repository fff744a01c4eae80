"""A run: one directory that holds everything a recipe computed, with a manifest that says how (DESIGN §1, §2).

run.json              manifest: recipe, profile, inputs, every step with its fingerprint and counts
recipe.yaml           the resolved recipe
steps/NN-name/        table/*.parquet, step.json (written last: the step is complete), parts/ while it runs
rejects/NN-name.parquet
media/                content-addressed images
dataset/  report.html
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import socket
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from idtool import __version__
from idtool.engine.plan import step_dir
from idtool.engine.table import Table
from idtool.errors import UsageError

MANIFEST = "run.json"
FORMAT = 1

REJECT_COLUMNS = ("id", "uri", "name", "media", "reason", "value", "threshold", "message", "status")


class Run:
    """A run directory. `Run(path)` opens one to read; `Run.create(path)` makes it or opens it to go on."""

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path).absolute()
        self._lock: int | None = None
        manifest = self.path / MANIFEST
        if not manifest.is_file():
            raise UsageError(
                f"{path} is not a run: it has no {MANIFEST}.", "Give the folder that `idtool curate --output` wrote."
            )
        try:
            self.manifest: dict[str, Any] = json.loads(manifest.read_text(encoding="utf-8"))
        except ValueError as error:
            raise UsageError(f"{manifest} is damaged: {error}.", "Delete the run, or restore the file.") from error
        if self.manifest.get("format", FORMAT) > FORMAT:
            raise UsageError(f"{path} was written by a newer idtool.", "Upgrade idtool to read it.")

    @classmethod
    def create(cls, path: Path | str) -> Run:
        """Open the run at `path` for writing, making it if it is not there. Raises UsageError when the folder
        holds something else or cannot be written."""
        local_only(path)
        folder = Path(path).absolute()
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if not (folder / MANIFEST).exists():
                strangers = [entry.name for entry in folder.iterdir() if not entry.name.startswith(".")]
                if strangers:
                    raise UsageError(
                        f"{path} is not empty and is not a run (it holds {strangers[0]!r}).",
                        "Choose another --output.",
                    )
                now = datetime.now(UTC).isoformat(timespec="seconds")
                write_json(folder / MANIFEST, {"idtool": __version__, "format": FORMAT, "created": now, "steps": []})
        except OSError as error:
            raise UsageError(
                f"Cannot write to {path}: {error.strerror or error}.", "Choose a writable folder with --output."
            ) from error
        return cls(folder)

    def lock(self) -> None:
        """Keep other processes from writing to this run. The system lets go when the process ends, however."""
        self._lock = lock_folder(self.path)

    def unlock(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def __enter__(self) -> Run:
        self.lock()
        return self

    def __exit__(self, *_: object) -> None:
        self.unlock()

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

    def save(self, **changes: Any) -> None:
        """Write the manifest, with `changes` at its top level."""
        self.manifest.update(changes)
        self.manifest["updated"] = datetime.now(UTC).isoformat(timespec="seconds")
        write_json(self.path / MANIFEST, self.manifest)


def local_only(path: Path | str) -> None:
    """UsageError for an output that was given as a URL: as a path it would be a folder called `s3:`."""
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]+:/", str(path)):
        raise UsageError(
            f"--output {path}: what is computed lies on a local or mounted disk, not behind a URL.",
            "Give a folder; send what is finished elsewhere.",
        )


def lock_folder(path: Path) -> int:
    """A handle that keeps other processes from locking the folder until it is closed. UsageError when one has."""
    handle = os.open(path / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.read(handle, 200).decode(errors="replace").strip() or "another process"
        os.close(handle)
        raise UsageError(f"{path} is in use by {holder}.", "Wait for it, or choose another --output.") from None
    os.truncate(handle, 0)
    os.pwrite(handle, f"process {os.getpid()} on {socket.gethostname()}".encode(), 0)
    return handle


def write_json(path: Path, content: Any) -> None:
    """Write JSON so that the file is either the old one or the new one, never half of it."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "w", encoding="utf-8") as sink:
            json.dump(content, sink, indent=1, ensure_ascii=False, allow_nan=False, default=str)
            sink.flush()
            os.fsync(sink.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
