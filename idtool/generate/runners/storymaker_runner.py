"""Runner for StoryMaker (github.com/RedAIGC/StoryMaker).

Unproven: written from the repository's code, never run with its weights.
One person or two. It wants a mask of each person; the repository ships none for your pictures, so rembg makes them.
"""

from __future__ import annotations

from typing import Any

from protocol import Rejected, enter, pictures, serve  # type: ignore[import-not-found]


def load(start: dict[str, Any]) -> Any:
    enter(start)
    import torch
    from diffusers import UniPCMultistepScheduler
    from insightface.app import FaceAnalysis
    from pipeline_sdxl_storymaker import StableDiffusionXLStoryMakerPipeline  # type: ignore[import-not-found]
    from rembg import new_session  # type: ignore[import-not-found]

    models, settings = start["models"], start["settings"]
    detector = FaceAnalysis(name="buffalo_l", providers=["CUDAExecutionProvider", "CPUExecutionProvider"])
    detector.prepare(ctx_id=0, det_size=(640, 640))
    pipe = StableDiffusionXLStoryMakerPipeline.from_pretrained(models["base"], torch_dtype=torch.float16)
    pipe.cuda()
    scales = {"scale": settings["adapter_scale"], "lora_scale": settings["lora_scale"]}
    pipe.load_storymaker_adapter(models["image_encoder"], models["adapter"], **scales)
    pipe.scheduler = UniPCMultistepScheduler.from_config(pipe.scheduler.config)
    return pipe, detector, new_session("u2net_human_seg")


def make(state: Any, request: dict[str, Any]) -> Any:
    import numpy as np
    import torch
    from rembg import remove

    pipe, detector, session = state
    settings, people = request["settings"], {}
    for image, suffix in zip(pictures(request), ("", "_2")):  # noqa: B905 - Python 3.9
        faces = detector.get(np.array(image)[:, :, ::-1])
        if not faces:
            raise Rejected("reference.no_face", "InsightFace finds no face in the reference")
        largest = max(faces, key=lambda f: (f["bbox"][2] - f["bbox"][0]) * (f["bbox"][3] - f["bbox"][1]))
        mask = remove(image, session=session, only_mask=True).convert("RGB")
        people.update({f"image{suffix}": image, f"mask_image{suffix}": mask, f"face_info{suffix}": largest})
    out = pipe(
        **people,
        prompt=request["prompt"],
        negative_prompt=request["negative"] or settings["negative_default"],
        ip_adapter_scale=settings["adapter_scale"],
        lora_scale=settings["lora_scale"],
        num_inference_steps=settings["steps"],
        guidance_scale=settings["guidance"],
        height=request["height"],
        width=request["width"],
        generator=torch.Generator("cuda").manual_seed(request["seed"]),
    )
    return out.images[0], {"masks": "rembg u2net_human_seg"}


serve(load, make, dtype="float16")
