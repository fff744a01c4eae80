"""Parts of tiny Stable Diffusion pipelines, and tiny checkpoints of the methods on the SD runtime, under the published
names. The pipelines themselves are in `tests.zoo.pipelines`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.zoo.tokens import clip_tokenizer
from tests.zoo.weights import drawn

WIDTH = 64
"""Of text and identity tokens."""
RANK = 4
VISION = 32
"""Width of the tower of `tiny/clip`."""


def unet(**changes: Any) -> Any:
    """SD 1.5's UNet with two levels, both with cross-attention."""
    from diffusers import UNet2DConditionModel

    sizes = {
        "sample_size": 8,
        "layers_per_block": 1,
        "block_out_channels": (16, 32),
        "norm_num_groups": 8,
        "down_block_types": ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        "cross_attention_dim": WIDTH,
        "attention_head_dim": 2,
        **changes,
    }
    return UNet2DConditionModel(**sizes)


def vae() -> Any:
    """Eight pixels to a latent."""
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        sample_size=64,
        block_out_channels=(4, 4, 8, 8),
        down_block_types=["DownEncoderBlock2D"] * 4,
        up_block_types=["UpDecoderBlock2D"] * 4,
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=2,
    )


def text_encoder(width: int = WIDTH, projected: int | None = None, length: int = 77) -> Any:
    """CLIP's text tower over `length` bytes; `projected`: with a projection of that width."""
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    tokenizer = clip_tokenizer()
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=width,
        num_attention_heads=2,
        num_hidden_layers=2,
        projection_dim=projected or width,
        max_position_embeddings=length,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return CLIPTextModelWithProjection(config) if projected else CLIPTextModel(config)


def stable_diffusion(folder: Path, length: int = 77, **changes: Any) -> None:
    """A pipeline in SD 1.5's layout, with its scheduler; `length`: of prompts; `changes`: of the UNet."""
    from diffusers import PNDMScheduler, StableDiffusionPipeline

    with drawn():
        StableDiffusionPipeline(
            scheduler=PNDMScheduler(
                beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", skip_prk_steps=True, steps_offset=1
            ),
            vae=vae(),
            text_encoder=text_encoder(length=length),
            tokenizer=clip_tokenizer(length),
            unet=unet(**changes),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        ).save_pretrained(folder)


def loud(network: Any, gain: float = 1.0) -> dict[str, Any]:
    """The state dict of a network with its matrices drawn wide, so that what it adds can be seen."""
    import torch

    return {
        name: torch.randn(tensor.shape) * gain / max(tensor.shape[-1], 1) ** 0.5 if tensor.ndim == 2 else tensor.clone()
        for name, tensor in network.state_dict().items()
    }


def processors() -> dict[str, Any]:
    """State of the module list over the UNet's attention processors."""
    from idtool.generate.sd.attention import Conditions, install

    return loud(install(unet(), Conditions(), RANK))


def projection() -> dict[str, Any]:
    """State of `ProjPlusModel` from face vectors of 512 and the tower of `tiny/clip`."""
    from idtool.generate.sd.projection import FaceProjection, FaceResampler

    resampler = FaceResampler(dim=WIDTH, depth=2, inner=64, features=VISION, out=WIDTH)
    return loud(FaceProjection(vector=512, hidden=64, width=WIDTH, count=4, resampler=resampler))


def dynamicid(folder: Path) -> None:
    """`SAA.bin`, `IMR_1.bin`, `key_point_encoder_1.bin`."""
    from idtool.generate.sd.imr import KeyPointEncoder, Reconfigurator

    with drawn(3) as torch:
        torch.save({"proj_module": projection(), "SAA_module": processors()}, folder / "SAA.bin")
        imr = Reconfigurator(width=WIDTH, text=WIDTH, dim=16, inner=64, count=4, disentangle=1, entangle=1)
        torch.save(imr.state_dict(), folder / "IMR_1.bin")
        torch.save(KeyPointEncoder(2, WIDTH).state_dict(), folder / "key_point_encoder_1.bin")


def consistentid(folder: Path) -> None:
    """`ConsistentID-v1.bin`, and the same as the authors' script for it names a section."""
    from idtool.generate.flux.perceiver import Resampler
    from idtool.generate.sd.facial import FacialEncoder

    with drawn(4) as torch:
        facial = FacialEncoder(Resampler(dim=16, depth=2, inner=64, queries=1, features=VISION, out=WIDTH), WIDTH)
        parts = {"FacialEncoder": loud(facial), "adapter_modules": processors()}
        state = projection()
    torch.save({**parts, "image_proj": state}, folder / "ConsistentID-v1.bin")
    torch.save({**parts, "image_proj_model": state}, folder / "converted.bin")


def tower(projected: int) -> Any:
    """CLIP's image tower as methods keep it in their own files."""
    from idtool.generate.sd.clip_state import Vision

    return Vision(tower_settings(projected))


def tower_settings(projected: int) -> dict[str, int]:
    """28 px, two layers, one head."""
    return {
        "hidden_size": 64,
        "intermediate_size": 32,
        "num_attention_heads": 1,
        "num_hidden_layers": 2,
        "patch_size": 14,
        "image_size": 28,
        "projection_dim": projected,
    }


def photomaker(folder: Path) -> None:
    """`photomaker-v1.bin` and `-v2.bin` for the SDXL of `tests.zoo.pipelines`."""
    from idtool.generate.sd.id_encoder import HEAD, FaceTokens, IdEncoder
    from idtool.generate.sd.projection import FaceResampler
    from tests.zoo.pipelines import xl_unet

    half = WIDTH // 2
    with drawn(8) as torch:
        lora = {}
        network = xl_unet()
        for name in network.attn_processors:
            attention = network.get_submodule(name.removesuffix(".processor"))
            for part in ("q", "k", "v", "out"):
                layer = attention.to_out[0] if part == "out" else getattr(attention, f"to_{part}")
                start = f"unet.{name}.to_{part}_lora"
                lora[f"{start}.down.weight"] = torch.randn(RANK, layer.in_features) * 0.3
                lora[f"{start}.up.weight"] = torch.randn(layer.out_features, RANK) * 0.3
        resampler = FaceResampler(dim=WIDTH, depth=2, inner=HEAD, features=64, out=WIDTH, head=HEAD)
        faces = FaceTokens(512, 64, WIDTH, 2, resampler)
        for version, tokens in ((1, None), (2, faces)):
            encoder = IdEncoder(tower_settings(half), half, tokens)
            state = {"id_encoder": encoder.state_dict(), "lora_weights": lora}
            torch.save(state, folder / f"photomaker-v{version}.bin")


def fastcomposer(folder: Path) -> None:
    """`pytorch_model.bin`: all of the model in one flat dict, with what older versions of transformers left in it."""
    from idtool.generate.sd.fuse import Fuse

    with drawn(9) as torch:
        parts = {
            "unet": unet(),
            "text_encoder": text_encoder(),
            "image_encoder": tower(WIDTH),
            "postfuse_module": Fuse(WIDTH),
            "vae": vae(),
        }
    state = {f"{part}.{name}": value for part, network in parts.items() for name, value in network.state_dict().items()}
    state["text_encoder.embeddings.position_ids"] = torch.arange(77)[None]
    state["image_encoder.vision_model.embeddings.position_ids"] = torch.arange(5)[None]
    torch.save(state, folder / "pytorch_model.bin")
