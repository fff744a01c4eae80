"""Runs a ready runner's script with stand-ins for every package that it drives: `python stand_ins.py SCRIPT`.

What is checked is the script itself: that it goes through, asks for what there is, and names its image. Stand-ins take
any call and give a stand-in, or a picture where pipelines give pictures.
"""

from __future__ import annotations

import importlib.machinery
import importlib.util
import runpy
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

REPLACED = ("torch", "diffusers", "transformers", "insightface", "cv2", "rembg", "dlib", "accelerate")
DRIVEN = ("photomaker", "src", "uniportrait", "omnigen2", "pipeline_sdxl_storymaker", "face_parsing", "face_alignment")
REPLACED += (*DRIVEN, "masterweaver", "hunyuan_image_3")
PIXELS = np.arange(8 * 8 * 3, dtype=np.uint8).reshape(8, 8, 3)


class Anything:
    """Takes whatever is done with it."""

    __array_interface__ = {**PIXELS.__array_interface__, "strides": PIXELS.strides}  # noqa: RUF012 - numpy's

    def __call__(self, *_: Any, **values: Any) -> Any:
        sys.stderr.write("".join(f"called with {key}={value!r}\n" for key, value in values.items() if _plain(value)))
        return Anything()

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        picture = Image.fromarray(PIXELS)
        special: dict[str, Any] = {
            "images": [picture],
            "generate": lambda **values: [self(**values) and picture],
            "generate_image": lambda **values: self(**values) and picture,
            "execute": lambda arguments: (_written(arguments), None),
            "convert": lambda mode: picture,
            "tobytes": lambda *_: PIXELS.tobytes(),
        }
        return special.get(name, Anything())

    def __getitem__(self, key: Any) -> Any:
        return Anything()

    def __iter__(self) -> Any:
        return iter([Anything()])

    def __sub__(self, other: Any) -> Any:
        return Anything()

    def __mul__(self, other: Any) -> float:
        return 1.0


class Arguments(types.SimpleNamespace):
    """LivePortrait's, which say where the image goes."""


def _plain(value: Any) -> bool:
    return isinstance(value, str | int | float | list | bool)


def _written(arguments: Any) -> str:
    folder = Path(arguments.output_dir)
    folder.mkdir(parents=True)
    Image.fromarray(PIXELS).save(folder / "made.jpg")
    return str(folder / "made.jpg")


class Finder:
    """Every module of `REPLACED`, and all below it."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        if name.partition(".")[0] in REPLACED:
            return importlib.machinery.ModuleSpec(name, self, is_package=True)  # type: ignore[arg-type]
        return None

    def create_module(self, spec: Any) -> types.ModuleType:
        module = types.ModuleType(spec.name)
        module.__getattr__ = lambda name: Arguments if name == "ArgumentConfig" else getattr(Anything(), name)  # type: ignore[method-assign]
        return module

    def exec_module(self, module: types.ModuleType) -> None:
        pass


if __name__ == "__main__":
    script = sys.argv[1]
    sys.meta_path.insert(0, Finder())  # type: ignore[arg-type]
    sys.path[0] = str(Path(script).parent)
    sys.argv = [script]
    runpy.run_path(script, run_name="__main__")
