"""Runner for Face-Adapter (github.com/FaceAdapter/Face-Adapter).

Unproven: written from the repository's code, never run with its weights.
Reenactment (`mode: drive`) or swap (`mode: swap`): the first reference gives the person, the second one the pose. The
repository's command line is called for each request, so its models are loaded each time, and its seed is fixed.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

from protocol import enter, run, serve  # type: ignore[import-not-found]


def load(start: dict[str, Any]) -> Any:
    return enter(start), start["models"]


def make(state: Any, request: dict[str, Any]) -> Any:
    repo, models = state
    settings = request["settings"]
    folder = Path(request["output"], request["id"])
    sources = {"source": request["references"][0]["image"], "target": request["references"][1]["image"]}
    for name, image in sources.items():
        (folder / name).mkdir(parents=True)
        shutil.copyfile(image, folder / name / "0.png")
    command = [sys.executable, "infer.py", "-s", str(folder / "source"), "-t", str(folder / "target")]
    command += ["-o", str(folder / "made"), "-ckpt", models["weights"], "-b", models["base"]]
    run([*command, "-r", str(settings["crop_ratio"])], repo)
    return str(folder / "made" / settings["mode"] / "0.png"), {"seed": "fixed by the repository"}


serve(load, make, dtype="float16")
