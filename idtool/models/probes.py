"""One quick trial per role for `idtool models check`: is what a network says of a drawn face plausible?"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from idtool.models.drawn import EYES, drawn_face
from idtool.models.faces import Face
from idtool.models.identity import align

Verdict = tuple[bool, str]
SIZE = 256


def probe(role: str, model: Any) -> Verdict:
    """Whether a loaded model of that role gives a plausible answer, and one sentence on it."""
    trial = _TRIALS.get(role)
    return trial(model) if trial else (True, "loaded; there is no trial for this role")


def _points() -> np.ndarray[Any, np.dtype[np.float64]]:
    """The five points of the drawn face in pixels, taken from the drawing, not from a detector."""
    nose, mouth = (0.5, 0.56), ((0.43, 0.645), (0.57, 0.645))
    return np.array([*EYES, nose, *mouth]) * SIZE


def _faces(model: Any) -> Verdict:
    [faces] = model.detect([drawn_face(SIZE)])
    if len(faces) != 1:
        return False, f"{len(faces)} faces found in a drawing of one"
    miss = float(np.abs(faces[0].kps[:2] - _points()[:2]).max()) / SIZE
    return miss < 0.03, f"one face, score {faces[0].score:.2f}, eyes off by {miss:.1%} of the frame"


def _identity(model: Any) -> Verdict:
    image = drawn_face(SIZE)
    crop = align(image, _points())[0]
    other = np.roll(crop[::-1], 30, axis=1)
    raw = model.embed(np.stack([crop, np.clip(crop * 0.9, 0, 255).astype(np.uint8), other]))
    unit = raw / np.linalg.norm(raw, axis=1, keepdims=True)
    same, different = float(unit[0] @ unit[1]), float(unit[0] @ unit[2])
    good = bool(np.isfinite(raw).all()) and same > 0.8 and different < same - 0.3
    return good, f"{raw.shape[1]} numbers; darker copy {same:.2f}, scrambled {different:.2f}"


def _copy(model: Any) -> Verdict:
    image = drawn_face(SIZE)
    noise = np.random.default_rng(0).integers(0, 256, image.shape, dtype=np.uint8)
    unit = model.embed([image, image[8:-8, 8:-8], noise])
    same, different = float(unit[0] @ unit[1]), float(unit[0] @ unit[2])
    return same > 0.6 and different < 0.4, f"{unit.shape[1]} numbers; crop {same:.2f}, noise {different:.2f}"


def _nsfw(model: Any) -> Verdict:
    [found] = model.score([drawn_face(SIZE)])
    return 0 <= found.score < 0.5, f"{found.score:.2f} on a drawn face"


def _landmarks(model: Any) -> Verdict:
    points = _points().astype(np.float32)
    (left, top), (right, bottom) = np.array([[0.29, 0.23], [0.71, 0.79]]) * SIZE
    face = Face(np.array([left, top, right, bottom], np.float32), 1.0, points)
    [found] = model([drawn_face(SIZE)], [face])
    level = abs(found.yaw) < 15 and abs(found.roll) < 5
    return level, f"yaw {found.yaw:.0f}, pitch {found.pitch:.0f}, roll {found.roll:.0f} degrees on a frontal drawing"


def _portraits(model: Any) -> Verdict:
    style = model.truncate(model.style(np.random.default_rng(0).standard_normal((1, 512))))[0]
    [image] = model.render(model.layered(style)[None])
    lively = 20 < float(image.std()) < 110
    return image.shape == (
        1024,
        1024,
        3,
    ) and lively, f"{image.shape[1]} x {image.shape[0]} px, contrast {image.std():.0f}"


_TRIALS: dict[str, Callable[[Any], Verdict]] = {
    "faces": _faces,
    "identity": _identity,
    "copy": _copy,
    "nsfw": _nsfw,
    "landmarks": _landmarks,
    "portraits": _portraits,
}
