"""Tiny text-image networks: CLIP, SigLIP and SigLIP 2 of transformers, and one of open_clip."""

from __future__ import annotations

import io
import json
import string
from pathlib import Path
from typing import Any

from tests.zoo.tokens import clip_tokenizer
from tests.zoo.weights import drawn

WIDTH = 32
SIDE = 32
_TOWER = {"hidden_size": WIDTH, "intermediate_size": WIDTH, "num_hidden_layers": 2, "num_attention_heads": 2}


def clip(folder: Path, width: int = WIDTH) -> None:
    """CLIP whose features have `width` numbers, with 77 tokens as the real ones have."""
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel

    tokenizer = clip_tokenizer()
    ends = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    config = CLIPConfig(
        text_config={**_TOWER, **ends, "vocab_size": len(tokenizer), "max_position_embeddings": 77},
        vision_config={**_TOWER, "image_size": SIDE, "patch_size": 8},
        projection_dim=width,
        initializer_factor=3.0,
    )
    _save(CLIPModel, config, folder)
    CLIPImageProcessor(size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE}).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def siglip(folder: Path) -> None:
    """SigLIP, whose tokenizer is a sentencepiece model and leaves the attention mask out."""
    from transformers import SiglipConfig, SiglipImageProcessor, SiglipModel, SiglipTokenizer

    (folder / "spiece.model").write_bytes(_sentencepiece())
    tokenizer = SiglipTokenizer(str(folder / "spiece.model"), model_max_length=16, model_input_names=["input_ids"])
    ends = {"bos_token_id": None, "eos_token_id": 1, "pad_token_id": 1}
    config = SiglipConfig(
        text_config={**_TOWER, **ends, "vocab_size": len(tokenizer), "max_position_embeddings": 16},
        vision_config={**_TOWER, "image_size": SIDE, "patch_size": 8},
    )
    _save(SiglipModel, config, folder)
    SiglipImageProcessor(size={"height": SIDE, "width": SIDE}).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def siglip2(folder: Path) -> None:
    """SigLIP 2 of the NaFlex kind: patches of an image in its own shape, and their mask. Number and size of patches and
    tokens are the real ones: transformers' own processor for both towers takes no others."""
    from transformers import Siglip2Config, Siglip2ImageProcessor, Siglip2Model, Siglip2Tokenizer

    tokens = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", *(f"<0x{byte:02X}>" for byte in range(256))]
    tokens += ["\u2581", *string.ascii_lowercase, *string.digits, *".,!?'"]
    vocabulary = {token: number for number, token in enumerate(tokens)}
    tokenizer = Siglip2Tokenizer(
        vocab=vocabulary, merges=[], model_max_length=64, padding_side="right", model_input_names=["input_ids"]
    )
    ends = {"bos_token_id": 2, "eos_token_id": 1, "pad_token_id": 0}
    config = Siglip2Config(
        text_config={**_TOWER, **ends, "vocab_size": len(tokenizer), "max_position_embeddings": 64},
        vision_config={**_TOWER, "num_patches": 256, "patch_size": 16},
    )
    _save(Siglip2Model, config, folder)
    Siglip2ImageProcessor(patch_size=16, max_num_patches=256).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def open_clip(folder: Path) -> None:
    """A folder as open_clip writes it for the hub, with QuickGELU as OpenAI's weights have; open_clip's own tokenizer
    comes with the package."""
    from open_clip import CLIP
    from safetensors.torch import save_file

    vision = {"image_size": SIDE, "layers": 2, "width": 16, "head_width": 8, "patch_size": 8}
    text = {"context_length": 77, "vocab_size": 49408, "width": 8, "heads": 2, "layers": 2}
    settings = {"embed_dim": WIDTH, "quick_gelu": True, "vision_cfg": vision, "text_cfg": text}
    shown = {
        "mean": [0.48, 0.46, 0.41],
        "std": [0.27, 0.26, 0.28],
        "interpolation": "bicubic",
        "resize_mode": "shortest",
    }
    with drawn():
        network = CLIP(**json.loads(json.dumps(settings)))
    save_file(network.state_dict(), folder / "open_clip_model.safetensors")
    content = json.dumps({"model_cfg": settings, "preprocess_cfg": shown}, indent=2)
    (folder / "open_clip_config.json").write_text(content, "utf-8")


def _save(cls: Any, config: Any, folder: Path) -> None:

    with drawn():
        cls(config).save_pretrained(folder)


def _sentencepiece() -> bytes:
    """A trained sentencepiece model of 64 pieces."""
    import sentencepiece

    corpus = [
        " ".join(string.ascii_lowercase),
        "a photo of the same person",
        "a face a dog a cat running",
        string.digits,
    ]
    written = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(corpus * 30),
        model_writer=written,
        vocab_size=64,
        model_type="unigram",
        pad_id=-1,
        unk_id=2,
        bos_id=-1,
        eos_id=1,
        pad_piece="<pad>",
        control_symbols="<x>",
        hard_vocab_limit=False,
        minloglevel=2,
    )
    return written.getvalue()
