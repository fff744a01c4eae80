"""Checkpoints of several state dicts in one file, as `torch.save` writes nested ones and safetensors flat ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from idtool.errors import MissingError
from idtool.models import torch_runtime


def sections(
    path: Path, names: Sequence[str], what: str, *, other_names: Mapping[str, str] | None = None
) -> dict[str, dict[str, Tensor]]:
    """The state dicts of a file by name: `{"proj_module": {...}, ...}`, or flat with names before the first dots.

    `other_names`: what some files call a section -> its name here.
    No pickle is executed. MissingError when a section is missing, unknown, empty or holds anything but tensors.
    """
    with torch_runtime.as_missing(what):
        state = torch_runtime.read_file(path)
    found: dict[str, dict[str, Tensor]] = {}
    for name, value in state.items() if isinstance(state, Mapping) else ():
        entries = value.items() if isinstance(value, Mapping) else [(str(name).partition(".")[2], value)]
        section = str(name) if isinstance(value, Mapping) else str(name).partition(".")[0]
        for key, tensor in entries:
            if not key or not torch.is_tensor(tensor):
                raise MissingError(f"{what} holds {name}, which is no tensor of a section.", _hint(names))
            found.setdefault((other_names or {}).get(section, section), {})[str(key)] = tensor
    missing, unexpected = sorted(set(names) - set(found)), sorted(set(found) - set(names))
    if missing or unexpected:
        told = [f"{sort} {', '.join(some[:3])}" for sort, some in (("misses", missing), ("has", unexpected)) if some]
        raise MissingError(f"{what} is no checkpoint of this method: it {' and '.join(told)}.", _hint(names))
    return found


def _hint(names: Sequence[str]) -> str:
    return f"Name a file whose sections are {', '.join(names)}."
