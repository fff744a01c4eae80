"""Tiny FLUX.1 pipelines, and tiny checkpoints of the methods on the FLUX runtime, under the published names."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.zoo.tokens import clip_tokenizer
from tests.zoo.weights import drawn, low_rank

WIDTH = 32
"""Of the transformer: two heads of 16."""
DOUBLES, SINGLES = 2, 2


def t5_tokenizer(length: int = 512) -> Any:
    """T5's tokenizer over printable ASCII, a token a character."""
    from transformers import T5Tokenizer

    vocabulary = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("\u2581", -2.0)]
    vocabulary += [(chr(code), -3.0) for code in range(33, 127)]
    vocabulary += [(f"<extra_id_{k}>", 0.0) for k in reversed(range(100))]
    return T5Tokenizer(vocab=vocabulary, extra_ids=100, model_max_length=length)


def transformer(channels: int = 64, guidance: bool = True, **changes: Any) -> Any:
    """`FluxTransformer2DModel`, two double and two single blocks."""
    from diffusers import FluxTransformer2DModel

    return FluxTransformer2DModel(**sizes(channels, guidance, **changes))


def sizes(channels: int = 64, guidance: bool = True, **changes: Any) -> dict[str, Any]:
    """Arguments of the transformer's class."""
    return {
        "in_channels": channels,
        "out_channels": 64,
        "num_layers": DOUBLES,
        "num_single_layers": SINGLES,
        "attention_head_dim": WIDTH // 2,
        "num_attention_heads": 2,
        "joint_attention_dim": WIDTH,
        "pooled_projection_dim": WIDTH,
        "axes_dims_rope": (4, 4, 8),
        "guidance_embeds": guidance,
        **changes,
    }


def parts(channels: int = 64, guidance: bool = True) -> dict[str, Any]:
    """The components of a FLUX.1 pipeline."""
    from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler
    from transformers import CLIPTextConfig, CLIPTextModel, T5Config, T5EncoderModel

    clip, t5 = clip_tokenizer(), t5_tokenizer()
    with drawn():
        return {
            "scheduler": FlowMatchEulerDiscreteScheduler(
                use_dynamic_shifting=guidance,
                shift=3.0 if guidance else 1.0,
                base_shift=0.5,
                max_shift=1.15,
                base_image_seq_len=256,
                max_image_seq_len=4096,
            ),
            "vae": AutoencoderKL(
                sample_size=64,
                block_out_channels=(4, 4, 8, 8),
                down_block_types=("DownEncoderBlock2D",) * 4,
                up_block_types=("UpDecoderBlock2D",) * 4,
                layers_per_block=1,
                latent_channels=16,
                norm_num_groups=2,
                use_quant_conv=False,
                use_post_quant_conv=False,
                shift_factor=0.1159,
                scaling_factor=0.3611,
            ),
            "text_encoder": CLIPTextModel(
                CLIPTextConfig(
                    vocab_size=len(clip),
                    hidden_size=WIDTH,
                    intermediate_size=37,
                    num_attention_heads=4,
                    num_hidden_layers=2,
                    projection_dim=WIDTH,
                    bos_token_id=clip.bos_token_id,
                    eos_token_id=clip.eos_token_id,
                    pad_token_id=clip.pad_token_id,
                )
            ),
            "tokenizer": clip,
            "text_encoder_2": T5EncoderModel(
                T5Config(
                    vocab_size=len(t5),
                    d_model=WIDTH,
                    d_kv=8,
                    d_ff=37,
                    num_layers=2,
                    num_heads=4,
                    feed_forward_proj="gated-gelu",
                    tie_word_embeddings=False,
                )
            ),
            "tokenizer_2": t5,
            "transformer": transformer(channels, guidance),
        }


def flux(folder: Path) -> None:
    """FLUX.1-dev: with guidance, the schedule shifted by size."""
    from diffusers import FluxPipeline

    FluxPipeline(**parts()).save_pretrained(folder)


def flux_schnell(folder: Path) -> None:
    """FLUX.1-schnell: without either."""
    from diffusers import FluxPipeline

    FluxPipeline(**parts(guidance=False)).save_pretrained(folder)


def flux_fill(folder: Path) -> None:
    """FLUX.1-Fill: noise, masked image and mask in 384 channels."""
    from diffusers import FluxFillPipeline

    FluxFillPipeline(**parts(384)).save_pretrained(folder)


def lora_state(layers: dict[str, tuple[int, int]], rank: int = 4, prefix: str = "transformer.") -> dict[str, Any]:
    """A LoRA by diffusers' names, for layers (width out, width in)."""
    named = {f"{prefix}{layer}": shape for layer, shape in layers.items()}
    return low_rank(named, "lora_A.weight", "lora_B.weight", rank)


def lora_layers(*endings: str, network: Any = None) -> dict[str, tuple[int, int]]:
    """Linear layers whose names end so, with their shapes; `network`: in place of the tiny transformer."""
    from torch import nn

    return {
        name: tuple(module.weight.shape)
        for name, module in (network or transformer()).named_modules()
        if isinstance(module, nn.Linear) and name.endswith(endings)
    }


