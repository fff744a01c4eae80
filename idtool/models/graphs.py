"""Building blocks of networks as OpenVINO graphs, straight from numpy arrays: no PyTorch, no conversion step."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

Node = Any
State = Mapping[str, npt.NDArray[Any]]

EPSILON = 1e-5
"""PyTorch's default for batch normalisation."""


def convolution(
    x: Node, state: State, conv: str, norm: str | None = None, *, stride: int = 1, padding: int = 0, groups: int = 1
) -> Node:
    """A PyTorch `Conv2d` named `conv`, followed by the `BatchNorm2d` named `norm`, as one convolution and one sum.

    Batch normalisation with fixed statistics is a scale and a shift per channel, folded into the weights here.
    """
    from openvino import opset13 as ops

    weight = np.asarray(state[f"{conv}.weight"], np.float64)
    bias = np.asarray(state[f"{conv}.bias"], np.float64) if f"{conv}.bias" in state else np.zeros(len(weight))
    if norm is not None:
        mean, variance, gain, shift = (
            np.asarray(state[f"{norm}.{part}"], np.float64)
            for part in ("running_mean", "running_var", "weight", "bias")
        )
        scale = gain / np.sqrt(variance + EPSILON)
        weight, bias = weight * scale[:, None, None, None], (bias - mean) * scale + shift
    strides, pads, dilations = [stride, stride], [padding, padding], [1, 1]
    if groups > 1:
        out, per_group, height, width = weight.shape
        weight = weight.reshape(groups, out // groups, per_group, height, width)
        node = ops.group_convolution(x, weight.astype(np.float32), strides, pads, pads, dilations)
    else:
        node = ops.convolution(x, weight.astype(np.float32), strides, pads, pads, dilations)
    return ops.add(node, bias.astype(np.float32).reshape(1, -1, 1, 1))


def spatial_mean(x: Node) -> Node:
    """Mean over height and width, kept as dimensions of 1."""
    from openvino import opset13 as ops

    return ops.reduce_mean(x, np.array([2, 3], np.int64), keep_dims=True)


def compile_cpu(inputs: Node, output: Node, threads: int) -> Any:
    """A compiled network with one input and one output, in full precision, on at most `threads` threads per call."""
    import openvino as ov

    settings = {"INFERENCE_PRECISION_HINT": "f32", "NUM_STREAMS": 1, "INFERENCE_NUM_THREADS": max(1, threads)}
    return ov.Core().compile_model(ov.Model([output], [inputs], "network"), "CPU", settings)
