"""The packaged pipelines.yaml with one more profile, `tiny`: every role on a checkpoint of the zoo."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from idtool.config import packaged_text
from tests.zoo import Zoo

ROLES: dict[str, list[dict[str, Any]]] = {
    "faces": [{"model": "insightface:tiny"}],
    "identity": [
        {"model": "insightface:tiny", "thresholds": {"same_person": 0.5}},
        {"model": "hf:tiny/facenet", "options": {"format": "facenet", "file": "model.pt"}},
        {"model": "hf:tiny/adaface", "options": {"format": "adaface", "file": "model.safetensors"}},
    ],
    "pose": [{"model": "insightface:tiny"}],
    "attributes": [{"model": "insightface:tiny"}],
    "clip": [{"model": "hf:tiny/clip"}, {"model": "open_clip:tiny-clip/random"}, {"model": "hf:tiny/siglip2"}],
    "features": [{"model": "hf:tiny/dino"}, {"model": "hf:tiny/dinov2"}, {"model": "hf:tiny/dinov3"}],
    "inception": [
        {
            "model": "hf:tiny/inception",
            "options": {"format": "fid-inception", "file": "pt_inception-2015-12-05-6726825d.pth"},
        }
    ],
    "aesthetic": [
        {
            "model": "hf:tiny/siglip-v2.5",
            "options": {"format": "siglip-v2.5", "file": "head.pth", "backbone": "hf:tiny/siglip"},
        },
        {
            "model": "hf:tiny/laion-v2",
            "options": {"format": "laion-v2", "file": "head.pth", "backbone": "hf:tiny/clip"},
        },
    ],
    "iqa": [{"model": "hf:tiny/clip"}],
    "expression": [
        {"model": "hf:tiny/resemotenet", "options": {"format": "resemotenet", "file": "fer2013_model.pth"}},
        {"model": "hf:tiny/hsemotion", "options": {"format": "hsemotion", "file": "enet_b0_8_best_vgaf.onnx"}},
    ],
    "nsfw": [{"model": "hf:tiny/nsfw"}],
    "parser": [
        {"model": "hf:tiny/bisenet", "options": {"format": "bisenet", "file": "face_parsing.pth"}},
        {"model": "hf:tiny/segformer"},
    ],
    "grounder": [{"model": "hf:tiny/grounding-dino"}, {"model": "hf:tiny/mm-grounding-dino"}],
    "segmenter": [
        {"model": "hf:tiny/sam"},
        {"model": "hf:tiny/sam2"},
        {"model": "hf:tiny/sam3", "options": {"format": "sam3"}},
        {"model": "hf:tiny/segment-anything", "options": {"format": "segment-anything", "file": "model.pth"}},
    ],
    "swapper": [{"model": "insightface:tiny-swapper", "options": {"backbone": "insightface:tiny"}}],
    "restorer": [
        {"model": "hf:tiny/codeformer", "options": {"format": "codeformer", "file": "codeformer.pth"}},
    ],
    "captioner": [{"model": "hf:tiny/qwen2-vl", "options": {"batch": 2}}],
    "judge": [{"model": "hf:tiny/qwen3-vl"}],
}
"""Role -> bindings, all terms aside."""


def names(role: str | None = None) -> set[str]:
    """The checkpoints of the zoo that a role needs, or all of them."""
    found = set()
    for bound in [ROLES[role]] if role else ROLES.values():
        for binding in bound:
            addresses = [binding["model"], binding.get("options", {}).get("backbone", "")]
            found |= {address.split("/")[-1] for address in addresses if address.startswith("hf:tiny/")}
            found |= {"face-pack"} if "insightface:tiny" in addresses else set()
            found |= {"inswapper"} if binding["model"] == "insightface:tiny-swapper" else set()
            found |= {"open_clip"} if binding["model"].startswith("open_clip:") else set()
    return found


def tiny_pipelines(folder: Path, zoo: Zoo, *roles: str, profile: str = "tiny") -> Path:
    """`folder/pipelines.yaml` with the profile, and the checkpoints of `roles` (default: all) built."""
    chosen = roles or tuple(ROLES)
    content = yaml.safe_load(packaged_text())
    bindings = {role: [{"licence": "random weights", **binding} for binding in ROLES[role]] for role in chosen}
    content["profiles"][profile] = {"summary": "random weights", "device": "cpu", "roles": bindings}
    for role in chosen:
        for name in sorted(names(role)):
            zoo(name)
    path = folder / "pipelines.yaml"
    path.write_text(yaml.safe_dump(content, sort_keys=False, allow_unicode=True), "utf-8")
    return path
