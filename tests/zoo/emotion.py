"""Tiny networks that tell expressions, and explicit from harmless images. Their weights are random."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.zoo.weights import drawn


def resemotenet(folder: Path) -> None:
    """`fer2013_model.pth` as its authors save it, 7 classes; `six.pth` with 6, `other.pth` of another network."""
    import torch

    from idtool.models.networks.resemotenet import ResEmoteNet, Widths

    with drawn():
        for name, classes in (("fer2013_model.pth", 7), ("six.pth", 6)):
            network = ResEmoteNet(Widths((4, 6, 8), 2, (8, 12, 16), (12, 10, 8), classes))
            # Statistics other than 0 and 1, so that a norm that is left out shows; weights that pass differences on.
            for key, value in network.state_dict().items():
                if key.endswith("running_mean"):
                    value.normal_(0, 0.1)
                elif key.endswith("running_var"):
                    value.uniform_(0.2, 2)
                elif value.ndim > 1:
                    torch.nn.init.kaiming_normal_(value)
            torch.save({"epoch": 3, "model_state_dict": network.state_dict(), "loss": 0.5}, folder / name)
        torch.save({"model_state_dict": torch.nn.Linear(3, 2).state_dict()}, folder / "other.pth")


def hsemotion(folder: Path) -> None:
    """Files with the inputs and outputs of the published ones: 8 classes, 7, and 8 with valence and arousal."""
    for name, size, outputs, faces in (
        ("enet_b0_8_best_vgaf.onnx", 24, 8, "batch_size"),
        ("enet_b2_7.onnx", 26, 7, "batch_size"),
        ("enet_b0_8_va_mtl.onnx", 24, 10, 1),
        ("open.onnx", "side", 8, "batch_size"),
        ("five.onnx", 24, 5, "batch_size"),
    ):
        _onnx_classifier(folder / name, size, outputs, faces)


def _onnx_classifier(path: Path, size: int | str, outputs: int, faces: int | str) -> None:
    """A convolution, its mean over the picture, and a linear layer."""
    import numpy as np
    from onnx import TensorProto, checker, helper, numpy_helper, save

    rng = np.random.default_rng(outputs)

    def tensor(name: str, *shape: int) -> Any:
        return numpy_helper.from_array(rng.normal(0, 1, shape).astype(np.float32), name)

    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["input", "kernel"], ["edges"], strides=[2, 2]),
            helper.make_node("Relu", ["edges"], ["active"]),
            helper.make_node("GlobalAveragePool", ["active"], ["pooled"]),
            helper.make_node("Flatten", ["pooled"], ["flat"]),
            helper.make_node("Gemm", ["flat", "matrix", "shift"], ["output"]),
        ],
        "emotion",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, [faces, 3, size, size])],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, [faces, outputs])],
        [tensor("kernel", 6, 3, 3, 3), tensor("matrix", 6, outputs), tensor("shift", outputs)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    checker.check_model(model)
    save(model, str(path))


def nsfw(folder: Path) -> None:
    """A ViT of two classes, `normal` and `nsfw`, with its image processor."""
    from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessor

    with drawn():
        config = ViTConfig(
            hidden_size=16,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=24,
            image_size=32,
            patch_size=8,
            id2label={0: "normal", 1: "nsfw"},
            label2id={"normal": 0, "nsfw": 1},
            initializer_range=0.3,
        )
        ViTForImageClassification(config).save_pretrained(folder)
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
