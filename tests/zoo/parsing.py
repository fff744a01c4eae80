"""Face parsers: BiSeNet in an eighth of its widths, SegFormer with the class names of its face-parsing checkpoint."""

from __future__ import annotations

from pathlib import Path

from tests.zoo.weights import drawn

FILE = "face_parsing.pth"
SEGFORMER_NAMES = (
    *("background", "skin", "nose", "eye_g", "l_eye", "r_eye", "l_brow", "r_brow", "l_ear", "r_ear"),
    *("mouth", "u_lip", "l_lip", "hair", "hat", "ear_r", "neck_l", "neck", "cloth"),
)


def bisenet(folder: Path) -> None:
    """A state dict by the public names, with the heads that only serve training, as the public files have them."""
    import torch

    from idtool.models.networks.bisenet import BiSeNet, Widths

    with drawn():
        network = BiSeNet(Widths((8, 16, 32, 64), context=16, fused=32, gate=8, head=32))
        state = network.state_dict()
        for size in (16, 32):
            state[f"conv_out{size}.conv.conv.weight"] = torch.randn(8, 16, 3, 3)
            state[f"conv_out{size}.conv_out.weight"] = torch.randn(19, 8, 1, 1)
    torch.save(state, folder / FILE)


def segformer(folder: Path) -> None:
    """SegFormer of four thin stages, 19 classes in the order of `jonathandinu/face-parsing`."""
    from transformers import SegformerConfig, SegformerForSemanticSegmentation, SegformerImageProcessor

    config = SegformerConfig(
        id2label=dict(enumerate(SEGFORMER_NAMES)),
        label2id={name: number for number, name in enumerate(SEGFORMER_NAMES)},
        depths=[1, 1, 1, 1],
        hidden_sizes=[8, 8, 16, 16],
        num_attention_heads=[1, 1, 2, 2],
        decoder_hidden_size=16,
    )
    with drawn():
        SegformerForSemanticSegmentation(config).save_pretrained(folder)
    SegformerImageProcessor(size={"height": 64, "width": 64}).save_pretrained(folder)
