"""The folder of a benchmark: where everything lies, its manifest, its lock.

bench.json            manifest: suite, profile, methods with their states, metrics with their fingerprints
suite.yaml            the suite as it was resolved
methods/<m>/          a run of `idtool generate`
scores/<m>/           samples/, features/<measure>/
references/ prompts/  what networks saw of them
scores.parquet  samples.parquet  report.parquet  report.html  report.md
"""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from idtool import __version__
from idtool.errors import UsageError
from idtool.run import local_only, lock_folder, write_json

MANIFEST = "bench.json"
FORMAT = 1


class Bench:
    """A benchmark's folder. `Bench(path)` opens one to read; `Bench.create(path)` makes it, or goes on with it."""

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path).absolute()
        self._lock: int | None = None
        manifest = self.path / MANIFEST
        if not manifest.is_file():
            raise UsageError(
                f"{path} is no benchmark: it has no {MANIFEST}.", "Give the folder that `idtool bench --output` wrote."
            )
        try:
            self.manifest: dict[str, Any] = json.loads(manifest.read_text(encoding="utf-8"))
        except ValueError as error:
            raise UsageError(f"{manifest} is damaged: {error}.", "Delete the folder, or restore the file.") from error
        if self.manifest.get("format", FORMAT) > FORMAT:
            raise UsageError(f"{path} was written by a newer idtool.", "Upgrade idtool to read it.")

    @classmethod
    def create(cls, path: Path | str) -> Bench:
        """Open the benchmark at `path` for writing. UsageError when the folder holds something else."""
        local_only(path)
        folder = Path(path).absolute()
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if not (folder / MANIFEST).exists():
                strangers = [entry.name for entry in folder.iterdir() if not entry.name.startswith(".")]
                if strangers:
                    raise UsageError(
                        f"{path} is not empty and is no benchmark (it holds {strangers[0]!r}).",
                        "Choose another --output.",
                    )
                write_json(
                    folder / MANIFEST,
                    {"idtool": __version__, "format": FORMAT, "created": _now(), "methods": {}, "metrics": {}},
                )
        except OSError as error:
            raise UsageError(
                f"Cannot write to {path}: {error.strerror or error}.", "Choose a writable folder with --output."
            ) from error
        return cls(folder)

    def __enter__(self) -> Bench:
        self._lock = lock_folder(self.path)
        return self

    def __exit__(self, *_: object) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def method(self, name: str) -> Path:
        """The generation run of a method."""
        return self.path / "methods" / name

    def scores(self, name: str) -> Path:
        """Samples and features of a method."""
        return self.path / "scores" / name

    @property
    def methods(self) -> dict[str, dict[str, Any]]:
        """Manifest entries of the methods, by name."""
        entries: dict[str, dict[str, Any]] = self.manifest.setdefault("methods", {})
        return entries

    def save(self, **changes: Any) -> None:
        """Write the manifest, with `changes` at its top level."""
        self.manifest.update(changes)
        self.manifest["idtool"] = __version__
        self.manifest["updated"] = _now()
        write_json(self.path / MANIFEST, self.manifest)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
