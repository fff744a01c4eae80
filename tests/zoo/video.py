"""Tiny image-to-video pipelines: Wan 2.1, Wan 2.2 with its two transformers, and LTX-Video."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.zoo.flux import t5_tokenizer
from tests.zoo.weights import drawn, loud

WIDTH = 32
LATENTS = 16
"""Channels of Wan's latents; a picture beside them, and four of a mask, make 36."""


def wan_vae() -> Any:
    """Wan's autoencoder: 8 pixels and 4 frames behind a latent."""
    from diffusers import AutoencoderKLWan

    return AutoencoderKLWan(
        base_dim=3,
        z_dim=LATENTS,
        dim_mult=[1, 1, 1, 1],
        num_res_blocks=1,
        temperal_downsample=[False, True, True],
    )


def wan_transformer(image: bool) -> Any:
    """Two blocks; `image`: with attention to CLIP's view of the picture, as Wan 2.1 has it."""
    from diffusers import WanTransformer3DModel

    return loud(
        WanTransformer3DModel(
            patch_size=(1, 2, 2),
            num_attention_heads=2,
            attention_head_dim=12,
            in_channels=2 * LATENTS + 4,
            out_channels=LATENTS,
            text_dim=WIDTH,
            freq_dim=32,
            ffn_dim=32,
            num_layers=2,
            cross_attn_norm=True,
            rope_max_seq_len=32,
            image_dim=WIDTH if image else None,
            added_kv_proj_dim=24 if image else None,
        )
    )


def text_encoder(umt5: bool) -> Any:
    """UMT5 for Wan, T5 for LTX."""
    from transformers import T5Config, T5EncoderModel, UMT5Config, UMT5EncoderModel

    sizes: dict[str, Any] = {
        "vocab_size": len(t5_tokenizer()),
        "d_model": WIDTH,
        "d_kv": 8,
        "d_ff": 37,
        "num_layers": 2,
        "num_heads": 4,
        "feed_forward_proj": "gated-gelu",
        "tie_word_embeddings": False,
    }
    return UMT5EncoderModel(UMT5Config(**sizes)) if umt5 else T5EncoderModel(T5Config(**sizes))


def wan_scheduler() -> Any:
    from diffusers import UniPCMultistepScheduler

    return UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0)


def wan21(folder: Path) -> None:
    """Wan2.1-I2V: the picture is also seen through CLIP."""
    from diffusers import WanImageToVideoPipeline
    from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModel

    vision = CLIPVisionConfig(
        hidden_size=WIDTH,
        projection_dim=8,
        intermediate_size=37,
        num_hidden_layers=2,
        num_attention_heads=4,
        image_size=32,
        patch_size=8,
    )
    with drawn():
        WanImageToVideoPipeline(
            tokenizer=t5_tokenizer(),
            text_encoder=text_encoder(True),
            vae=wan_vae(),
            scheduler=wan_scheduler(),
            image_processor=CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}),
            image_encoder=CLIPVisionModel(vision),
            transformer=wan_transformer(True),
        ).save_pretrained(folder)


def wan22(folder: Path) -> None:
    """Wan2.2-I2V-A14B: one transformer for much noise, one for little, and no CLIP."""
    from diffusers import WanImageToVideoPipeline

    with drawn():
        WanImageToVideoPipeline(
            tokenizer=t5_tokenizer(),
            text_encoder=text_encoder(True),
            vae=wan_vae(),
            scheduler=wan_scheduler(),
            transformer=wan_transformer(False),
            transformer_2=wan_transformer(False),
            boundary_ratio=0.9,
        ).save_pretrained(folder)


def ltx(folder: Path) -> None:
    """LTX-Video, whose checkpoints name the pipeline without a picture."""
    from diffusers import (
        AutoencoderKLLTXVideo,
        FlowMatchEulerDiscreteScheduler,
        LTXPipeline,
        LTXVideoTransformer3DModel,
    )

    with drawn():
        LTXPipeline(
            scheduler=FlowMatchEulerDiscreteScheduler(),
            vae=AutoencoderKLLTXVideo(
                latent_channels=8,
                block_out_channels=(8, 8, 8, 8),
                decoder_block_out_channels=(8, 8, 8, 8),
                layers_per_block=(1, 1, 1, 1, 1),
                decoder_layers_per_block=(1, 1, 1, 1, 1),
                spatio_temporal_scaling=(True, True, False, False),
                decoder_spatio_temporal_scaling=(True, True, False, False),
                patch_size=4,
                encoder_causal=True,
                decoder_causal=False,
            ),
            text_encoder=text_encoder(False),
            tokenizer=t5_tokenizer(128),
            transformer=loud(
                LTXVideoTransformer3DModel(
                    in_channels=8,
                    out_channels=8,
                    num_attention_heads=4,
                    attention_head_dim=8,
                    cross_attention_dim=WIDTH,
                    num_layers=1,
                    caption_channels=WIDTH,
                )
            ),
        ).save_pretrained(folder)
