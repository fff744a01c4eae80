"""Methods on the SD runtime, for tests: configured over tiny checkpoints, run through the pipeline or by themselves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import yaml

from idtool.config import packaged_text
from idtool.engine.operator import Context
from idtool.engine.step import Binding
from idtool.generate.method import Method, Person, Request, with_changes
from idtool.generate.methods import resolve
from idtool.models.faces import Face
from tests.generate.made import configuration

FACE = {"model": "arcface-mbf"}
VISION = {"model": "hf:tiny/clip"}


def file(name: str, file: str) -> dict[str, Any]:
    """A binding to one file of a tiny checkpoint."""
    return {"model": f"hf:tiny/{name}", "options": {"file": file}}


def pipelines(folder: Path, kind: str, models: dict[str, Any], **settings: Any) -> Path:
    """The packaged pipelines.yaml with the method `tiny` of a kind, 64 px and two steps."""
    content = yaml.safe_load(packaged_text())
    bound = {slot: {"licence": "random weights", **one} for slot, one in models.items()}
    values = {"width": 64, "height": 64, "steps": 2, **settings}
    content["methods"]["tiny"] = {"kind": kind, "models": bound, "settings": values}
    path = folder / f"{kind}.yaml"
    path.write_text(yaml.safe_dump(content, sort_keys=False), "utf-8")
    return path


def loaded(folder: Path, kind: str, models: dict[str, Any], **settings: Any) -> Method:
    """The method by itself, ready."""
    cls, spec = resolve(configuration(pipelines(folder, kind, models, **settings)), "tiny")
    method = cls(spec, {"faces": [Binding("faces", "scrfd-500m")]})
    method.load(Context(str(folder), 0, "cpu"))
    return method


def face(shift: float = 0.0) -> Face:
    """A face in the middle of a picture of 128 px."""
    points = np.array([[50, 52], [78, 52], [64, 68], [53, 84], [75, 84]], np.float32) + shift
    return Face(np.array([38, 32, 90, 98], np.float32) + shift, 0.9, points)


def person(seed: int, **values: Any) -> Person:
    """Somebody made of noise."""
    draw = np.random.default_rng(seed)
    image = draw.integers(0, 256, (128, 128, 3), dtype=np.uint8)
    return Person(f"file:{seed}.png", image, face(float(seed % 5)), **values)


def request(method: Method, prompt: str, seed: int, *people: Person, **values: Any) -> Request:
    """A request of a method's own size; `values`: changes to settings, and `negative`, `width`, `height`."""
    own = {key: values.pop(key) for key in ("negative", "width", "height") if key in values}
    settings = with_changes(method.spec.settings, values)
    return Request(
        id=f"{prompt}{seed}",
        prompt=prompt,
        people=people or (person(seed),),
        seed=seed,
        width=own.get("width", settings.width),
        height=own.get("height", settings.height),
        settings=settings,
        negative=own.get("negative"),
    )


def images(method: Method, *requests: Request) -> list[np.ndarray]:
    """One batch."""
    made = method.generate(requests)
    for one in made:
        assert not isinstance(one, Exception), one
    return [one.image for one in made]


def alike(one: np.ndarray, other: np.ndarray) -> int:
    """Levels of difference, at most."""
    return int(np.abs(one.astype(int) - other.astype(int)).max())
