"""Options that several commands share, and how results and errors are printed. Imports nothing heavy."""

from __future__ import annotations

import json
import math
import os
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from idtool.config import ConfigFile


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
    """Weights are looked for in this mirror first; the environment carries it to worker processes."""
    if folder is not None:
        os.environ["IDTOOL_MODELS"] = str(folder)


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


def _finite(value: Any) -> Any:
    """`value` with null for what JSON has no number for: NaN and infinities."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return value
