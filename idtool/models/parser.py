"""Face parsing: BiSeNet (Yu et al., ECCV 2018) with a ResNet-18 context path, trained on CelebAMask-HQ, 19 classes.

The checkpoint carries the public state-dict names of the face-parsing BiSeNet; the OpenVINO graph is built here from
its tensors, so neither PyTorch nor a converted file is needed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from idtool.models import runtime, weights
from idtool.models.crops import warp
from idtool.models.faces import Face
from idtool.models.graphs import Node, State, compile_cpu, convolution, spatial_mean
from idtool.models.parts import CROP, MARGIN, PARTS, Parsed, crop_matrix
from idtool.models.state_dict import read_state_dict

Image = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]

__all__ = ["PARTS", "BiSeNet", "Parsed", "bisenet_graph"]

_MEAN = np.array([0.485, 0.456, 0.406], np.float32)
_DEVIATION = np.array([0.229, 0.224, 0.225], np.float32)


class BiSeNet:
    """BiSeNet on CelebAMask-HQ classes. Safe to call from several threads."""

    name = "bisenet-celebamask"
    CROP: ClassVar[int] = CROP
    MARGIN: ClassVar[float] = MARGIN

    def __init__(self, *, device: str = "cpu", threads: int = 1) -> None:
        runtime.cpu_only(device, "The face parser")
        state = read_state_dict(weights.path(self.name))
        self._network = compile_cpu(*bisenet_graph(state, self.CROP), threads)

    def __call__(self, images: Sequence[Image], faces: Sequence[Face]) -> list[Parsed]:
        """Parts of one face in each RGB uint8 image (H, W, 3).

        Raises ValueError when the sequences differ in length or an array is of another kind.
        """
        found = []
        for image, face in zip(images, faces, strict=True):
            matrix = crop_matrix(face.box)
            scores = self.scores(warp(image, matrix, self.CROP, "replicate"))
            found.append(Parsed(scores.argmax(axis=0).astype(np.uint8), matrix))
        return found

    def scores(self, crop: Image) -> Floats:
        """Class scores (19, 512, 512) of an RGB uint8 crop (512, 512, 3)."""
        batch = ((crop.astype(np.float32) / 255 - _MEAN) / _DEVIATION).transpose(2, 0, 1)[None]
        request = self._network.create_infer_request()  # one per call: requests must not be shared by threads
        return np.array(request.infer([np.ascontiguousarray(batch)])[0][0], np.float32)

    def fingerprint(self) -> dict[str, Any]:
        """What the parts depend on."""
        return {
            "model": self.name,
            "sha256": weights.sha256(self.name),
            "preprocessing": f"box x {self.MARGIN}, {self.CROP} px, repeated edges, ImageNet mean and deviation",
            **runtime.versions("openvino", "opencv-python-headless", "numpy"),
        }


def bisenet_graph(state: State, size: int) -> tuple[Node, Node]:
    """Input (1, 3, size, size) and output scores (1, 19, size, size), from the checkpoint's tensors."""
    from openvino import opset13 as ops

    inputs = ops.parameter([1, 3, size, size], np.float32, name="crop")
    feat8, feat16, feat32 = _resnet18(inputs, state)
    # Context path: the coarsest features, refined by attention and by their global mean, flow back up.
    pooled = _conv_bn_relu(spatial_mean(feat32), state, "cp.conv_avg")
    up32 = ops.add(_attention(feat32, state, "cp.arm32"), pooled)
    up32 = _conv_bn_relu(_enlarge(up32, size // 16, "nearest"), state, "cp.conv_head32", padding=1)
    up16 = ops.add(_attention(feat16, state, "cp.arm16"), up32)
    up16 = _conv_bn_relu(_enlarge(up16, size // 8, "nearest"), state, "cp.conv_head16", padding=1)
    # This network takes the backbone's features at 1/8 in place of a separate spatial path.
    fused = _conv_bn_relu(ops.concat([feat8, up16], axis=1), state, "ffm.convblk")
    gate = ops.relu(convolution(spatial_mean(fused), state, "ffm.conv1"))
    gate = ops.sigmoid(convolution(gate, state, "ffm.conv2"))
    fused = ops.add(ops.multiply(fused, gate), fused)
    out = convolution(_conv_bn_relu(fused, state, "conv_out.conv", padding=1), state, "conv_out.conv_out")
    return inputs, _enlarge(out, size, "linear")


def _resnet18(x: Node, state: State) -> tuple[Node, Node, Node]:
    """Features at 1/8, 1/16 and 1/32 of the size (He et al., CVPR 2016, table 1)."""
    from openvino import opset13 as ops

    root = "cp.resnet"
    x = ops.relu(convolution(x, state, f"{root}.conv1", f"{root}.bn1", stride=2, padding=3))
    x = ops.max_pool(x, [2, 2], [1, 1], [1, 1], [1, 1], [3, 3]).output(0)
    features = []
    for layer, first_stride in ((1, 1), (2, 2), (3, 2), (4, 2)):
        for block in (0, 1):
            name, stride = f"{root}.layer{layer}.{block}", first_stride if block == 0 else 1
            y = ops.relu(convolution(x, state, f"{name}.conv1", f"{name}.bn1", stride=stride, padding=1))
            y = convolution(y, state, f"{name}.conv2", f"{name}.bn2", padding=1)
            if f"{name}.downsample.0.weight" in state:
                x = convolution(x, state, f"{name}.downsample.0", f"{name}.downsample.1", stride=stride)
            x = ops.relu(ops.add(x, y))
        features.append(x)
    return features[1], features[2], features[3]


def _conv_bn_relu(x: Node, state: State, name: str, padding: int = 0) -> Node:
    from openvino import opset13 as ops

    return ops.relu(convolution(x, state, f"{name}.conv", f"{name}.bn", padding=padding))


def _attention(x: Node, state: State, name: str) -> Node:
    """Attention refinement: channels weighed by a sigmoid of their global means (figure 2b of the paper)."""
    from openvino import opset13 as ops

    x = _conv_bn_relu(x, state, f"{name}.conv", padding=1)
    return ops.multiply(x, ops.sigmoid(convolution(spatial_mean(x), state, f"{name}.conv_atten", f"{name}.bn_atten")))


def _enlarge(x: Node, size: int, mode: str) -> Node:
    """Resize to (size, size); `linear` puts corner pixels onto corner pixels, as the network was trained."""
    from openvino import opset13 as ops

    linear = mode == "linear"
    return ops.interpolate(
        x,
        np.array([size, size], np.int64),
        mode="linear_onnx" if linear else "nearest",
        shape_calculation_mode="sizes",
        coordinate_transformation_mode="align_corners" if linear else "asymmetric",
        nearest_mode="floor",
        axes=np.array([2, 3], np.int64),
    )
