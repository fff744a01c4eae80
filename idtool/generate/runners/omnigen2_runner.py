"""Runner for OmniGen2 (github.com/VectorSpaceLab/OmniGen2).

Unproven: written from the repository's code, never run with its weights.
References are input images; the prompt speaks of them as the repository's examples do ("the person in image 1 …").
"""

from __future__ import annotations

from typing import Any

from protocol import enter, pictures, serve  # type: ignore[import-not-found]


def load(start: dict[str, Any]) -> Any:
    enter(start)
    import torch
    from omnigen2.models.transformers.transformer_omnigen2 import (  # type: ignore[import-not-found]
        OmniGen2Transformer2DModel,
    )
    from omnigen2.pipelines.omnigen2.pipeline_omnigen2 import (  # type: ignore[import-not-found]
        OmniGen2Pipeline,
    )

    base, dtype = start["models"]["base"], torch.bfloat16
    transformer = OmniGen2Transformer2DModel.from_pretrained(base, subfolder="transformer", torch_dtype=dtype)
    # The repository passes trust_remote_code=True; the setting is for those who have read that code.
    pipe = OmniGen2Pipeline.from_pretrained(
        base,
        transformer=transformer,
        torch_dtype=dtype,
        trust_remote_code=start["settings"]["trust_remote_code"],
    )
    if start["settings"]["offload"]:
        pipe.enable_model_cpu_offload()
        return pipe
    return pipe.to("cuda")


def make(pipe: Any, request: dict[str, Any]) -> Any:
    import torch

    settings = request["settings"]
    out = pipe(
        prompt=request["prompt"],
        input_images=pictures(request) or None,
        width=request["width"],
        height=request["height"],
        align_res=False,  # else one reference sets the size
        num_inference_steps=settings["steps"],
        max_sequence_length=1024,
        text_guidance_scale=settings["guidance"],
        image_guidance_scale=settings["image_guidance"],
        cfg_range=(settings["cfg_start"], settings["cfg_end"]),
        negative_prompt=request["negative"] or settings["negative_default"],
        num_images_per_prompt=1,
        generator=torch.Generator("cuda").manual_seed(request["seed"]),
        output_type="pil",
    )
    return out.images[0]


serve(load, make, dtype="bfloat16")
