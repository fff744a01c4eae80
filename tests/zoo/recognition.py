"""Tiny face networks of other sources than InsightFace: FaceNet, AdaFace, YuNet and SFace."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from tests.zoo.face_pack import Graph, discs, projector, skin_of
from tests.zoo.weights import drawn


def facenet(folder: Path) -> None:
    """`model.pt`: a sixteenth of the real width, with the classifier that the public file has."""
    import torch

    from idtool.models.networks.inception_resnet import InceptionResnetV1

    with drawn():
        state = settled(InceptionResnetV1(width=1 / 16)).state_dict()
        state["logits.weight"], state["logits.bias"] = torch.randn(5, 512), torch.randn(5)
    torch.save(state, folder / "model.pt")


def adaface(folder: Path) -> None:
    """`model.safetensors` as CVLface saves it: IR-18, a thirty-second of the real width."""
    from safetensors.torch import save_file

    state = iresnet().state_dict()
    save_file({f"model.net.{name}": tensor for name, tensor in state.items()}, folder / "model.safetensors")


def iresnet(depth: int = 18, width: float = 1 / 32) -> Any:
    """The network of `adaface`."""

    from idtool.models.networks.iresnet import IResNet

    with drawn():
        return settled(IResNet(depth, width))


def settled(network: Any) -> Any:
    """A network whose batch normalisations have seen something: other means and variances than 0 and 1."""
    import torch

    for module in network.modules():
        if isinstance(module, (torch.nn.BatchNorm1d, torch.nn.BatchNorm2d)):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    return network.eval()


def yunet(folder: Path) -> None:
    """`model.onnx`: the twelve outputs of YuNet, firing on discs of skin colour as the detector of the tiny pack."""
    graph = Graph()
    skin = skin_of(graph, "input", [-1, 0, 1], 127.5)  # BGR, 0 to 255
    found: dict[str, str] = {}
    shapes: dict[str, list[Any]] = {}
    for stride in (8, 16, 32):
        disc = discs(graph, skin, stride)
        # Sides are logarithms; a cell without skin has no radius.
        side = graph.add("Add", graph.add("Add", disc.radius, disc.radius), graph.constant(1e-3))
        side = graph.add("Log", side)
        sure = graph.add("Add", disc.nothing, graph.constant(1.0))
        maps = {"cls": [disc.score], "obj": [sure], "bbox": [disc.dx, disc.dy, side, side], "kps": disc.points}
        for kind, columns in maps.items():
            name = f"{kind}_{stride}"
            found[name] = graph.rows(columns, [1, -1, len(columns)])
            shapes[name] = ["batch", f"n{name}", len(columns)]
    outputs = {}
    for kind in ("cls", "obj", "bbox", "kps"):
        for name in (f"{kind}_{stride}" for stride in (8, 16, 32)):
            graph.rename(found[name], name)
            outputs[name] = shapes[name]
    graph.save(folder / "model.onnx", {"input": ["batch", 3, "height", "width"]}, outputs)


def sface(folder: Path) -> None:
    """`model.onnx`: RGB 0 to 255 in, one crop at a time, 128 numbers out."""
    bias = np.random.default_rng(1).normal(size=128)
    projector(folder / "model.onnx", side=112, dim=128, grid=14, name="data", batch=1, scale=0.02, bias=bias)
