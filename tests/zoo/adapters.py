"""Tiny adapters for the tiny pipelines, under the published names: LoRAs of UNO and ACE++, IP-Adapter-FaceID,
InstantID, Arc2Face."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.zoo import sd_methods
from tests.zoo.flux import DOUBLES, SINGLES, WIDTH
from tests.zoo.pipelines import TEXT, xl_unet
from tests.zoo.sd_methods import RANK, VISION
from tests.zoo.tokens import clip_tokenizer
from tests.zoo.weights import drawn, low_rank

VECTOR = 512
"""Numbers of a face vector."""


def xlabs_layers(doubles: int = DOUBLES, singles: int = SINGLES, width: int = WIDTH) -> dict[str, tuple[int, int]]:
    """UNO's layers, by XLabs' names: attention of both streams, and the single blocks' second linear layer."""
    layers = {}
    for block in range(doubles):
        for stream in (1, 2):
            layers[f"double_blocks.{block}.processor.qkv_lora{stream}"] = (3 * width, width)
            layers[f"double_blocks.{block}.processor.proj_lora{stream}"] = (width, width)
    for block in range(singles):
        layers[f"single_blocks.{block}.processor.qkv_lora"] = (3 * width, width)
        layers[f"single_blocks.{block}.processor.proj_lora"] = (width, 5 * width)
    return layers


def uno(folder: Path) -> None:
    """`dit_lora.safetensors`."""
    from safetensors.torch import save_file

    save_file(low_rank(xlabs_layers(), "down.weight", "up.weight"), folder / "dit_lora.safetensors")


def kohya_layers(
    doubles: int = DOUBLES, singles: int = SINGLES, width: int = WIDTH, fused: bool = False
) -> dict[str, tuple[int, int]]:
    """ACE++'s layers, by kohya's names. `fused`: with the single blocks' first linear layer, which diffusers splits at
    the real model's widths alone."""
    layers = {}
    for block in range(doubles):
        for stream in ("img", "txt"):
            start = f"lora_unet_double_blocks_{block}_{stream}"
            layers[f"{start}_attn_qkv"] = (3 * width, width)
            layers[f"{start}_attn_proj"] = (width, width)
            layers[f"{start}_mlp_0"] = (4 * width, width)
            layers[f"{start}_mlp_2"] = (width, 4 * width)
            layers[f"{start}_mod_lin"] = (6 * width, width)
    for block in range(singles):
        start = f"lora_unet_single_blocks_{block}"
        layers[f"{start}_linear2"] = (width, 5 * width)
        layers[f"{start}_modulation_lin"] = (3 * width, width)
        if fused:
            layers[f"{start}_linear1"] = (7 * width, width)
    return layers


def kohya_state(layers: dict[str, tuple[int, int]], rank: int = RANK, alpha: float = 2.0) -> dict[str, Any]:
    """Tensors of a kohya LoRA."""
    import torch

    state = low_rank(layers, "lora_down.weight", "lora_up.weight", rank)
    return state | {f"{name}.alpha": torch.tensor(alpha) for name in layers}


def ace_plus(folder: Path) -> None:
    """`portrait/comfyui_portrait_lora64.safetensors`."""
    from safetensors.torch import save_file

    (folder / "portrait").mkdir()
    save_file(kohya_state(kohya_layers()), folder / "portrait" / "comfyui_portrait_lora64.safetensors")


def adapter_attention(unet: Any, lora: bool) -> dict[str, Any]:
    """Tensors of `ip_adapter`: keys and values for each cross-attention, LoRAs for all attention."""
    import torch

    state = {}
    for number, name in enumerate(unet.attn_processors):
        module = unet.get_submodule(name.removesuffix(".processor"))
        outer, inner = module.to_k.weight.shape
        if name.endswith("attn2.processor"):
            for part in ("k", "v"):
                state[f"{number}.to_{part}_ip.weight"] = torch.randn(outer, inner) * 0.3
        for part in ("to_q", "to_k", "to_v", "to_out") if lora else ():
            layer = module.to_out[0] if part == "to_out" else getattr(module, part)
            outer, inner = layer.weight.shape
            state[f"{number}.{part}_lora.down.weight"] = torch.randn(RANK, inner) * 0.2
            state[f"{number}.{part}_lora.up.weight"] = torch.randn(outer, RANK) * 0.2
    return state


