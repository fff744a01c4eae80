"""What a person asked `idtool plan` or `idtool curate` to do, as one value."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

Engine = Literal["auto", "local", "ray"]
Device = Literal["auto", "cpu", "cuda", "mps"]


@dataclass(frozen=True)
class CurateRequest:
    """The options of `plan` and `curate` (DESIGN §9), nothing resolved yet."""

    recipe: str = "dmid"
    config: Path | None = None
    """A pipelines.yaml; None: the one in the working directory, else the packaged one."""
    profile: str = "auto"
    inputs: tuple[str, ...] = ()
    """Folders, files, manifests or fsspec URLs; empty: the built-in sample."""
    output: Path | None = None
    """The run directory; None: `idtool-runs/<recipe>`."""
    sets: tuple[str, ...] = field(default_factory=tuple)
    """`step.key…=value` overrides, later ones winning."""
    engine: Engine = "auto"
    address: str | None = None
    """Of a Ray cluster."""
    workers: int | None = None
    limit: int | None = None
    """Take at most so many input rows."""
    seed: int = 0
    device: Device = "auto"
    only: Literal["errors"] | None = None
    """`errors`: retry just the rows that failed in the run."""
    models_dir: Path | None = None
    """A local mirror of weights."""

    @property
    def run_dir(self) -> Path:
        """Where the run goes."""
        return self.output or Path("idtool-runs") / self.recipe
