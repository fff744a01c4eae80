"""Tiny vision transformers of the three DINO generations."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.zoo.weights import drawn

SIDE = 32
_TOWER = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
_IMAGENET: dict[str, Any] = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}


def dino(folder: Path) -> None:
    """DINO v1: a ViT without the pooler that transformers would add."""
    from transformers import ViTConfig, ViTImageProcessor, ViTModel

    config = ViTConfig(**_TOWER, intermediate_size=32, image_size=SIDE, patch_size=8, initializer_range=0.2)
    _save(ViTModel, config, folder, add_pooling_layer=False)
    ViTImageProcessor(size={"height": SIDE, "width": SIDE}).save_pretrained(folder)


def dinov2(folder: Path) -> None:
    """DINOv2, whose position embeddings are for a larger image than its processor gives it, as in the real ones."""
    from transformers import BitImageProcessor, Dinov2Config, Dinov2Model

    config = Dinov2Config(**_TOWER, image_size=56, patch_size=14, initializer_range=0.2)
    _save(Dinov2Model, config, folder)
    crop = {"height": 28, "width": 28}
    BitImageProcessor(size={"shortest_edge": 32}, crop_size=crop, **_IMAGENET).save_pretrained(folder)


def dinov3(folder: Path) -> None:
    """DINOv3 with four register tokens."""
    from transformers import DINOv3ViTConfig, DINOv3ViTImageProcessor, DINOv3ViTModel

    config = DINOv3ViTConfig(
        **_TOWER, intermediate_size=32, image_size=SIDE, patch_size=8, num_register_tokens=4, initializer_range=0.2
    )
    _save(DINOv3ViTModel, config, folder)
    DINOv3ViTImageProcessor(size={"height": SIDE, "width": SIDE}).save_pretrained(folder)


def _save(cls: Any, config: Any, folder: Path, **options: Any) -> None:

    with drawn():
        cls(config, **options).save_pretrained(folder)