def mlp(tokens: int) -> dict[str, Any]:
    """Tensors of `image_proj` that turn a face vector into so many tokens."""
    import torch

    inner = 2 * VECTOR
    return {
        "proj.0.weight": torch.randn(inner, VECTOR) * 0.5,
        "proj.0.bias": torch.zeros(inner),
        "proj.2.weight": torch.randn(TEXT * tokens, inner) * 0.1,
        "proj.2.bias": torch.zeros(TEXT * tokens),
        "norm.weight": torch.ones(TEXT),
        "norm.bias": torch.zeros(TEXT),
    }


def perceiver(features: int, dim: int, out: int) -> dict[str, Any]:
    """Tensors of a perceiver of four layers with one head of 64."""
    from idtool.generate.flux.perceiver import Resampler

    state = Resampler(dim, depth=4, inner=64, queries=16, features=features, out=out).state_dict()
    return dict(state)


def _faceid(folder: Path, unet: Any, ending: str, plus: str) -> None:
    import torch

    prefix = "perceiver_resampler."
    with drawn(3):
        resampler = {prefix + name: tensor for name, tensor in perceiver(VISION, TEXT, TEXT).items()}
        del resampler[prefix + "latents"]
        for name, projection, lora in (
            ("ip-adapter-faceid", mlp(4), True),
            (f"ip-adapter-faceid-{plus}", mlp(4) | resampler, True),
            ("ip-adapter-faceid-portrait", mlp(16), False),
        ):
            parts = {"image_proj": projection, "ip_adapter": adapter_attention(unet, lora)}
            half = {part: {key: tensor.half() for key, tensor in state.items()} for part, state in parts.items()}
            torch.save(half, folder / f"{name}_{ending}.bin")


def faceid_sd15(folder: Path) -> None:
    """Adapters for SD1.5, in half precision: 2 MB each, for their first layer is as wide as in life."""
    _faceid(folder, sd_methods.unet(cross_attention_dim=TEXT), "sd15", "plusv2")


def faceid_sdxl(folder: Path) -> None:
    """Adapters for SDXL."""
    _faceid(folder, xl_unet(), "sdxl", "plusv2")


def instantid(folder: Path) -> None:
    """`ControlNetModel` and `ip-adapter.bin`."""
    from diffusers import ControlNetModel

    with drawn(4) as torch:
        controlnet = ControlNetModel.from_unet(xl_unet(), conditioning_channels=3)
        for tensor in controlnet.parameters():
            if tensor.ndim > 1:
                torch.nn.init.normal_(tensor, std=0.05)
        controlnet.save_pretrained(folder / "ControlNetModel")
        parts = {"image_proj": perceiver(VECTOR, 32, TEXT), "ip_adapter": adapter_attention(xl_unet(), False)}
        torch.save(parts, folder / "ip-adapter.bin")


def arc2face(folder: Path) -> None:
    """`arc2face` (the UNet) and `encoder`, which is wide enough for a face vector; in half precision."""
    from transformers import CLIPTextConfig, CLIPTextModel

    tokenizer = clip_tokenizer()
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=VECTOR + 16,
        intermediate_size=32,
        num_attention_heads=4,
        num_hidden_layers=1,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with drawn(5) as torch:
        unet = sd_methods.unet(block_out_channels=(8, 16), norm_num_groups=4, cross_attention_dim=VECTOR + 16)
        unet.half().save_pretrained(folder / "arc2face")
        encoder = CLIPTextModel(config)
        torch.nn.init.normal_(encoder.get_input_embeddings().weight, std=0.05)
        encoder.half().save_pretrained(folder / "encoder")
