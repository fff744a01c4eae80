"""Runs of IdGlow for tests: a pipelines.yaml over tiny checkpoints, and the method by itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from idtool.engine.operator import Context
from idtool.generate import methods
from idtool.generate.idglow import IdGlow
from idtool.generate.method import Person, Request, with_changes
from idtool.media.images import decode
from idtool.run import Run
from tests.generate.made import configuration
from tests.zoo import Zoo
from tests.zoo.profile import tiny_pipelines

PROMPT = "two men at a table"
SMALL = {"width": 64, "height": 64, "steps": 3}


class Configure:
    """Writes a pipelines.yaml with the method `mine` and the profile `mine`."""

    def __init__(self, folder: Path, zoo: Zoo, monkeypatch: pytest.MonkeyPatch) -> None:
        from diffusers.pipelines.qwenimage import pipeline_qwenimage_edit_plus as module

        self.folder, self.zoo = folder, zoo
        # In place of the pipeline's 1024 and 384, which take 10 s a step here.
        monkeypatch.setattr(module, "VAE_IMAGE_SIZE", 64 * 64)
        monkeypatch.setattr(module, "CONDITION_IMAGE_SIZE", 56 * 56)
        zoo("qwen-edit-plus", "idglow")

    def __call__(
        self, captioner: dict[str, Any] | None = None, models: dict[str, Any] | None = None, **settings: Any
    ) -> Path:
        """`captioner`: of the profile, None: it has none. `models`: over the tiny ones; None: slot not bound."""
        path = tiny_pipelines(self.folder, self.zoo, "captioner", profile="mine")
        content = yaml.safe_load(path.read_text("utf-8"))
        roles = {"captioner": [{"licence": "none", **captioner}]} if captioner else {}
        content["profiles"]["mine"]["roles"] = roles
        bound = {
            "base": {"model": "hf:tiny/qwen-edit-plus", "licence": "random weights"},
            "adapter": adapter("idglow.safetensors"),
            **(models or {}),
        }
        bound = {slot: one for slot, one in bound.items() if one is not None}
        content["methods"]["mine"] = {"kind": "idglow", "models": bound, "settings": {**SMALL, **settings}}
        path.write_text(yaml.safe_dump(content, sort_keys=False), "utf-8")
        return path


def adapter(file: str, model: str = "hf:tiny/idglow") -> dict[str, Any]:
    return {"model": model, "licence": "random weights", "options": {"file": file}}


def local(path: Path) -> dict[str, Any]:
    return {"model": f"local:{path}", "licence": "random weights"}


def photos(fixtures: Path) -> tuple[str, str]:
    """Photos of two people."""
    found = [str(fixtures / "identities" / name / "00_face_recognition.jpg") for name in ("obama", "biden")]
    return found[0], found[1]


def loaded(config: Path, folder: Path, **sets: Any) -> IdGlow:
    file = configuration(config)
    cls, spec = methods.resolve(file, "mine", sets)
    method = cls(spec, file.profile("mine").bindings())
    assert isinstance(method, IdGlow)
    method.load(Context(str(folder)))
    return method


def request(method: IdGlow, *paths: str, prompt: str = PROMPT, seed: int = 0, **changes: Any) -> Request:
    people = tuple(Person(path, decode(Path(path).read_bytes()), label=Path(path).parent.name) for path in paths)
    settings = with_changes(method.spec.settings, changes)
    return Request(str(seed), prompt, people, seed, settings.width, settings.height, settings)


def picture(output: Path, row: dict[str, Any]) -> Any:
    return decode((Run(output).store_root / row["media"].removeprefix("store:")).read_bytes())
