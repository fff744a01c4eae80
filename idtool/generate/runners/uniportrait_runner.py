"""Runner for UniPortrait (github.com/junjiehe96/UniPortrait).

Unproven: written from the repository's code, never run with its weights.
One person or several, without boxes: a router assigns the regions.
"""

from __future__ import annotations

from typing import Any

from protocol import Rejected, enter, pictures, serve  # type: ignore[import-not-found]


def load(start: dict[str, Any]) -> Any:
    enter(start)
    import torch
    from diffusers import AutoencoderKL, ControlNetModel, DDIMScheduler, StableDiffusionControlNetPipeline
    from insightface.app import FaceAnalysis
    from uniportrait.uniportrait_attention_processor import attn_args  # type: ignore[import-not-found]
    from uniportrait.uniportrait_pipeline import UniPortraitPipeline  # type: ignore[import-not-found]

    models, half = start["models"], torch.float16
    scheduler = DDIMScheduler(
        num_train_timesteps=1000,
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )
    pipe = StableDiffusionControlNetPipeline.from_pretrained(
        models["base"],
        controlnet=[ControlNetModel.from_pretrained(models["controlnet"], torch_dtype=half)],
        vae=AutoencoderKL.from_pretrained(models["vae"]).to(dtype=half),
        scheduler=scheduler,
        torch_dtype=half,
    )
    weights = models["weights"]
    portrait = UniPortraitPipeline(
        pipe,
        models["image_encoder"],
        ip_ckpt=models["adapter"],
        face_backbone_ckpt=f"{weights}/glint360k_curricular_face_r101_backbone.bin",
        uniportrait_faceid_ckpt=f"{weights}/uniportrait-faceid_sd15.bin",
        uniportrait_router_ckpt=f"{weights}/uniportrait-router_sd15.bin",
        device="cuda",
        torch_dtype=half,
    )
    detector = FaceAnalysis(providers=["CUDAExecutionProvider"], allowed_modules=["detection"])
    detector.prepare(ctx_id=0, det_size=(640, 640))
    return portrait, attn_args, detector


def aligned(detector: Any, image: Any) -> Any:
    """The largest face at 224 px; where none is found, once more with a grey border of a quarter."""
    import cv2
    import numpy as np
    from insightface.utils import face_align
    from PIL import Image

    picture = np.array(image)[:, :, ::-1].copy()
    height, width = picture.shape[:2]
    for share in (0.0, 0.25):
        y, x = int(height * share), int(width * share)
        padded = cv2.copyMakeBorder(picture, y, y, x, x, cv2.BORDER_CONSTANT, value=(128, 128, 128))
        faces = detector.get(padded)
        if faces:
            face = max(faces, key=lambda f: abs((f.bbox[2] - f.bbox[0]) * (f.bbox[3] - f.bbox[1])))
            crop = face_align.norm_crop(picture, landmark=face.kps - np.array([x, y]), image_size=224)
            return Image.fromarray(crop[:, :, ::-1])
    raise Rejected("reference.no_face", "InsightFace finds no face in the reference")


def make(state: Any, request: dict[str, Any]) -> Any:
    import torch

    portrait, attention, detector = state
    settings = request["settings"]
    people = [{"refs": [aligned(detector, image)]} for image in pictures(request)]
    attention.reset()
    attention.lora_scale = float(len(people) == 1)
    attention.multi_id_lora_scale = float(len(people) > 1)
    attention.faceid_scale = settings["faceid_scale"]
    attention.num_faceids = len(people)
    images = portrait.generate(
        prompt=[request["prompt"]],
        negative_prompt=[request["negative"] or settings["negative_default"]],
        cond_faceids=people,
        face_structure_scale=settings["face_structure_scale"],
        seed=request["seed"],
        guidance_scale=settings["guidance"],
        num_inference_steps=settings["steps"],
        image=[torch.zeros([1, 3, request["height"], request["width"]])],  # no pose
        controlnet_conditioning_scale=[0.0],
    )
    return images[0]


serve(load, make, dtype="float16")
