"""Tiny pipelines of diffusers. FLUX.1 and FLUX.1-Fill are in `tests.zoo.flux`, Qwen-Image-Edit-2511 is in
`tests.zoo.idglow`, adapters are in `tests.zoo.adapters`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.zoo import flux as tiny_flux
from tests.zoo import idglow, sd_methods
from tests.zoo.chat_tokens import llama_tokenizer, qwen_tokenizer
from tests.zoo.tokens import clip_tokenizer
from tests.zoo.weights import drawn, loud

TEXT = sd_methods.WIDTH
"""Width of text and face tokens of SD1.5 and XL: a head of the adapters' perceivers."""


def sd15(folder: Path) -> None:
    """SD1.5 with text tokens `TEXT` wide."""
    sd_methods.stable_diffusion(folder)


def sd15_long(folder: Path) -> None:
    """SD 1.5 for prompts of 256 tokens: a token is a byte here, and sentences would not fit into 77."""
    sd_methods.stable_diffusion(folder, 256)


def xl_unet() -> Any:
    """SDXL's UNet with two levels, attention in the lower one alone, two transformer blocks deep."""
    return sd_methods.unet(
        block_out_channels=(8, 16),
        norm_num_groups=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=TEXT,
        attention_head_dim=(1, 2),
        transformer_layers_per_block=(1, 2),
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=8 * 6 + TEXT // 2,
    )


def sdxl(folder: Path) -> None:
    """SDXL, with its two text encoders."""
    from diffusers import EulerDiscreteScheduler, StableDiffusionXLPipeline

    with drawn():
        StableDiffusionXLPipeline(
            scheduler=EulerDiscreteScheduler(
                beta_start=0.00085,
                beta_end=0.012,
                beta_schedule="scaled_linear",
                steps_offset=1,
                timestep_spacing="leading",
            ),
            vae=sd_methods.vae(),
            text_encoder=sd_methods.text_encoder(TEXT // 2),
            tokenizer=clip_tokenizer(),
            text_encoder_2=sd_methods.text_encoder(TEXT // 2, TEXT // 2),
            tokenizer_2=clip_tokenizer(),
            unet=xl_unet(),
            add_watermarker=False,
        ).save_pretrained(folder)


def vae(folder: Path) -> None:
    """A VAE in place of SD's own."""
    with drawn(7):
        sd_methods.vae().save_pretrained(folder)


def flux_kontext(folder: Path) -> None:
    """FLUX.1-Kontext: FLUX.1-dev's parts."""
    from diffusers import FluxKontextPipeline

    parts = tiny_flux.parts()
    with drawn(1):
        parts["transformer"] = loud(parts["transformer"])
    FluxKontextPipeline(**parts).save_pretrained(folder)


def _flux2(joint: int, guidance: bool) -> dict[str, Any]:
    from diffusers import AutoencoderKLFlux2, FlowMatchEulerDiscreteScheduler, Flux2Transformer2DModel

    transformer = Flux2Transformer2DModel(
        patch_size=1,
        in_channels=128,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=joint,
        timestep_guidance_channels=32,
        axes_dims_rope=(4, 4, 4, 4),
        guidance_embeds=guidance,
    )
    return {
        "scheduler": FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
        "vae": AutoencoderKLFlux2(
            block_out_channels=(4, 4, 8, 8), layers_per_block=1, latent_channels=32, norm_num_groups=2, sample_size=64
        ),
        "transformer": loud(transformer),
    }


def flux2_klein(folder: Path) -> None:
    """FLUX.2-klein, distilled: hidden states 9, 18 and 27 of Qwen 3."""
    from diffusers import Flux2KleinPipeline
    from transformers import Qwen3Config, Qwen3ForCausalLM

    template = (
        "{% for turn in messages %}<|im_start|>{{ turn['role'] }}\n{{ turn['content'] }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    tokenizer = qwen_tokenizer(template)
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=28,
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=8,
        tie_word_embeddings=True,
    )
    with drawn():
        Flux2KleinPipeline(
            text_encoder=Qwen3ForCausalLM(config), tokenizer=tokenizer, is_distilled=True, **_flux2(48, False)
        ).save_pretrained(folder)


def flux2(folder: Path) -> None:
    """FLUX.2-dev: hidden states 10, 20 and 30 of Mistral 3."""
    from diffusers import Flux2Pipeline
    from transformers import Mistral3Config, Mistral3ForConditionalGeneration, PixtralImageProcessor, PixtralProcessor

    template = (
        "{% for turn in messages %}[{{ turn['role'] }}]"
        "{% for part in turn['content'] %}{{ part['text'] }}{% endfor %}{% endfor %}"
    )
    tokenizer = llama_tokenizer(template, ("[IMG]", "[IMG_BREAK]", "[IMG_END]"))
    small = {"hidden_size": 16, "intermediate_size": 16, "num_attention_heads": 2, "head_dim": 8}
    config = Mistral3Config(
        text_config={
            **small,
            "model_type": "mistral",
            "vocab_size": len(tokenizer),
            "num_hidden_layers": 31,
            "num_key_value_heads": 2,
        },
        vision_config={**small, "model_type": "pixtral", "num_hidden_layers": 1, "image_size": 56, "patch_size": 14},
        image_token_index=tokenizer.convert_tokens_to_ids("[IMG]"),
        spatial_merge_size=2,
    )
    processor = PixtralProcessor(
        image_processor=PixtralImageProcessor(patch_size=14, size={"longest_edge": 56}),
        tokenizer=tokenizer,
        patch_size=14,
        spatial_merge_size=2,
        chat_template=template,
    )
    with drawn():
        Flux2Pipeline(
            text_encoder=Mistral3ForConditionalGeneration(config), tokenizer=processor, **_flux2(48, True)
        ).save_pretrained(folder)


def qwen_edit(folder: Path) -> None:
    """Qwen-Image-Edit, for one picture: the parts of the tiny 2511."""
    from diffusers import QwenImageEditPipeline, QwenImageEditPlusPipeline

    idglow.qwen_edit_plus(folder)
    parts = QwenImageEditPlusPipeline.from_pretrained(folder, local_files_only=True).components
    QwenImageEditPipeline(**parts).save_pretrained(folder)
