"""Methods on stock diffusers for tests: configured over tiny checkpoints, run through the pipeline or by themselves."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from idtool.config import packaged_text
from idtool.engine.operator import Context
from idtool.engine.step import Binding
from idtool.generate.diffusion import as_uint8
from idtool.generate.method import Method, Person, Request, Spec, with_changes
from idtool.generate.registry import METHODS
from idtool.media.images import decode
from idtool.models.faces import Face
from idtool.run import Run
from tests.generate.made import table
from tests.zoo import Zoo

Image = npt.NDArray[np.uint8]

SMALL = {"width": 64, "height": 64, "steps": 2}
FACE = {"model": "arcface-mbf"}
"""Stands in for the networks that the adapters were trained with: as wide as they are."""
CLOSE = 2
"""Levels of 255 by which an image may differ in a batch: float rounding on a CPU."""


def tiny(name: str, file: str | None = None) -> dict[str, Any]:
    """The binding of a tiny checkpoint, or of one file of it."""
    return {"model": f"hf:tiny/{name}", **({"options": {"file": file}} if file else {})}


def checkpoints(*names: str) -> Any:
    """A fixture for the whole of a module: the mirror, with these checkpoints in it."""

    @pytest.fixture(autouse=True)
    def built(tiny: Zoo) -> Zoo:
        tiny(*names)
        return tiny

    return built


def pipelines(folder: Path, kind: str, models: dict[str, Any], **settings: Any) -> Path:
    """The packaged pipelines.yaml with the method `tiny` of a kind, 64 px and two steps."""
    bound = {slot: {"licence": "random weights", **one} for slot, one in models.items()}
    entry = {"kind": kind, "models": bound, "settings": {**SMALL, **settings}}
    path = folder / f"{kind}.yaml"
    path.write_text(packaged_text().replace("\nmethods:\n", f"\nmethods:\n\n  tiny: {json.dumps(entry)}\n"), "utf-8")
    return path


def made(kind: str, models: dict[str, Any], **settings: Any) -> Method:
    """The method by itself, not loaded."""
    cls = METHODS.get(kind)
    bindings = {slot: Binding(slot, one["model"], options=one.get("options", {})) for slot, one in models.items()}
    return cls(Spec("tiny", kind, bindings, cls.Settings.model_validate({**SMALL, **settings})))


def loaded(kind: str, models: dict[str, Any], **settings: Any) -> Any:
    """The method by itself, ready."""
    method = made(kind, models, **settings)
    method.load(Context("", 0, "cpu"))
    return method


_READY: dict[str, Any] = {}


def ready(kind: str, models: dict[str, Any], **settings: Any) -> Any:
    """As `loaded`, one for all tests of a session that ask for the same."""
    key = json.dumps([kind, models, settings], sort_keys=True)
    if key not in _READY:
        _READY[key] = loaded(kind, models, **settings)
    return _READY[key]


def face(shift: float = 0.0) -> Face:
    """A face in the middle of a picture of 128 px."""
    points = np.array([[50, 52], [78, 52], [64, 68], [53, 84], [75, 84]], np.float32) + shift
    return Face(np.array([38, 32, 90, 98], np.float32) + shift, 0.9, points)


def person(seed: int, size: tuple[int, int] = (128, 128), **values: Any) -> Person:
    """Somebody made of noise."""
    draw = np.random.default_rng(seed)
    image = draw.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Person(f"file:{seed}.png", image, values.pop("face", face(float(seed % 5))), **values)


def request(method: Method, prompt: str, seed: int, *people: Person, **values: Any) -> Request:
    """A request of a method's own size; `values`: changes to settings, and parts of the request by name."""
    own = {key: values.pop(key) for key in ("negative", "width", "height", "people") if key in values}
    settings = with_changes(method.spec.settings, values)
    return Request(
        id=f"{prompt}{seed}",
        prompt=prompt,
        people=own.get("people", people or (person(seed),)),
        seed=seed,
        width=own.get("width", settings.width),
        height=own.get("height", settings.height),
        settings=settings,
        negative=own.get("negative", settings.negative_prompt),
    )


