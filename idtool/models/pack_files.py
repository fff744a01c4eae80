"""The ONNX files of an InsightFace pack: which does what, and one of them opened by the package's own class.

What a file does is told by the shapes of its inputs and outputs, by the package's rules, without starting it; or by
the pack's `manifest.json` (packs of version 2, such as `raccoon_l`).
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from idtool.errors import MissingError, UsageError
from idtool.models import crops, runtime, sources
from idtool.models.faces import Face
from idtool.models.sources import Weights
from idtool.models.torch_runtime import as_missing

Image = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]

PACKAGES = ("insightface", "onnxruntime", "onnx")
"""What the wrappers of packs need; for the class variable `packages`."""
OTHER = "Bind the role to another pack in pipelines.yaml, or add the network to the folder."
_CLASSES = {
    "detection": ("scrfd", "SCRFD"),
    "recognition": ("arcface_onnx", "ArcFaceONNX"),
    "landmark_3d_68": ("landmark", "Landmark"),
    "landmark_2d_106": ("landmark", "Landmark"),
    "genderage": ("attribute", "Attribute"),
}
"""The package's name of a task -> module and class in `insightface.model_zoo`."""


def network(weights: Weights, task: str, device: str, threads: int) -> tuple[Path, Any]:
    """The file of a pack that does `task` (a key of `_CLASSES`), and the package's object for it, on exactly that
    device. Of several files the first by name counts, as in the package.

    MissingError when the pack has none, and says what it has; when a file is damaged; when the device is not there.
    """
    found = tasks(weights.path)
    if not found:
        raise MissingError(f"{weights.model} ({weights.path}) holds no ONNX file.", OTHER)
    file = next((file for file, does in found.items() if does == task), None)
    if file is None:
        held = ", ".join(f"{file.name} ({does or 'of no known kind'})" for file, does in found.items())
        raise MissingError(f"{weights.model} has no network for {task}. {weights.path} holds: {held}.", OTHER)
    module, name = _CLASSES[task]
    cls = getattr(import_module(f"insightface.model_zoo.{module}"), name)
    # One session for all input sizes: by default the package starts another one for every size that it meets.
    options = {"static_shape_sessions": False} if task == "detection" else {}
    with as_missing(f"{file} of {weights.model}"):
        model = cls(model_file=str(file), session=runtime.onnx_session(file, device, threads), **options)
        _follow_manifest(model, weights.path, task)
    return file, model


def tasks(path: Path) -> dict[Path, str | None]:
    """What each ONNX file of a pack does (None: nothing that is known here), by file name. `path`: folder or file."""
    described = _described(path)
    if described is not None:
        return {descriptor.path: task for task, descriptor in described.tasks.items()}
    files = [path] if path.is_file() else sorted(path.glob("*.onnx"))
    return {file: _task(str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in files}


def batch_of(axis: object, batch: int) -> int:
    """How many rows one call of an ONNX network may take, whose first axis is `axis` (a number where the file fixes
    it): one if it is fixed at one, else `batch`. UsageError when that is below one."""
    if batch < 1:
        raise UsageError(f"Option `batch` is at least 1. Got {batch!r}.")
    return 1 if axis == 1 else batch


def pairs(images: Sequence[Image], faces: Sequence[Face]) -> Iterator[tuple[Image, Floats]]:
    """Each image in BGR, turned round once however often it is given, with the box of its face. ValueError for a
    box without area, an array that is no image, or sequences of different lengths."""
    turned: dict[int, Image] = {}
    for image, face in zip(images, faces, strict=True):
        crops.check(image)
        if not (face.box[2] > face.box[0] and face.box[3] > face.box[1]):
            raise ValueError(f"the box of a face has no area: {np.asarray(face.box).tolist()}")
        if id(image) not in turned:
            turned = {id(image): np.ascontiguousarray(image[..., ::-1])}
        yield turned[id(image)], face.box


class _Found(dict[str, Any]):
    """What the package's networks take for a face: a box to read, and keys to leave their findings under."""

    def __init__(self, box: Floats) -> None:
        super().__init__()
        self.bbox = box


def found_in(model: Any, bgr: Image, box: Floats) -> _Found:
    """What a landmark network of the package finds in a box."""
    face = _Found(box)
    model.get(bgr, face)
    return face


def facts(weights: Weights, file: Path) -> dict[str, Any]:
    """Model, file, its hash (not the whole pack's) and versions, for fingerprints."""
    return {
        "model": weights.model,
        "revision": weights.revision,
        "file": file.name,
        "sha256": sources.digest(file),
        **runtime.versions("insightface", "onnxruntime", "opencv-python-headless", "numpy"),
    }


@functools.lru_cache(maxsize=64)
def _task(file: str, size: int, changed: int) -> str | None:
    """The package's rules for a file that no manifest describes; the arguments but the first make the cache honest."""
    import onnx

    with as_missing(file):
        graph = onnx.load(file, load_external_data=False).graph
        inputs, outputs = ([_shape(value) for value in values] for values in (graph.input, graph.output))
        weights = {value.name for value in graph.initializer}
        inputs = [shape for shape, value in zip(inputs, graph.input, strict=True) if value.name not in weights]
        side = inputs[0][2:4]
    if len(outputs) >= 5:
        return "detection"
    if side == [192, 192]:
        return "landmark_3d_68" if outputs[0][1] == 3309 else f"landmark_2d_{outputs[0][1] // 2}"
    if side == [96, 96]:
        return "genderage" if outputs[0][1] == 3 else f"attribute_{outputs[0][1]}"
    if len(inputs) == 2 and side == [128, 128]:
        return "swapping"
    square = len(side) == 2 and side[0] == side[1]
    return "recognition" if square and side[0] >= 112 and side[0] % 16 == 0 else None


def _shape(value: Any) -> list[int]:
    """Sizes of the axes of an ONNX input or output, 0 where they are free."""
    return [int(axis.dim_value) for axis in value.type.tensor_type.shape.dim]


def _described(path: Path) -> Any:
    """The manifest of a pack of version 2, or None."""
    from insightface.model_zoo import package_manifest

    if path.is_file() or not package_manifest.has_model_package_manifest(path):
        return None
    with as_missing(f"The manifest of {path}"):
        return package_manifest.load_model_package(path)


def _follow_manifest(model: Any, path: Path, task: str) -> None:
    """Feed the network as its manifest says, where it has one, and compare its hash."""
    described = _described(path)
    if described is None:
        return
    from insightface.model_zoo import package_manifest

    package_manifest.verify_model_artifact(described.task(task))
    how = described.task(task).metadata["preprocessing"]
    stated = isinstance(how, Mapping)
    model.input_mean, model.input_std = (float(how["mean"]), float(how["std"])) if stated else (0.0, 1.0)
    takes_bytes = model.session.get_inputs()[0].type == "tensor(uint8)"
    model.input_dtype = np.uint8 if takes_bytes else np.float32
