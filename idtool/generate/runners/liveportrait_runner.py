"""Runner for LivePortrait (github.com/KwaiVGI/LivePortrait).

Unproven: written from the repository's code, never run with its weights.
Reenactment: the first reference gives the person, the second one expression and pose. There is no prompt and no seed;
the image has the size of the first reference. It needs ffmpeg on PATH only for videos, which idtool does not send.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from protocol import Rejected, enter, serve  # type: ignore[import-not-found]


def load(start: dict[str, Any]) -> Any:
    enter(start)
    from src.config.argument_config import ArgumentConfig  # type: ignore[import-not-found]
    from src.config.crop_config import CropConfig  # type: ignore[import-not-found]
    from src.config.inference_config import InferenceConfig  # type: ignore[import-not-found]
    from src.live_portrait_pipeline import LivePortraitPipeline  # type: ignore[import-not-found]

    weights, settings = start["models"]["base"], start["settings"]
    base, retargeting = f"{weights}/liveportrait/base_models", f"{weights}/liveportrait/retargeting_models"
    inference = InferenceConfig(
        checkpoint_F=f"{base}/appearance_feature_extractor.pth",
        checkpoint_M=f"{base}/motion_extractor.pth",
        checkpoint_G=f"{base}/spade_generator.pth",
        checkpoint_W=f"{base}/warping_module.pth",
        checkpoint_S=f"{retargeting}/stitching_retargeting_module.pth",
        animation_region=settings["region"],
        flag_relative_motion=settings["relative"],
        flag_normalize_lip=False,
        driving_option=settings["option"],
        driving_multiplier=settings["multiplier"],
    )
    crop = CropConfig(
        insightface_root=f"{weights}/insightface",
        landmark_ckpt_path=f"{weights}/liveportrait/landmark.onnx",
        det_thresh=settings["det_thresh"],
        scale=settings["scale"],
    )
    return LivePortraitPipeline(inference_cfg=inference, crop_cfg=crop), ArgumentConfig


def make(state: Any, request: dict[str, Any]) -> str:
    from PIL import Image

    pipeline, arguments = state
    source, driver = (one["image"] for one in request["references"])
    folder = Path(request["output"], request["id"])
    made, _ = pipeline.execute(arguments(source=source, driving=driver, output_dir=str(folder)))
    if not Path(made).exists():
        raise Rejected("reference.no_face", "LivePortrait gives no image: it found no face")
    # It writes JPEG with a comparison beside it; only the image is kept.
    path = folder.with_suffix(".png")
    Image.open(made).save(path)
    return str(path)


serve(load, make, dtype="float16")