OMINI = ("attn.to_q", "attn.to_k", "norm1.linear", ".norm.linear", "x_embedder", "ff.net.2")
INSTRUCT = ("attn.to_q", "attn.to_k", "attn.to_v", "to_out.0", "net.0.proj", "net.2", "x_embedder", "add_q_proj")


def ominicontrol(folder: Path) -> None:
    """`omini/subject_512.safetensors`: diffusers' names, no alpha, no card."""
    from safetensors.torch import save_file

    (folder / "omini").mkdir()
    save_file(lora_state(lora_layers(*OMINI)), folder / "omini" / "subject_512.safetensors")


def dmid_state(d2: int | None = 8) -> dict[str, Any]:
    """A LoRA on the condition and, with `d2`, an AttnMaskNet in every block, not neutral."""
    from idtool.generate.flux.attn_mask_net import AttnMaskNets, sites_of

    state = lora_state(lora_layers(*OMINI), prefix="")
    if d2 is not None:
        with drawn(2) as torch:
            masks = AttnMaskNets(sites_of(transformer()), WIDTH, d2)
            state |= {key: torch.randn(tensor.shape) * 0.5 for key, tensor in masks.state_dict().items()}
    return state


def dmid(folder: Path) -> None:
    """A checkpoint with its card."""
    from idtool.generate.flux.checkpoint import Card, write

    card = Card(method="dmid", base="tiny/flux", rank=4, alpha=4, position_delta=(0, -4), condition_size=64, d2=8)
    write(folder / "dmid.safetensors", dmid_state(), card)
    write(folder / "dmid-1.safetensors", dmid_state(None), card.model_copy(update={"d2": None}))


def instruct_identity(folder: Path) -> None:
    """A LoRA on attention, feed-forward layers and the embedder, with its card."""
    from idtool.generate.flux.checkpoint import Card, write

    card = Card(method="instruct-identity", base="tiny/flux", rank=8, alpha=8)
    write(folder / "lora.safetensors", lora_state(lora_layers(*INSTRUCT), 8, ""), card)


def pulid(folder: Path) -> None:
    """`pulid_flux_v0.9.1.safetensors`: face vectors of 512, a tower of width 16 that gives 24 numbers."""
    from safetensors.torch import save_file

    from idtool.generate.flux.id_former import IDFormer, Pulid, sites
    from idtool.generate.flux.perceiver import PerceiverAttention

    with drawn():
        encoder = IDFormer(
            dim=16, inner=64, depth=10, queries=4, tokens=2, out=24, vector=512 + 24, features=16, hidden=16
        )
        cross = [PerceiverAttention(WIDTH, 128, 24, 128, itself=False) for _ in sites(DOUBLES, SINGLES)]
        save_file(Pulid(encoder, cross).state_dict(), folder / "pulid_flux_v0.9.1.safetensors")


def eva(folder: Path) -> None:
    """EVA02-CLIP's tower in timm's folder layout, 56 px, six blocks."""
    import timm
    from safetensors.torch import save_file

    told = {
        "architecture": "eva02_large_patch14_clip_336",
        "num_classes": 24,
        "model_args": {"img_size": 56, "embed_dim": 16, "depth": 6, "num_heads": 2},
    }
    with drawn():
        network = timm.create_model(told["architecture"], num_classes=24, **told["model_args"])
    save_file(network.state_dict(), folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(told), "utf-8")


def infiniteyou(folder: Path) -> None:
    """`infu_flux_v1.0/{aes_stage2,sim_stage1}`: InfuseNet and the projection."""
    from diffusers import FluxControlNetModel

    from idtool.generate.flux.perceiver import Resampler

    for seed, variant in enumerate(("aes_stage2", "sim_stage1")):
        place = folder / "infu_flux_v1.0" / variant
        with drawn(seed) as torch:
            controlnet = FluxControlNetModel(
                **{key: value for key, value in sizes().items() if key != "out_channels"}, num_mode=None
            )
            for tensor in controlnet.parameters():
                torch.nn.init.normal_(tensor, std=0.2)
            controlnet.save_pretrained(place / "InfuseNetModel")
            resampler = Resampler(dim=16, depth=2, inner=64, queries=8, features=512, out=WIDTH)
            torch.save({"image_proj": resampler.state_dict()}, place / "image_proj_model.bin")


def irse50(folder: Path) -> None:
    """`recognition_arcface_ir_se50.pth`, a sixteenth as wide."""
    from idtool.generate.flux.irse import IrSe50

    with drawn() as torch:
        torch.save(IrSe50(1 / 16).state_dict(), folder / "recognition_arcface_ir_se50.pth")


def dsd(folder: Path) -> None:
    """`primecai/dsd_model`: a transformer with `c_embedder`, and a LoRA for it."""
    from safetensors.torch import save_file

    from idtool.generate.flux.dsd_transformer import DsdTransformer

    with drawn():
        DsdTransformer(**sizes()).save_pretrained(folder / "transformer")
    save_file(lora_state(lora_layers("attn.to_q", "attn.to_v")), folder / "pytorch_lora_weights.safetensors")
