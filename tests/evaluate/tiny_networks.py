"""Tiny random networks, and metrics on them from end to end: the engine looks at pictures and prompts, the scorer
scores. Random weights prove that columns and formulas fit together, not that a number means anything."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from idtool.engine.step import Binding, Env
from idtool.evaluate import samples
from idtool.evaluate.features import ensure
from idtool.evaluate.scoring import Scorer, choose, images_of, look_at
from idtool.media import images
from tests.evaluate.offline import runtime
from tests.zoo import Zoo, profile

Pixels = np.ndarray[Any, np.dtype[np.uint8]]


def bound(zoo: Zoo, *roles: str, most: int = 3, beside: Env | None = None) -> Env:
    """The tiny profile's first `most` models of each role, their checkpoints built; other roles as in `beside`."""
    bindings = dict(beside.bindings) if beside else {}
    for role in roles:
        for name in sorted(profile.names(role)):
            zoo(name)
        bindings[role] = tuple(
            Binding(role, one["model"], options=one.get("options", {})) for one in profile.ROLES[role][:most]
        )
    return Env("tiny", bindings)


def photo(path: Path) -> Pixels:
    """As measures see it: upright, its colours in sRGB."""
    return np.array(images.decode(path.read_bytes()))


def saved(path: Path, pixels: Pixels) -> Path:
    Image.fromarray(pixels).save(path)
    return path


def row(key: str, media: Path, references: Iterable[Path] = (), prompt: str = "", **more: Any) -> dict[str, Any]:
    """A row of the sample table."""
    found = [str(path) for path in references]
    fixed = {"id": key, "media": str(media), "references": found, "people": ["someone"] * len(found)}
    return {**fixed, "identity": "someone", "prompt": prompt, "slices": "{}", "outcome": samples.MADE, **more}


def scored(folder: Path, env: Env, families: Iterable[str], rows: Iterable[Mapping[str, Any]]) -> Scored:
    """Metrics of the families of every row."""
    chosen = choose(families, env)
    assert not chosen.skipped, chosen.skipped
    told = sorted(rows, key=lambda one: str(one["id"]))
    how = runtime(env)
    table = samples.write(folder / "samples", told)
    references = look_at(
        folder / "references",
        "media",
        {uri for one in told for uri in one["references"]},
        chosen.measures("reference"),
        how,
    )
    prompts = look_at(folder / "prompts", "text", {one["prompt"] for one in told}, chosen.measures("prompt"), how)
    features = ensure(folder / "features", images_of(folder / "images", table), chosen.measures("image"), how, "tiny")
    return Scored(Scorer(chosen, references, prompts, features), table)


class Scored:
    """Scores by metric and sample."""

    def __init__(self, scorer: Scorer, table: Any) -> None:
        self.scorer = scorer
        rows = [one for batch in scorer.scores(table, "s", "tiny", "m") for one in batch.to_pylist()]
        self.values = {(one["metric"], one["sample"]): one["value"] for one in rows}
        self.missing = {(one["metric"], one["sample"]): one["missing"] for one in rows if one["missing"]}
        self.names = list(dict.fromkeys(one["metric"] for one in rows))

    def of(self, metric: str) -> list[float]:
        """The metric's values in the order of the samples' ids."""
        return [value for (name, _), value in sorted(self.values.items()) if name == metric]