def images(method: Method, *requests: Request) -> list[Image]:
    """One batch."""
    found = []
    for one in method.generate(requests):
        assert not isinstance(one, Exception), one
        found.append(one.image)
    return found


def apart(one: Image, other: Image) -> int:
    """Levels of difference, at most."""
    return int(np.abs(one.astype(int) - other.astype(int)).max())


def agrees(method: Method, *requests: Request) -> list[Image]:
    """The images of a batch, which are those of its requests one by one, and all different."""
    together = images(method, *requests)
    for k, one in enumerate(requests):
        [alone] = images(method, one)
        assert apart(alone, together[k]) <= CLOSE
    for k, image in enumerate(together):
        assert all(apart(image, other) > 2 * CLOSE for other in together[:k])
    return together


def picture(output: Path, row: int = 0) -> Image:
    """An image of a run, by its place in `table`."""
    media = table(output)[row]["media"]
    return decode((Run(output).store_root / media.removeprefix("store:")).read_bytes())


ACE = {"base": tiny("flux-fill"), "adapter": tiny("ace-plus", "portrait/comfyui_portrait_lora64.safetensors")}
UNO = {"base": tiny("flux"), "adapter": tiny("uno", "dit_lora.safetensors")}
FLUX: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "flux": ("flux", {"base": tiny("flux")}, {"text_length": 32}),
    "schnell": ("flux", {"base": tiny("flux-schnell")}, {"text_length": 32, "guidance": 0}),
    "kontext": ("flux-kontext", {"base": tiny("flux-kontext")}, {"text_length": 32, "reference_area": 4096}),
    "klein": ("flux2-klein", {"base": tiny("flux2-klein")}, {"text_length": 64, "reference_area": 32768}),
    "flux2": ("flux2-dev", {"base": tiny("flux2")}, {"text_length": 512, "reference_area": 32768}),
    "uno": ("uno", UNO, {"text_length": 32, "reference_size": 64}),
    "ace": ("ace-plus", ACE, {"text_length": 64}),
}
"""Methods on FLUX: name -> kind, models, settings that differ from the defaults."""
FLUX_CHECKPOINTS = ("flux", "flux-schnell", "flux-kontext", "flux2-klein", "flux2", "flux-fill", "uno", "ace-plus")


def ready_flux(name: str, **settings: Any) -> Any:
    """One of them, loaded."""
    kind, models, own = FLUX[name]
    return ready(kind, models, **{**own, **settings})


def called(pipe: Any, seed: int, **arguments: Any) -> Image:
    """A picture by the pipeline itself."""
    import torch

    common = {"height": 64, "width": 64, "num_inference_steps": 2, "output_type": "np"}
    with torch.inference_mode():
        out = pipe(**{**common, **arguments}, generator=torch.Generator().manual_seed(seed))
    return as_uint8(out.images[0])


FACEID = "ip-adapter-faceid"
FACEID_FILES = {
    "faceid": "ip-adapter-faceid",
    "plus": "ip-adapter-faceid-plusv2",  # the two look alike
    "plusv2": "ip-adapter-faceid-plusv2",
    "portrait": "ip-adapter-faceid-portrait",
}
FACEID_CHECKPOINTS = ("sd15", "sdxl", "sd-vae", "faceid-sd15", "faceid-sdxl", "instantid", "clip", "flux")


def faceid_models(base: str, variant: str) -> dict[str, Any]:
    """What IP-Adapter-FaceID is bound to, for a base (`sd15`, `sdxl`) and a variant."""
    bound = {
        "base": tiny(base),
        "adapter": tiny(f"faceid-{base}", f"{FACEID_FILES[variant]}_{base}.bin"),
        "face": FACE,
    }
    return {**bound, "vision": tiny("clip")} if variant.startswith("plus") else bound


def ready_faceid(base: str, variant: str) -> Any:
    """IP-Adapter-FaceID, loaded."""
    return ready(FACEID, faceid_models(base, variant), variant=variant)
