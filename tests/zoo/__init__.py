"""Tiny random checkpoints in the real architectures, written by the real `save_pretrained`: deterministic, a few MB
each, made on demand once per test run. The product loads them as it loads any model: by address, from a mirror.

Their numbers mean nothing; what they prove is that files, shapes, names and preprocessing fit together.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

BUILDERS: dict[str, tuple[str, str]] = {
    # name: (builder, folder below the mirror)
    "clip": ("tests.zoo.clip:clip", "tiny/clip"),
    "siglip": ("tests.zoo.clip:siglip", "tiny/siglip"),
    "siglip2": ("tests.zoo.clip:siglip2", "tiny/siglip2"),
    "open_clip": ("tests.zoo.clip:open_clip", "open_clip/tiny-clip/random"),
    "dino": ("tests.zoo.vision:dino", "tiny/dino"),
    "dinov2": ("tests.zoo.vision:dinov2", "tiny/dinov2"),
    "dinov3": ("tests.zoo.vision:dinov3", "tiny/dinov3"),
    "laion-v2": ("tests.zoo.heads:laion_v2", "tiny/laion-v2"),
    "siglip-v2.5": ("tests.zoo.heads:siglip_v25", "tiny/siglip-v2.5"),
    "face-pack": ("tests.zoo.face_pack:face_pack", "insightface/tiny"),
    "facenet": ("tests.zoo.recognition:facenet", "tiny/facenet"),
    "wan21": ("tests.zoo.video:wan21", "tiny/wan21"),
    "wan22": ("tests.zoo.video:wan22", "tiny/wan22"),
    "ltx": ("tests.zoo.video:ltx", "tiny/ltx"),
    "inswapper": ("tests.zoo.swapper:inswapper", "insightface/tiny-swapper"),
    "codeformer": ("tests.zoo.restorer:codeformer", "tiny/codeformer"),
    "inception": ("tests.zoo.inception:inception", "tiny/inception"),
    "adaface": ("tests.zoo.recognition:adaface", "tiny/adaface"),
    "yunet": ("tests.zoo.recognition:yunet", "tiny/yunet"),
    "sface": ("tests.zoo.recognition:sface", "tiny/sface"),
    "resemotenet": ("tests.zoo.emotion:resemotenet", "tiny/resemotenet"),
    "hsemotion": ("tests.zoo.emotion:hsemotion", "tiny/hsemotion"),
    "nsfw": ("tests.zoo.emotion:nsfw", "tiny/nsfw"),
    "bisenet": ("tests.zoo.parsing:bisenet", "tiny/bisenet"),
    "segformer": ("tests.zoo.parsing:segformer", "tiny/segformer"),
    "grounding-dino": ("tests.zoo.segmentation:grounding_dino", "tiny/grounding-dino"),
    "mm-grounding-dino": ("tests.zoo.segmentation:mm_grounding_dino", "tiny/mm-grounding-dino"),
    "sam": ("tests.zoo.segmentation:sam", "tiny/sam"),
    "sam2": ("tests.zoo.segmentation:sam2", "tiny/sam2"),
    "sam3": ("tests.zoo.segmentation:sam3", "tiny/sam3"),
    "segment-anything": ("tests.zoo.segmentation:segment_anything", "tiny/segment-anything"),
    "qwen2-vl": ("tests.zoo.vlm:qwen2_vl", "tiny/qwen2-vl"),
    "qwen2.5-vl": ("tests.zoo.vlm:qwen25_vl", "tiny/qwen2.5-vl"),
    "qwen3-vl": ("tests.zoo.vlm:qwen3_vl", "tiny/qwen3-vl"),
    "llava": ("tests.zoo.vlm:llava", "tiny/llava"),
    "internvl": ("tests.zoo.vlm:internvl", "tiny/internvl"),
    "smolvlm": ("tests.zoo.vlm:smolvlm", "tiny/smolvlm"),
    "gemma3": ("tests.zoo.vlm:gemma3", "tiny/gemma3"),
    "flux": ("tests.zoo.flux:flux", "tiny/flux"),
    "flux-schnell": ("tests.zoo.flux:flux_schnell", "tiny/flux-schnell"),
    "flux-fill": ("tests.zoo.flux:flux_fill", "tiny/flux-fill"),
    "ominicontrol": ("tests.zoo.flux:ominicontrol", "tiny/ominicontrol"),
    "dmid": ("tests.zoo.flux:dmid", "tiny/dmid"),
    "instruct-identity": ("tests.zoo.flux:instruct_identity", "tiny/instruct-identity"),
    "pulid": ("tests.zoo.flux:pulid", "tiny/pulid"),
    "eva": ("tests.zoo.flux:eva", "tiny/eva"),
    "infiniteyou": ("tests.zoo.flux:infiniteyou", "tiny/infiniteyou"),
    "irse50": ("tests.zoo.flux:irse50", "tiny/irse50"),
    "dsd": ("tests.zoo.flux:dsd", "tiny/dsd"),
    "dynamicid": ("tests.zoo.sd_methods:dynamicid", "tiny/dynamicid"),
    "consistentid": ("tests.zoo.sd_methods:consistentid", "tiny/consistentid"),
    "photomaker": ("tests.zoo.sd_methods:photomaker", "tiny/photomaker"),
    "fastcomposer": ("tests.zoo.sd_methods:fastcomposer", "tiny/fastcomposer"),
    "sd15": ("tests.zoo.pipelines:sd15", "tiny/sd15"),
    "sd15-long": ("tests.zoo.pipelines:sd15_long", "tiny/sd15-long"),
    "sdxl": ("tests.zoo.pipelines:sdxl", "tiny/sdxl"),
    "sd-vae": ("tests.zoo.pipelines:vae", "tiny/sd-vae"),
    "flux-kontext": ("tests.zoo.pipelines:flux_kontext", "tiny/flux-kontext"),
    "flux2-klein": ("tests.zoo.pipelines:flux2_klein", "tiny/flux2-klein"),
    "flux2": ("tests.zoo.pipelines:flux2", "tiny/flux2"),
    "qwen-edit": ("tests.zoo.pipelines:qwen_edit", "tiny/qwen-edit"),
    "uno": ("tests.zoo.adapters:uno", "tiny/uno"),
    "ace-plus": ("tests.zoo.adapters:ace_plus", "tiny/ace-plus"),
    "faceid-sd15": ("tests.zoo.adapters:faceid_sd15", "tiny/faceid-sd15"),
    "faceid-sdxl": ("tests.zoo.adapters:faceid_sdxl", "tiny/faceid-sdxl"),
    "instantid": ("tests.zoo.adapters:instantid", "tiny/instantid"),
    "arc2face": ("tests.zoo.adapters:arc2face", "tiny/arc2face"),
    "qwen-edit-plus": ("tests.zoo.idglow:qwen_edit_plus", "tiny/qwen-edit-plus"),
    "idglow": ("tests.zoo.idglow:idglow", "tiny/idglow"),
}


class Zoo:
    """A mirror of models (`IDTOOL_MODELS`) that fills as checkpoints are asked for."""

    def __init__(self, mirror: Path) -> None:
        self.mirror = mirror
        self._lock = threading.Lock()

    def __call__(self, name: str, *others: str) -> Path:
        """The folder of a checkpoint. It and the others are built now if they are not there yet."""
        for other in others:
            self(other)
        builder, place = BUILDERS[name]
        folder = self.mirror / place
        with self._lock:
            if not folder.is_dir():
                module, _, function = builder.partition(":")
                build: Callable[[Path], None] = getattr(import_module(module), function)
                folder.mkdir(parents=True)
                build(folder)
        return folder
