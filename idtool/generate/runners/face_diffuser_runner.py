"""Runner for Face-Diffuser (github.com/CodeGoat24/Face-diffuser).

Unproven: written from the repository's code, never run with its weights.
One person or several; each is named in the prompt by `<|image|>` after its noun ("a man <|image|> and a woman
<|image|>"). The repository's command line is called for each request, so its models are loaded each time.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

from protocol import Rejected, enter, run, serve  # type: ignore[import-not-found]


def load(start: dict[str, Any]) -> Any:
    return enter(start), start["models"]


def make(state: Any, request: dict[str, Any]) -> Any:
    repo, models = state
    settings, count = request["settings"], len(request["references"])
    if request["prompt"].count("<|image|>") != count:
        raise Rejected("request.prompt", f"the prompt must hold <|image|> {count} time(s), once for each reference")
    if count > 1:
        # It takes the people in the order of os.listdir, which is nobody's to choose.
        sys.stderr.write("the order of the people depends on the file system\n")
    folder = Path(request["output"], request["id"])
    for number, one in enumerate(request["references"]):
        (folder / "in" / str(number)).mkdir(parents=True)
        shutil.copyfile(one["image"], folder / "in" / str(number) / "0.png")
    options = {
        "pretrained_model_name_or_path": models["base"],
        "finetuned_model_path": f"{models['adapter']}/SDM",
        "finetuned_model_text_only_path": f"{models['adapter']}/TDM",
        "test_reference_folder": folder / "in",
        "test_caption": request["prompt"],
        "output_dir": folder / "made",
        "mixed_precision": "fp16",
        "image_encoder_type": "clip",
        "image_encoder_name_or_path": models["image_encoder"],
        "num_image_tokens": 1,
        "max_num_objects": 4,
        "object_resolution": settings["object_resolution"],
        "generate_height": request["height"],
        "generate_width": request["width"],
        "num_images_per_prompt": 1,
        "seed": request["seed"],
        "guidance_scale": settings["guidance"],
        "inference_steps": settings["steps"],
        "start_merge_step": settings["merge_step"],
        "final_step": settings["final_step"],
    }
    command = [sys.executable, "-m", "accelerate.commands.launch", "--mixed_precision=fp16"]
    command += ["facediffuser/inference.py", "--no_object_augmentation"]
    run([*command, *(text for key, value in options.items() for text in (f"--{key}", str(value)))], repo)
    return str(folder / "made" / "output_0.png")


serve(load, make, dtype="float16")
