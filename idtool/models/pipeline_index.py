"""What the folder of a diffusers pipeline says of itself, before anything of it is loaded."""

from __future__ import annotations

import json
from typing import Any

from idtool.errors import MissingError
from idtool.models.sources import Weights

FILE = "model_index.json"


def index_of(weights: Weights) -> dict[str, Any]:
    """The folder's `model_index.json`: class, settings and parts of the pipeline. MissingError when there is none or it
    names no class."""
    path = weights.path / FILE
    what = f"Model {weights.model} ({weights.path})"
    if not path.is_file():
        raise MissingError(f"{what} is no diffusers pipeline: it has no {FILE}.", "Bind a diffusers folder.")
    try:
        index = json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise MissingError(f"{path} cannot be read: {error}.", "Fetch it again.") from error
    if not isinstance(index, dict) or not isinstance(index.get("_class_name"), str):
        raise MissingError(f"{path} names no class of pipeline.", "Fetch it again.")
    return index


def has_part(index: dict[str, Any], name: str) -> bool:
    """Whether the pipeline comes with a part such as `transformer_2`; left out or `[null, null]`: it does not."""
    part = index.get(name)
    return isinstance(part, list) and all(part)
