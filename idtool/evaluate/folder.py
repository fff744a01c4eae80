"""The folder of a benchmark: where everything lies, its manifest, its lock.

bench.json            manifest: suite, profile, methods with their states, metrics with their fingerprints
suite.yaml            the suite as it was resolved
methods/<m>/          a run of `idtool generate`
scores/<m>/           samples/, features/<measure>/
references/ prompts/  what networks saw of them
scores.parquet  samples.parquet  report.parquet  report.html  report.md
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

from idtool import __version__
from idtool.manifest_folder import ManifestFolder

MANIFEST = "bench.json"


def images_entry(
    summary: str, count: int, *, licence: str | None = None, conditions_on: str | None = None
) -> dict[str, Any]:
    """Manifest entry of a method whose images were there already, however they were made."""
    return {
        "summary": summary,
        "kind": "images",
        "baseline": False,
        "licence": licence,
        "conditions_on": conditions_on,
        "models": [],
        "settings": {},
        "state": "scored",
        "why": "",
        "requested": count,
        "made": count,
        "rejected": 0,
        "errors": 0,
        "reasons": {},
    }


def images_suite(name: str, summary: str, hash_: str, people: int) -> dict[str, Any]:
    """What stands for the suite of such images. `people`: in one of them, at most."""
    return {
        "name": name,
        "summary": summary,
        "paper": None,
        "hash": hash_,
        "people": people,
        "primary": {"identity": "facesim", "prompt": "clip_t"},
    }


class Bench(ManifestFolder):
    """A benchmark's folder. `Bench(path)` opens one to read; `Bench.create(path)` makes it, or goes on with it."""

    file = MANIFEST
    noun = "folder"
    other = "is no benchmark"
    writer = "idtool bench"
    fresh: ClassVar[dict[str, Any]] = {"methods": {}, "metrics": {}}

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
        """As of any manifest; the version is that of who scored last."""
        super().save(idtool=__version__, **changes)
