"""Runs of the methods on the FLUX runtime for tests: tiny checkpoints, a pipelines.yaml with the methods on them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import yaml

from idtool.config import packaged_text
from idtool.engine.operator import Context
from idtool.generate import methods
from idtool.generate.method import Method, Person, Request, with_changes
from idtool.generate.requests import Wish
from idtool.media.images import decode
from idtool.models.faces import Face
from idtool.run import Run
from tests.generate.made import configuration, run, table
from tests.zoo import Zoo, parsing

SMALL = {"width": 64, "height": 64, "steps": 2, "text_length": 32}


def tiny(name: str, file: str | None = None, **options: Any) -> dict[str, Any]:
    """The binding of a tiny checkpoint."""
    return {
        "model": f"hf:tiny/{name}",
        "licence": "random weights",
        "options": {**options, **({"file": file} if file else {})},
    }


def offline(name: str) -> dict[str, Any]:
    """The binding of a model of the catalogue."""
    return {"model": name, "licence": "see the catalogue"}


MODELS: dict[str, dict[str, dict[str, Any]]] = {
    "ominicontrol": {"base": tiny("flux-schnell"), "adapter": tiny("ominicontrol", "omini/subject_512.safetensors")},
    "dmid": {"base": tiny("flux"), "adapter": tiny("dmid", "dmid.safetensors")},
    "instruct-identity": {"base": tiny("flux"), "adapter": tiny("instruct-identity", "lora.safetensors")},
    "regional": {"base": tiny("flux")},
    "pulid": {
        "base": tiny("flux"),
        "adapter": tiny("pulid", "pulid_flux_v0.9.1.safetensors"),
        "face": offline("arcface-mbf"),
        "vision": tiny("eva"),
        "parser": tiny("bisenet", parsing.FILE, format="bisenet"),
    },
    "infiniteyou": {
        "base": tiny("flux"),
        "adapter": tiny("infiniteyou"),
        "face": tiny("irse50", "recognition_arcface_ir_se50.pth"),
    },
    "dsd": {"base": tiny("flux"), "adapter": tiny("dsd")},
}
DEFAULTS: dict[str, dict[str, Any]] = {
    "ominicontrol": {"condition_size": 32, "position_delta": [0, 4]},
    "pulid": {"start_step": 1},
}


def _packaged() -> dict[str, Any]:
    """The packaged pipelines.yaml with one profile and one recipe: quicker to write and to check."""
    content = yaml.load(packaged_text(), getattr(yaml, "CSafeLoader", yaml.SafeLoader))  # noqa: S506
    content["profiles"] = {"offline": content["profiles"]["offline"]}
    content["recipes"] = {"none": {"summary": "not used", "steps": [{"step": "ingest"}]}}
    return {**content, "auto": ["offline"]}


def config_file(folder: Path, zoo: Zoo, kind: str, models: dict[str, Any] | None = None, **settings: Any) -> Path:
    """A pipelines.yaml in which method `mine` is of a kind, its tiny checkpoints built."""
    bound = {**MODELS[kind], **(models or {})}
    zoo(*(one["model"].removeprefix("hf:tiny/") for one in bound.values() if one["model"].startswith("hf:tiny/")))
    content = _packaged()
    settings = {**SMALL, **DEFAULTS.get(kind, {}), **settings}
    content["methods"] = {"mine": {"kind": kind, "models": bound, "settings": settings}}
    path = folder / f"{kind}.yaml"
    path.write_text(yaml.safe_dump(content, sort_keys=False, allow_unicode=True), "utf-8")
    return path


def made(config: Path, output: Path, *wishes: Wish, **options: Any) -> list[dict[str, Any]]:
    """The rows of a run of `mine`."""
    run("mine", list(wishes), output, config=config, **options)
    return table(output)


def picture(output: Path, row: dict[str, Any]) -> npt.NDArray[np.uint8]:
    """The image of a row."""
    return decode((Run(output).store_root / row["media"].removeprefix("store:")).read_bytes())


def loaded(config: Path, folder: Path, **sets: Any) -> Method:
    """The method `mine`, loaded on the CPU."""
    file = configuration(config)
    cls, spec = methods.resolve(file, "mine", sets)
    method = cls(spec, file.profile("offline").bindings())
    method.load(Context(str(folder)))
    return method


def latents(method: Any, *requests: Any) -> Any:
    """Packed latents (B, N, channels) of requests that are alike: where small differences still show."""
    import torch

    from idtool.generate.flux import sampling

    with torch.inference_mode():
        return sampling.sample(method.pipe, method.job(requests), method.changes(requests))


def request(
    method: Method, *people: Person, prompt: str = "a man in a garden", seed: int = 0, **settings: Any
) -> Request:
    """A request as the step makes it."""
    chosen = with_changes(method.spec.settings, settings)
    negative = chosen.negative_prompt
    return Request(f"{prompt} {seed}", prompt, people, seed, chosen.width, chosen.height, chosen, negative)


def photo(height: int = 96, width: int = 64, seed: int = 0) -> Person:
    """A reference of noise, its face said to be at the top left."""
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    kps = np.array([[20, 18], [40, 18], [30, 26], [22, 34], [38, 34]], np.float32)
    return Person("photo", pixels, Face(np.array([10, 4, 50, 44], np.float32), 0.9, kps))
