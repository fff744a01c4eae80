"""What `idtool evaluate` does: score images that are there already, whoever made them."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from idtool import launch
from idtool.config import ConfigFile
from idtool.console import Reporter
from idtool.engine.fingerprint import fingerprint
from idtool.errors import UsageError
from idtool.evaluate.bench import summary
from idtool.evaluate.features import Runtime
from idtool.evaluate.folder import Bench, images_entry, images_suite
from idtool.evaluate.metrics import METRICS
from idtool.evaluate.pictures import pictures, read_prompts, rows_of_folder, rows_of_table
from idtool.evaluate.report import write_reports
from idtool.evaluate.score_methods import score_methods
from idtool.evaluate.scoring import choose, parse_families
from idtool.generate.pipeline import surroundings
from idtool.media.manifest import MANIFEST_EXTENSIONS
from idtool.media.paths import to_uri


@dataclass(frozen=True)
class EvaluateRequest:
    """The options of `idtool evaluate`, nothing resolved yet."""

    images: tuple[str, ...]
    """Folders or tables, each `NAME=PATH` or a path; one per method that is compared."""
    refs: Path | None = None
    prompts: str | None = None
    metrics: tuple[str, ...] = ()
    """Families; empty: every one that the profile has networks for."""
    profile: str = "auto"
    output: Path | None = None
    """None: `idtool-runs/evaluate`."""
    seed: int = 0
    engine: str = "auto"
    address: str | None = None
    workers: int | None = None
    device: str = "auto"
    real: str | None = None
    force: bool = False
    max_error_rate: float = 0.01
    models_dir: Path | None = None

    @property
    def folder(self) -> Path:
        return self.output or Path("idtool-runs") / "evaluate"


def evaluate(file: ConfigFile, request: EvaluateRequest, progress: Reporter) -> dict[str, Any]:
    """Score the images; returns the summary, laid out as that of a benchmark. What was looked at stays, and the same
    request goes on. Raises the errors of `idtool.errors`."""
    env, reason = surroundings(file, request, request.seed)
    chosen = choose(parse_families(request.metrics, tuple(METRICS)), env)
    if not chosen.metrics:
        why = "; ".join(f"{family}: {text}" for family, text in chosen.skipped.items())
        raise UsageError(f"None of the metrics can be made here: {why}.", "Choose others, or another --profile.")
    sources = _named(request.images)
    rows = {name: list(_rows(source, request)) for name, source in sources.items()}
    with ExitStack() as stack:
        folder = stack.enter_context(Bench.create(request.folder))
        stack.enter_context(launch.clean_stop(request.folder))
        stack.enter_context(contextlib.redirect_stdout(sys.stderr))
        progress.note(f"profile {env.profile}: {reason}")
        for family, why in chosen.skipped.items():
            progress.note(f"{family}: skipped, {why}")
        if folder.manifest.get("profile") not in (None, env.profile):
            raise UsageError(
                f"{request.folder} holds scores of profile {folder.manifest['profile']}.", "Choose another --output."
            )
        folder.save(
            suite=images_suite(
                "images",
                "images that were there already",
                fingerprint(sorted({row["id"] for told in rows.values() for row in told})),
                max((len(row["references"]) for told in rows.values() for row in told), default=0),
            ),
            profile=env.profile,
            profile_reason=reason,
            device=env.device,
            seed=env.seed,
            identities=len({row["identity"] for told in rows.values() for row in told}),
            requests=max(len(told) for told in rows.values()),
            command=launch.recorded(launch.resume_command()),
            methods={name: images_entry(launch.recorded(sources[name]), len(told)) for name, told in rows.items()},
        )
        runtime = Runtime.of(env, request, progress, request.max_error_rate)
        real = [to_uri(str(path.absolute())) for path in pictures(Path(request.real))] if request.real else ()
        score_methods(folder, rows, chosen, runtime, real=real, force=request.force)
        write_reports(folder.path, seed=request.seed)
        return summary(folder.path)


def _named(images: Iterable[str]) -> dict[str, str]:
    """Name -> source. UsageError for two of one name."""
    found: dict[str, str] = {}
    for text in images:
        name, equals, source = text.partition("=")
        if not equals or "/" in name:
            name, source = Path(text.rstrip("/")).stem, text
        if name in found:
            raise UsageError(f"Two --images are called {name!r}.", "Name them: --images mine=DIR --images theirs=DIR.")
        found[name] = source
    return found


def _rows(source: str, request: EvaluateRequest) -> Iterable[Mapping[str, Any]]:
    if source.lower().endswith(MANIFEST_EXTENSIONS):
        return rows_of_table(source)
    prompts = read_prompts(request.prompts) if request.prompts else {}
    return rows_of_folder(Path(source), request.refs, prompts)
