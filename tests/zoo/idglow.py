"""A tiny Qwen-Image-Edit-2511 and LoRAs with IdGlow's card."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.zoo.chat_tokens import qwen_tokenizer
from tests.zoo.flux import lora_layers, lora_state
from tests.zoo.vlm import qwen_ids, qwen_processor
from tests.zoo.weights import drawn, loud

WIDTH = 32
"""Of the transformer: two heads of 16."""
LAYERS = ("attn.to_q", "attn.to_k", "attn.to_v", "attn.to_out.0", "attn.add_q_proj", "img_mlp.net.2")
"""Ends of the names of layers that the LoRA changes."""
CARD: dict[str, Any] = {
    "method": "idglow",
    "base": "tiny/qwen-edit-plus",
    "rank": 4,
    "alpha": 8.0,
    "schedule": "anneal",
    "tau": 0.5,
    "revision": "none",
    "paper": "random weights",
}


def transformer() -> Any:
    """`QwenImageTransformer2DModel`, two blocks, references at time 0 as in 2511."""
    from diffusers import QwenImageTransformer2DModel

    return QwenImageTransformer2DModel(
        patch_size=2,
        in_channels=64,
        out_channels=16,
        num_layers=2,
        attention_head_dim=WIDTH // 2,
        num_attention_heads=2,
        joint_attention_dim=16,
        axes_dims_rope=(4, 6, 6),
        zero_cond_t=True,
    )


def text_encoder(tokenizer: Any) -> Any:
    """Qwen2.5-VL, two layers each of language and vision."""
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    sizes = {"hidden_size": 16, "intermediate_size": 16}
    return Qwen2_5_VLForConditionalGeneration(
        Qwen2_5_VLConfig(
            text_config={
                **sizes,
                "vocab_size": len(tokenizer),
                "num_hidden_layers": 2,
                "num_attention_heads": 2,
                "num_key_value_heads": 2,
                "max_position_embeddings": 4096,
                "rope_parameters": {"mrope_section": [1, 1, 2], "rope_type": "default", "rope_theta": 1e6},
                "eos_token_id": tokenizer.eos_token_id,
                "pad_token_id": tokenizer.pad_token_id,
            },
            vision_config={
                **sizes,
                "depth": 2,
                "num_heads": 2,
                "out_hidden_size": 16,
                "patch_size": 14,
                "window_size": 56,
                "fullatt_block_indexes": [1],
            },
            **qwen_ids(tokenizer),
        )
    )


def qwen_edit_plus(folder: Path) -> None:
    """The pipeline with several references. The transformer's weights are wide enough for references to be seen."""
    from diffusers import AutoencoderKLQwenImage, FlowMatchEulerDiscreteScheduler, QwenImageEditPlusPipeline
    from transformers import Qwen2VLProcessor

    tokenizer = qwen_tokenizer()
    with drawn():
        network = loud(transformer(), ("mod",))
        QwenImageEditPlusPipeline(
            scheduler=FlowMatchEulerDiscreteScheduler(
                use_dynamic_shifting=True,
                base_shift=0.5,
                max_shift=0.9,
                base_image_seq_len=256,
                max_image_seq_len=8192,
                shift_terminal=0.02,
                time_shift_type="exponential",
            ),
            vae=AutoencoderKLQwenImage(base_dim=4, z_dim=16, dim_mult=[1, 1, 2, 2], num_res_blocks=1),
            text_encoder=text_encoder(tokenizer),
            tokenizer=tokenizer,
            processor=qwen_processor(Qwen2VLProcessor, tokenizer),
            transformer=network,
        ).save_pretrained(folder)


def lora(rank: int = 4) -> dict[str, Any]:
    """LoRA tensors by diffusers' names."""
    return lora_state(lora_layers(*LAYERS, network=transformer()), rank)


def written(path: Path, tensors: dict[str, Any] | None = None, **card: Any) -> Path:
    """A LoRA file with its card, `card` over the usual one."""
    from safetensors.torch import save_file

    save_file(lora() if tensors is None else tensors, path, metadata={"idtool": json.dumps({**CARD, **card})})
    return path


def idglow(folder: Path) -> None:
    """`idglow.safetensors`: the loss was annealed; `gated.safetensors`: the reference tokens were, too."""
    written(folder / "idglow.safetensors")
    written(folder / "gated.safetensors", gated=True)
