"""The runner's side of the protocol (docs/runners.md), for programs in environments of their own.

Python 3.9 or newer, standard library only: copy it beside your script, or import it from here.

    from protocol import Rejected, serve

    def load(start):                # heavy imports and models; what it returns is handed to `make`
        return start["settings"]

    def make(state, request):       # a PIL image, or anything with .save(path), or the path of a file
        return image, {"steps": 30} # the facts may be left out

    serve(load, make)
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

VERSION = 1
HEARTBEAT_S = 10.0


class Rejected(Exception):
    """Raised by `make` when the request is at fault: a reference without a face, an unfit prompt."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        """Lower-case letters, digits, `_` and dots: `reference.no_face`."""


class _Voice:
    """Standard output as it was at the start. What anything prints from then on goes to standard error."""

    def __init__(self) -> None:
        self._file = os.fdopen(os.dup(1), "w", encoding="utf-8")
        self._lock = threading.Lock()
        os.dup2(2, 1)

    def say(self, message: dict[str, Any]) -> None:
        with self._lock:
            self._file.write(json.dumps(message) + "\n")
            self._file.flush()


def serve(load: Callable[[dict[str, Any]], Any], make: Callable[[Any, dict[str, Any]], Any], **facts: Any) -> None:
    """Answer requests until standard input ends. `facts`: what to say of the runner when it is ready, such as `dtype`.

    `--check` on the command line loads nothing and says that the script can be run.
    """
    if "--check" in sys.argv[1:]:
        sys.stdout.write(json.dumps({"check": {"protocol": VERSION, "python": sys.version.split()[0]}}) + "\n")
        return
    voice = _Voice()
    start = json.loads(sys.stdin.readline())["start"]
    threading.Thread(target=_beat, args=(voice,), daemon=True).start()
    state = load(start)
    voice.say({"ready": {"protocol": VERSION, "heartbeat": HEARTBEAT_S, "versions": _versions(), **facts}})
    for line in sys.stdin:
        request = json.loads(line)
        try:
            made = make(state, request)
            image, said = made if isinstance(made, tuple) else (made, {})
            voice.say({"id": request["id"], "image": _stored(image, request), "facts": said})
        except Rejected as error:
            voice.say({"id": request["id"], "rejected": {"reason": error.reason, "message": str(error)}})
        except Exception as error:
            traceback.print_exc()
            voice.say({"id": request["id"], "error": f"{type(error).__name__}: {error}"})


def enter(start: dict[str, Any]) -> str:
    """Import from the checkout from now on, and make it the current folder. Its path."""
    repo = start["repo"]
    if not repo:
        raise SystemExit("this runner drives a checkout: set `repo` in pipelines.yaml")
    # This folder's own modules must not hide the checkout's.
    here = Path(__file__).resolve().parent
    sys.path[:] = [repo, *(path for path in sys.path if Path(path or ".").resolve() != here)]
    os.chdir(repo)
    return str(repo)


def pictures(request: dict[str, Any]) -> list[Any]:
    """The references as PIL images."""
    from PIL import Image

    return [Image.open(one["image"]).convert("RGB") for one in request["references"]]


def _stored(image: Any, request: dict[str, Any]) -> str:
    """The path of an image, written whole before it gets its name."""
    if not hasattr(image, "save"):
        return str(image)
    path = Path(request["output"], request["id"] + ".png")
    part = path.with_suffix(".part")
    image.save(part, format="PNG")
    part.replace(path)
    return str(path)


def _beat(voice: _Voice) -> None:
    while True:
        threading.Event().wait(HEARTBEAT_S)
        voice.say({"heartbeat": True})


def _versions() -> dict[str, str]:
    """Of the packages that matter and are loaded."""
    names = ("torch", "diffusers", "transformers", "insightface", "onnxruntime")
    found = {"python": sys.version.split()[0]}
    for name in names:
        if name in sys.modules:
            found[name] = str(getattr(sys.modules[name], "__version__", "unknown"))
    return found


def run(command: list[str], folder: str) -> None:
    """A command line of the checkout, which has to end well; its output goes to standard error."""
    subprocess.run(command, cwd=folder, stdin=subprocess.DEVNULL, stdout=sys.stderr, check=True)
