"""A YAML file as a pydantic model, with the file and line of everything that does not fit."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from idtool.config_errors import findings
from idtool.errors import UsageError
from idtool.yaml_source import Problem, dotted, line_of, parse

M = TypeVar("M", bound=BaseModel)


def read_model(path: Path, cls: type[M], hint: str) -> M:
    """The model in a file. UsageError lists every problem by line; `hint`: what to give when it cannot be read."""
    try:
        text = path.read_text("utf-8")
    except OSError as error:
        raise UsageError(f"Cannot read {path}: {error.strerror}.", hint) from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is not UTF-8 text: {error.reason} at byte {error.start}.") from error
    source = parse(text, str(path))
    problems = list(source.problems)
    model: M | None = None
    try:
        model = cls.model_validate(source.data if source.data is not None else {})
    except ValidationError as error:
        for at, what, key in findings(error, cls, source.data):
            where = source.where((*at, key) if key is not None else at)
            problems.append(Problem(where, f"{dotted(at)}: {what}" if at else what))
    if problems or model is None:
        raise UsageError("\n".join(str(problem) for problem in sorted(problems, key=line_of)))
    return model
