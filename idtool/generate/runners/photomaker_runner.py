"""Runner for PhotoMaker V2 (github.com/TencentARC/PhotoMaker).

Unproven: written from the repository's code, never run with its weights.
Takes one person. The prompt must hold the trigger word `img` after a class word; where it does not, it is put behind
the first class word (`facts.prompt` says so).
"""

from __future__ import annotations

import re
from typing import Any

from protocol import Rejected, enter, pictures, serve  # type: ignore[import-not-found]

CLASSES = r"\b(man|woman|person|boy|girl|baby|guy|lady|gentleman|child)\b"


def load(start: dict[str, Any]) -> Any:
    enter(start)
    import torch
    from diffusers import EulerDiscreteScheduler
    from photomaker import (  # type: ignore[import-not-found]
        FaceAnalysis2,
        PhotoMakerStableDiffusionXLPipeline,
        analyze_faces,
    )

    models = start["models"]
    folder, file = models["adapter"].rsplit("/", 1)
    detector = FaceAnalysis2(providers=["CUDAExecutionProvider"], allowed_modules=["detection", "recognition"])
    detector.prepare(ctx_id=0, det_size=(640, 640))
    dtype = torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
    pipe = PhotoMakerStableDiffusionXLPipeline.from_pretrained(models["base"], torch_dtype=dtype).to("cuda")
    pipe.load_photomaker_adapter(folder, subfolder="", weight_name=file, trigger_word="img", pm_version="v2")
    pipe.fuse_lora()
    pipe.scheduler = EulerDiscreteScheduler.from_config(pipe.scheduler.config)
    return pipe, lambda image: analyze_faces(detector, image)


def make(state: Any, request: dict[str, Any]) -> Any:
    import numpy as np
    import torch

    pipe, analyze = state
    settings, prompt = request["settings"], request["prompt"]
    if "img" not in re.findall(r"\w+", prompt):
        prompt, found = re.subn(CLASSES, r"\1 img", prompt, count=1, flags=re.IGNORECASE)
        if not found:
            raise Rejected("request.prompt", "the prompt names no man, woman or the like for the trigger word img")
    images, embeddings = pictures(request), []
    for image in images:
        faces = analyze(np.array(image)[:, :, ::-1])
        if not faces:
            raise Rejected("reference.no_face", "InsightFace finds no face in the reference")
        embeddings.append(torch.from_numpy(faces[0]["embedding"]))
    out = pipe(
        prompt,
        negative_prompt=request["negative"] or settings["negative_default"],
        input_id_images=images,
        id_embeds=torch.stack(embeddings),
        width=request["width"],
        height=request["height"],
        num_inference_steps=settings["steps"],
        guidance_scale=settings["guidance"],
        start_merge_step=settings["merge_step"],
        generator=torch.Generator("cpu").manual_seed(request["seed"]),
    )
    return out.images[0], {"prompt": prompt}


serve(load, make, dtype="bfloat16 or float16")
