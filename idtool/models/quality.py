"""Face quality: qualityface, a MobileNetV2 (Sandler et al., CVPR 2018) with one output, as an OpenVINO graph.

It sees blur and low resolution, not pose, darkness or expression. The checkpoint is PyTorch's; the graph is built
here from its tensors, so neither PyTorch nor a converted file is needed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from idtool.models import runtime, weights
from idtool.models.crops import around, warp
from idtool.models.faces import Face
from idtool.models.graphs import Node, State, compile_cpu, convolution, spatial_mean
from idtool.models.state_dict import read_state_dict

Image = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]

_BLOCKS = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
"""MobileNetV2, table 2: expansion, channels, repeats, stride of the first repeat."""
_FEATURES = "module.backbone.net.features"


class QualityFace:
    """qualityface 1.0.3. Safe to call from several threads."""

    name = "qualityface"
    CROP: ClassVar[int] = 128
    MARGIN: ClassVar[float] = 1.1
    """Side of the crop over the longer side of the box."""

    def __init__(self, *, device: str = "cpu", threads: int = 1) -> None:
        runtime.cpu_only(device, "The face quality network")
        state = read_state_dict(weights.path(self.name))
        self._network = compile_cpu(*quality_graph(state, self.CROP), threads)

    def __call__(self, images: Sequence[Image], faces: Sequence[Face]) -> Floats:
        """Quality (N,) in [0, 1] of one face in each RGB uint8 image (H, W, 3); sharp portraits are above .8.

        Raises ValueError when the sequences differ in length or an array is of another kind.
        """
        crops = [
            warp(image, around(face.box, self.MARGIN, self.CROP), self.CROP, "replicate")
            for image, face in zip(images, faces, strict=True)
        ]
        return np.clip([self.raw(crop) for crop in crops], 0.0, 1.0).astype(np.float32)

    def raw(self, crop: Image) -> float:
        """The network's output for an RGB uint8 crop (128, 128, 3), not limited to [0, 1]."""
        batch = (crop.astype(np.float32) / 127.5 - 1.0).transpose(2, 0, 1)[None]
        request = self._network.create_infer_request()  # one per call: requests must not be shared by threads
        return float(request.infer([np.ascontiguousarray(batch)])[0].item())

    def fingerprint(self) -> dict[str, Any]:
        """What the numbers depend on."""
        return {
            "model": self.name,
            "sha256": weights.sha256(self.name),
            "preprocessing": f"box x {self.MARGIN}, {self.CROP} px, RGB / 127.5 - 1, output limited to [0, 1]",
            **runtime.versions("openvino", "opencv-python-headless", "numpy"),
        }


def quality_graph(state: State, size: int) -> tuple[Node, Node]:
    """Input (1, 3, size, size) and output (1, 1) of MobileNetV2 with a linear head, from the checkpoint's tensors."""
    from openvino import opset13 as ops

    inputs = ops.parameter([1, 3, size, size], np.float32, name="crop")
    layer = f"{_FEATURES}.0"
    x = ops.clamp(convolution(inputs, state, f"{layer}.0", f"{layer}.1", stride=2, padding=1), 0, 6)
    index, channels = 1, 32
    for expansion, width, repeats, first_stride in _BLOCKS:
        for repeat in range(repeats):
            stride = first_stride if repeat == 0 else 1
            y = _inverted_residual(x, state, f"{_FEATURES}.{index}.conv", expansion, channels, stride)
            x = ops.add(x, y) if stride == 1 and channels == width else y
            index, channels = index + 1, width
    layer = f"{_FEATURES}.{index}"
    x = spatial_mean(ops.clamp(convolution(x, state, f"{layer}.0", f"{layer}.1"), 0, 6))
    flat = ops.reshape(x, np.array([1, -1], np.int64), special_zero=False)
    weight, bias = (state[f"module.classify.{part}"].astype(np.float32) for part in ("weight", "bias"))
    return inputs, ops.add(ops.matmul(flat, weight, transpose_a=False, transpose_b=True), bias)


def _inverted_residual(x: Node, state: State, name: str, expansion: int, channels: int, stride: int) -> Node:
    """Widen, filter each channel, narrow again (figure 3 of the paper); the shortcut is the caller's."""
    from openvino import opset13 as ops

    step = 0
    if expansion != 1:
        x = ops.clamp(convolution(x, state, f"{name}.0.0", f"{name}.0.1"), 0, 6)
        step = 1
    wide = channels * expansion
    depthwise = convolution(x, state, f"{name}.{step}.0", f"{name}.{step}.1", stride=stride, padding=1, groups=wide)
    return convolution(ops.clamp(depthwise, 0, 6), state, f"{name}.{step + 1}", f"{name}.{step + 2}")
