"""Runner for OMG with InstantID (github.com/kongzhecn/OMG).

Unproven: written from the repository's code, never run with its weights.
Two people, 1024 x 1024: it looks for a `man` and a `woman` in the prompt, in this order of the references. The
repository's command line is called for each request, so its models are loaded each time.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

from protocol import Rejected, enter, run, serve  # type: ignore[import-not-found]


def load(start: dict[str, Any]) -> Any:
    return enter(start), start["models"]


def make(state: Any, request: dict[str, Any]) -> Any:
    repo, models = state
    settings, negative = request["settings"], request["negative"] or request["settings"]["negative_default"]
    words = re.findall(r"[a-z]+", request["prompt"].lower())
    if "man" not in words or "woman" not in words:
        raise Rejected("request.prompt", "the prompt must speak of a man and a woman")
    regions = [
        f"[{settings['region_prompt'].format(who=who)}]-*-[{negative}]-*-{one['image']}"
        for who, one in zip(("man", "woman"), request["references"])  # noqa: B905 - Python 3.9
    ]
    folder = Path(request["output"], request["id"])
    options = {
        "pretrained_model": models["base"],
        "controlnet_path": f"{models['adapter']}/ControlNetModel",
        "face_adapter_path": f"{models['adapter']}/ip-adapter.bin",
        "antelopev2_path": models["face"],
        "efficientViT_checkpoint": models["segmenter"],
        "save_dir": folder,
        "prompt": request["prompt"],
        "negative_prompt": negative,
        "prompt_rewrite": "|".join(regions),
        "seed": request["seed"],
        "segment_type": "yoloworld",
        "cfg_scale": settings["guidance"],
        "IdentityNet_rate": settings["identitynet_scale"],
        "adapter_ratio": settings["adapter_scale"],
    }
    command = [sys.executable, "inference_instantid.py"]
    run([*command, *(text for key, value in options.items() for text in (f"--{key}", str(value)))], repo)
    return str(folder / f"seed_{request['seed']}" / "stage-2.png")


serve(load, make, dtype="float16")
