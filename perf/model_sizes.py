"""Random weights in the sizes that people use, written to a mirror as the hub's checkpoints are. For speed only."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # tests.zoo has the tokenizers

import torch
from transformers import (
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    CLIPProcessor,
    SiglipConfig,
    SiglipImageProcessor,
    SiglipModel,
    ViTConfig,
    ViTImageProcessor,
    ViTModel,
)


def _clip(folder: Path, width: int, layers: int, heads: int, patch: int, projection: int) -> None:
    from tests.zoo.tokens import clip_tokenizer

    tokenizer = clip_tokenizer()
    ids = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    config = CLIPConfig(
        # The text tower is not what is timed: a small one.
        text_config={
            "vocab_size": len(tokenizer),
            "hidden_size": 64,
            "intermediate_size": 64,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "projection_dim": projection,
            **ids,
        },
        vision_config={
            "hidden_size": width,
            "intermediate_size": 4 * width,
            "num_hidden_layers": layers,
            "num_attention_heads": heads,
            "patch_size": patch,
            "image_size": 224,
            "projection_dim": projection,
        },
        projection_dim=projection,
    )
    CLIPModel(config).save_pretrained(folder)
    CLIPProcessor(image_processor=CLIPImageProcessor(), tokenizer=tokenizer).save_pretrained(folder)


def clip_b32(folder: Path) -> None:
    """ViT-B/32, 224 px: 88 M parameters in the vision tower."""
    _clip(folder, 768, 12, 12, 32, 512)


def clip_l14(folder: Path) -> None:
    """ViT-L/14, 224 px: 304 M parameters in the vision tower."""
    _clip(folder, 1024, 24, 16, 14, 768)


def siglip_so400m(folder: Path) -> None:
    """SigLIP so400m, patch 14, 384 px: 428 M parameters in the vision tower."""
    from tests.zoo.clip import siglip

    siglip(folder)  # its tokenizer and processor
    vision = {
        "hidden_size": 1152,
        "intermediate_size": 4304,
        "num_hidden_layers": 27,
        "num_attention_heads": 16,
        "image_size": 384,
        "patch_size": 14,
    }
    text = SiglipConfig.from_pretrained(folder).text_config.to_dict() | {"projection_size": 1152}
    SiglipModel(SiglipConfig(text_config=text, vision_config=vision)).save_pretrained(folder)
    SiglipImageProcessor(size={"height": 384, "width": 384}).save_pretrained(folder)


def dino_s16(folder: Path) -> None:
    """DINO ViT-S/16, 224 px: 22 M parameters."""
    config = ViTConfig(hidden_size=384, intermediate_size=1536, num_hidden_layers=12, num_attention_heads=6)
    ViTModel(config, add_pooling_layer=False).save_pretrained(folder)
    ViTImageProcessor().save_pretrained(folder)


SIZES: dict[str, Callable[[Path], None]] = {
    "clip-b32": clip_b32,
    "clip-l14": clip_l14,
    "siglip-so400m": siglip_so400m,
    "dino-s16": dino_s16,
}


def build(mirror: Path, name: str) -> Any:
    """`mirror/perf/<name>`, written once."""
    folder = mirror / "perf" / name
    if not folder.is_dir():
        folder.mkdir(parents=True)
        torch.manual_seed(0)
        SIZES[name](folder)
    return folder
