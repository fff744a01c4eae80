"""What tests of metrics share: the offline profile's networks on real photos, and samples put together by hand."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image as Pillow

from idtool.config import packaged_text
from idtool.config_models import Config
from idtool.engine.local import LocalExecutor
from idtool.engine.operator import Context
from idtool.engine.step import Binding, Env
from idtool.evaluate.features import Runtime
from idtool.evaluate.measures.base import Image, Item, Measure, in_order
from idtool.evaluate.samples import MADE, SCHEMA, Sample, key_of
from idtool.evaluate.scoring import look_at


class Silent:
    """A reporter that remembers its notes and says nothing."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def step_start(self, name: str, index: int, count: int, rows: int | None) -> None: ...
    def advance(self, name: str, kept: int, rejected: int, errors: int) -> None: ...
    def step_end(self, name: str, summary: dict[str, Any]) -> None: ...
    def warn(self, text: str) -> None: ...

    def note(self, text: str) -> None:
        self.notes.append(text)


def env(*roles: str, profile: str = "offline") -> Env:
    """A packaged profile, cut down to `roles` where any are named."""
    bound = Config.model_validate(yaml.safe_load(packaged_text())).profiles[profile].bindings()
    return Env(profile, {role: bound[role] for role in roles or bound})


def bound(roles: Mapping[str, Sequence[Mapping[str, Any]]]) -> Env:
    """A profile of other bindings, written as in pipelines.yaml."""
    return Env("own", {role: tuple(Binding(role, **one) for one in found) for role, found in roles.items()})


def photo(path: Path) -> Image:
    with Pillow.open(path) as opened:
        return np.array(opened.convert("RGB"))


def runtime(surroundings: Env, progress: Silent | None = None, **options: Any) -> Runtime:
    return Runtime(surroundings, lambda rows: LocalExecutor(1), progress or Silent(), **options)


def look(
    folder: Path, paths: Iterable[Path], measures: Sequence[type[Measure]], surroundings: Env | None = None
) -> dict[Path, Mapping[str, Any]]:
    """Path -> columns of the measures, made by the engine as a benchmark makes them."""
    found = list(paths)
    seen = look_at(folder, "media", map(str, found), in_order(list(measures)), runtime(surroundings or env()))
    assert not any(seen.why.values()), seen.why
    return {path: seen.rows[key_of(str(path))] for path in found}


def sample(
    image: Mapping[str, Any] | None,
    *references: Mapping[str, Any],
    identity: str = "someone",
    targets: Mapping[str, Any] | None = None,
    **row: Any,
) -> Sample:
    """A sample by the columns of its image (None: none was made) and of its references."""
    columns: dict[str, Any] = dict.fromkeys(SCHEMA.names)
    columns |= {"id": "s", "identity": identity, "outcome": MADE if image is not None else "error", "why": "no reason"}
    columns |= {"references": [f"r{k}" for k in range(len(references))], "slices": "{}", "prompt": "", **row}
    columns["targets"] = json.dumps(targets) if targets is not None else None
    return Sample(columns, image or {}, tuple(references))


def see(measure: type[Measure], bound: Env, items: Sequence[Item], folder: Path) -> list[Any]:
    """What a measure says of the items, which also keep it; no engine."""
    made = measure.made(bound)
    made.load(Context(run_dir=str(folder)))
    said = list(made(items))
    for item, values in zip(items, said, strict=True):
        if not isinstance(values, Exception):
            item.values.update(values)
    return said
