"""What `idtool audit` does: the people of a suite against a training set, with a profile's networks."""

from __future__ import annotations

import contextlib
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from idtool import launch
from idtool.config import ConfigFile
from idtool.console import Reporter
from idtool.errors import QualityError
from idtool.evaluate.audit import Limits
from idtool.evaluate.audit import audit as search
from idtool.evaluate.features import Runtime
from idtool.evaluate.identities import read_identities
from idtool.evaluate.suite import load_suite
from idtool.generate.pipeline import surroundings


@dataclass(frozen=True)
class AuditRequest:
    """The options of `idtool audit`, nothing resolved yet."""

    dataset: str
    suite: str = "smoke"
    identities: str | None = None
    same_person: float | None = None
    """Cosine of one person; None: as calibrated for the network."""
    profile: str = "auto"
    output: Path | None = None
    """None: `idtool-runs/audit`."""
    engine: str = "auto"
    address: str | None = None
    workers: int | None = None
    device: str = "auto"
    models_dir: Path | None = None


def audit(file: ConfigFile, request: AuditRequest, progress: Reporter) -> dict[str, Any]:
    """Look for leaks; returns what was found. Raises QualityError (exit 3) when there is any."""
    suite = load_suite(request.suite)
    env, reason = surroundings(file, request)
    output = request.output or Path("idtool-runs") / "audit"
    progress.note(f"profile {env.profile}: {reason}")
    source = request.identities or suite.identities.source
    people = read_identities(source, folder=output / "pictures", announce=progress.note)
    runtime = Runtime.of(env, request, progress)
    with launch.clean_stop(output), contextlib.redirect_stdout(sys.stderr):
        found = search(request.dataset, people, output, runtime, Limits(same_person=request.same_person))
    result = found.as_dict()
    if found.found:
        told = ", ".join(f"{kind} {count}" for kind, count in found.found.items())
        error = QualityError(
            f"{request.dataset} has pictures of people of the benchmark: {told}.", f"See {found.path}; leave them out."
        )
        error.details = result
        raise error
    return result
