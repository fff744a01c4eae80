"""What runners are told and what they say (docs/runners.md): requests as messages, messages as images or outcomes."""

from __future__ import annotations

import json
import os
import re
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from idtool.engine.operator import Rejected
from idtool.generate.method import Image, Made, Person, Request
from idtool.media import images
from idtool.media.limits import DEFAULT_LIMITS

PROTOCOL = 1
"""Version of the protocol; a runner that was written for another one is refused."""
MAX_FACTS = 64 << 10
"""Bytes of JSON that a runner may say of one image."""
_REASON = re.compile(r"[a-z0-9_]{1,40}(\.[a-z0-9_]{1,40})*")


class RunnerError(Exception):
    """The runner says that it failed at a request."""


class UnusableImage(Exception):
    """What the runner gives as its image is none: not there, outside its folder, damaged, half written."""


def start_message(
    *, device: str, models: Mapping[str, Path], settings: Mapping[str, Any], repo: str | None, folder: Path
) -> dict[str, Any]:
    """The first line that a runner gets."""
    return {
        "protocol": PROTOCOL,
        "start": {
            "device": device,
            "models": {slot: str(path) for slot, path in models.items()},
            "settings": dict(settings),
            "repo": repo,
            "output": str(folder / "out"),
            "work": str(folder / "work"),
        },
    }


def request_message(request: Request, name: str, folder: Path) -> dict[str, Any]:
    """The line of a request. Its references are written as PNG below `folder/in/<name>`."""
    inputs = folder / "in" / name
    inputs.mkdir(parents=True, exist_ok=True)
    return {
        "protocol": PROTOCOL,
        "id": name,
        "prompt": request.prompt,
        "negative": request.negative,
        "references": [_reference(person, inputs / f"{k}.png") for k, person in enumerate(request.people)],
        "seed": request.seed,
        "width": request.width,
        "height": request.height,
        "settings": dict(request.settings.model_extra or {}),
        "output": str(folder / "out"),
    }


def _reference(person: Person, path: Path) -> dict[str, Any]:
    path.write_bytes(images.encode(person.image, "png"))
    face = None
    if person.face is not None:
        face = {
            "box": [round(float(value), 2) for value in person.face.box],
            "kps": [[round(float(x), 2), round(float(y), 2)] for x, y in person.face.kps],
            "score": round(float(person.face.score), 4),
        }
    return {
        "image": str(path),
        "label": person.label,
        "face": face,
        "box": None if person.box is None else [float(value) for value in person.box],
    }


def ready_facts(message: Mapping[str, Any]) -> dict[str, Any] | None:
    """What a runner says of itself when it is ready; None when the message is another one. ValueError when it speaks
    another version of the protocol."""
    if "ready" not in message:
        return None
    said = message["ready"] if isinstance(message["ready"], dict) else {}
    version = said.get("protocol", message.get("protocol", PROTOCOL))
    if version != PROTOCOL:
        raise ValueError(f"it speaks version {version} of the protocol; this idtool speaks {PROTOCOL}")
    return said if len(json.dumps(said)) <= MAX_FACTS else {}


def answer(message: Mapping[str, Any], folder: Path) -> Made | Exception:
    """The outcome that an answer means: an image with its facts, `Rejected`, `RunnerError` or `UnusableImage`."""
    if message.get("rejected") is not None:
        said = message["rejected"]
        said = said if isinstance(said, dict) else {"message": said}
        reason = said.get("reason")
        known = isinstance(reason, str) and _REASON.fullmatch(reason) is not None
        return Rejected(str(reason) if known else "runner.rejected", _text(said.get("message"), "no reason is given"))
    if message.get("error") is not None:
        return RunnerError(f"the runner says: {_text(message['error'], 'an error without a word')}")
    facts = message.get("facts")
    facts = facts if isinstance(facts, dict) else {}
    if len(json.dumps(facts)) > MAX_FACTS:
        facts = {"left_out": f"more than {MAX_FACTS} bytes"}
    try:
        return Made(image_at(message.get("image"), folder / "out"), facts)
    except UnusableImage as error:
        return error


def image_at(name: Any, folder: Path) -> Image:
    """The image in a file that must lie in `folder`, which it is removed from. UnusableImage says what is wrong."""
    if not isinstance(name, str) or not name or "\0" in name:
        raise UnusableImage("the answer names no image")
    path = folder / name  # an absolute name stays itself
    try:
        inside = path.resolve(strict=True).is_relative_to(folder.resolve()) and not path.is_symlink()
    except (OSError, RuntimeError):
        raise UnusableImage(f"the image that the answer names is not there: {_text(name, '')}") from None
    if not inside:
        raise UnusableImage(f"the image must lie in the folder `output`, without links: {_text(name, '')}")
    try:
        data = _bytes(path)
    except OSError as error:
        raise UnusableImage(f"the image cannot be read: {error.strerror}") from None
    finally:
        path.unlink(missing_ok=True)
    try:
        return images.decode(data)
    except Rejected as refusal:
        raise UnusableImage(f"the image is damaged or half written ({refusal.reason}): {refusal.message}") from None


def _bytes(path: Path) -> bytes:
    """A regular file; opening never follows a link nor waits for a pipe."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    with open(descriptor, "rb") as file:
        about = os.fstat(descriptor)
        if not stat.S_ISREG(about.st_mode):
            raise UnusableImage("the image is no regular file")
        if about.st_size > DEFAULT_LIMITS.max_bytes:
            raise UnusableImage(f"the image has {about.st_size} bytes, more than {DEFAULT_LIMITS.max_bytes}")
        return file.read()


def _text(value: Any, empty: str) -> str:
    return " ".join(str(value or "").split())[:300] or empty
