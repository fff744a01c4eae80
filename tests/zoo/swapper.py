"""Face swappers with the inputs, the output and the emap of InsightFace's `inswapper_128.onnx`, 2 MB each."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from tests.zoo.face_pack import Graph

FILE = "inswapper_128.onnx"
TARGET, SOURCE, SIDE, WIDTH = "target", "source", 128, 512


def inswapper(folder: Path) -> None:
    """A network of random weights, in which picture and embedding both tell; a face is still seen in what it draws."""
    random = np.random.default_rng(0)
    graph = Graph()
    kernel = graph.constant(random.normal(size=(3, 3, 3, 3)) / 4)
    drawn = graph.add("Conv", TARGET, kernel, kernel_shape=[3, 3], pads=[1] * 4)
    tint = graph.add("MatMul", SOURCE, graph.constant(random.normal(size=(WIDTH, 3)) * 4))
    tint = graph.add("Reshape", tint, graph.constant(np.array([1, 3, 1, 1], np.int64)))
    veil = graph.add("Mul", graph.add("Sigmoid", graph.add("Add", drawn, tint)), graph.constant(0.4))
    _save(graph, graph.add("Add", graph.add("Mul", TARGET, graph.constant(0.6)), veil), folder / FILE)


def always(crop: np.ndarray, path: Path) -> Path:
    """A network that draws RGB uint8 `crop` (128, 128, 3) whatever it is shown."""
    graph = Graph()
    nothing = graph.add("Mul", TARGET, graph.constant(0.0))
    silent = graph.add("ReduceSum", graph.add("Mul", SOURCE, graph.constant(0.0)), axes=[0, 1], keepdims=0)
    picture = graph.constant(crop.transpose(2, 0, 1)[None].astype(np.float32) / 255)
    _save(graph, graph.add("Add", graph.add("Add", nothing, picture), silent), path)
    return path


def _save(graph: Graph, output: str, path: Path) -> None:
    import onnx
    from onnx import numpy_helper

    graph.save(path, {TARGET: [1, 3, SIDE, SIDE], SOURCE: [1, WIDTH]}, {output: [1, 3, SIDE, SIDE]})
    model: Any = onnx.load(str(path))
    # No node uses it: it is the last of the file's tensors, and turns embeddings before they go in.
    turn = np.linalg.qr(np.random.default_rng(1).normal(size=(WIDTH, WIDTH)))[0].astype(np.float32)
    model.graph.initializer.append(numpy_helper.from_array(turn, "emap"))
    onnx.save(model, str(path))
