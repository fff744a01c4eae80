"""Options that several commands share, and how results and errors are printed. Imports nothing heavy."""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from idtool.config import ConfigFile
    from idtool.console import Reporter


_HALF = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True)
class Verbosity:
    """What -v and -q ask for."""

    verbose: int = 0
    quiet: bool = False


def lines_of(variable: str) -> Callable[[list[str] | None], list[str]]:
    """An option's callback: what was given, else the lines of an environment variable. (The parser's own reading of
    the environment would split at spaces, which paths may have.)"""

    def value(given: list[str] | None) -> list[str]:
        return list(given or [line for line in os.environ.get(variable, "").splitlines() if line])

    return value


Json = Annotated[bool, typer.Option("--json", envvar="IDTOOL_JSON", help="Print the result as JSON.")]
ConfigPath = Annotated[
    Path | None,
    typer.Option(
        "--config",
        envvar="IDTOOL_CONFIG",
        metavar="FILE",
        help="A pipelines.yaml. Else ./pipelines.yaml, else the packaged one.",
    ),
]
ModelsDir = Annotated[
    Path | None,
    typer.Option("--models-dir", envvar="IDTOOL_MODELS", metavar="DIR", help="A local mirror of weights."),
]
RunDir = Annotated[Path, typer.Argument(metavar="RUN", help="The folder that `idtool curate --output` wrote.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", envvar="IDTOOL_QUIET", help="No progress, only warnings.")]


def config_file(path: Path | None) -> ConfigFile:
    """The checked configuration, with the steps and the offline weights that are known here."""
    from idtool.config import load_config
    from idtool.curate.registry import STEPS
    from idtool.models.catalog import catalogue

    return load_config(path, STEPS, catalogue())


def use_models_dir(folder: Path | None) -> None:
    """--models-dir of a command that makes no request of its options."""
    from idtool.models.weights import use_mirror

    use_mirror(folder)


def emit(result: Any, as_json: bool, show: Callable[[Any], None]) -> None:
    """Print a result to standard output: as JSON, or for people by `show`. A reader that went away (`| head`) is no
    error."""
    try:
        if as_json:
            plain = (sys.stdout.encoding or "").lower().replace("-", "") != "utf8"
            text = json.dumps(_finite(result), indent=2, ensure_ascii=plain, allow_nan=False, default=str)
            # A file name that is no UTF-8 is held in half characters, which JSON can write as escapes only.
            sys.stdout.write(_HALF.sub(lambda match: f"\\u{ord(match[0]):04x}", text) + "\n")
        else:
            show(result)
        sys.stdout.flush()
    except BrokenPipeError:
        # What is still buffered goes nowhere, or Python would complain when it flushes at its end.
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


@contextlib.contextmanager
def failures_told(as_json: bool, show: Callable[[Any], None] | None = None) -> Iterator[None]:
    """What a command computed before it failed is printed all the same: with --json, and, where `show` is given, for
    people. The error goes on."""
    from idtool.errors import IdtoolError

    try:
        yield
    except IdtoolError as error:
        if error.details and as_json:
            emit({**error.details, "error": str(error)}, as_json, lambda result: None)
        elif error.details and show:
            emit(error.details, as_json, show)
        raise


def carry_out(
    ctx: typer.Context,
    work: Callable[[Reporter], Any],
    quiet: bool,
    as_json: bool,
    show: Callable[[Any], None],
    *,
    failed: bool = False,
) -> None:
    """Do `work` under a progress reporter and print its result. `failed`: also show people what a run that failed
    came to."""
    from idtool.console import make_reporter

    verbosity: Verbosity = ctx.obj
    with (
        failures_told(as_json, show if failed else None),
        make_reporter(quiet=quiet or verbosity.quiet) as reporter,
    ):
        result = work(reporter)
    emit(result, as_json, show)


def _finite(value: Any) -> Any:
    """`value` with null for what JSON has no number for: NaN and infinities."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return value
