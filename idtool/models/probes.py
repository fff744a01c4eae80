"""One quick trial per role for `idtool models check`: is what a network says of a drawn face plausible?"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from idtool.models.drawn import EYES, drawn_face
from idtool.models.faces import Face

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
    [crop] = model.crops([drawn_face(SIZE)], [_face()])
    other = np.roll(crop[::-1], 30, axis=1)
    raw = model.embed(np.stack([crop, np.clip(crop * 0.9, 0, 255).astype(np.uint8), other]))
    unit = raw / np.linalg.norm(raw, axis=1, keepdims=True)
    same, different = float(unit[0] @ unit[1]), float(unit[0] @ unit[2])
    good = bool(np.isfinite(raw).all()) and same > 0.8 and different < same - 0.3
    return good, f"{raw.shape[1]} numbers; darker copy {same:.2f}, scrambled {different:.2f}"


def _copy(model: Any) -> Verdict:
    image = drawn_face(SIZE)
    unit = model.embed([image, image[8:-8, 8:-8], _noise()])
    same, different = float(unit[0] @ unit[1]), float(unit[0] @ unit[2])
    return same > 0.6 and different < 0.4, f"{unit.shape[1]} numbers; crop {same:.2f}, noise {different:.2f}"


def _nsfw(model: Any) -> Verdict:
    [found] = model.score([drawn_face(SIZE)])
    return 0 <= found.score < 0.5, f"{found.score:.2f} on a drawn face"


def _face() -> Face:
    """The drawn face as a detector would give it."""
    (left, top), (right, bottom) = np.array([[0.29, 0.23], [0.71, 0.79]]) * SIZE
    return Face(np.array([left, top, right, bottom], np.float32), 1.0, _points().astype(np.float32))


def _landmarks(model: Any) -> Verdict:
    [found] = model([drawn_face(SIZE)], [_face()])
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


def _clip(model: Any) -> Verdict:
    images = model.images([drawn_face(SIZE), _noise()])
    texts = model.texts(["a drawing of a face", "noise"])
    cosines = images @ texts.features.T
    units = np.concatenate([images, texts.features])
    good = bool(np.isfinite(units).all() and np.abs(np.linalg.norm(units, axis=1) - 1).max() < 1e-3)
    return good, f"{images.shape[1]} numbers; face and its text {cosines[0, 0]:.2f}, face and noise {cosines[0, 1]:.2f}"


def _features(model: Any) -> Verdict:
    image = drawn_face(SIZE)
    raw = model.images([image, image[4:-4, 4:-4], _noise()])
    unit = raw / np.linalg.norm(raw, axis=1, keepdims=True)
    same, different = float(unit[0] @ unit[1]), float(unit[0] @ unit[2])
    good = bool(np.isfinite(unit).all()) and different < same
    return good, f"{raw.shape[1]} numbers; crop {same:.2f}, noise {different:.2f}"


def _score(model: Any) -> Verdict:
    face, noise = (float(value) for value in model.score([drawn_face(SIZE), _noise()]))
    return bool(np.isfinite([face, noise]).all()), f"drawn face {face:.2f}, noise {noise:.2f}"


def _expression(model: Any) -> Verdict:
    from idtool.models.expression import EXPRESSIONS

    [odds] = model([drawn_face(SIZE)], [_face()])
    best = int(np.argmax(odds))
    return abs(float(np.sum(odds)) - 1) < 1e-3, f"{EXPRESSIONS[best]} {odds[best]:.2f} on a drawn face"


def _pose(model: Any) -> Verdict:
    [[yaw, pitch, roll]] = model.pose([drawn_face(SIZE)], [_face()])
    level = abs(yaw) < 20 and abs(roll) < 10
    return level, f"yaw {yaw:.0f}, pitch {pitch:.0f}, roll {roll:.0f} degrees on a frontal drawing"


def _attributes(model: Any) -> Verdict:
    [found] = model.attributes([drawn_face(SIZE)], [_face()])
    return 0 <= found.female <= 1 and 0 <= found.age <= 120, f"age {found.age:.0f}, female {found.female:.2f}"


def _parser(model: Any) -> Verdict:
    [parsed] = model([drawn_face(SIZE)], [_face()])
    skin, hair = parsed.share("skin"), parsed.share("hair")
    return skin > 0.02, f"skin {skin:.0%}, hair {hair:.0%} of the crop of a drawn face"


def _grounder(model: Any) -> Verdict:
    [found] = model.detect([drawn_face(SIZE)], [["a face"]])
    return True, f"{len(found)} boxes for 'a face' in a drawing of one"


def _segmenter(model: Any) -> Verdict:
    if hasattr(model, "regions"):
        [found] = model.regions([drawn_face(SIZE)], [["a face"]])
        return True, f"{len(found)} masks for 'a face' in a drawing of one"
    box = _face().box
    [found] = model.segment([drawn_face(SIZE)], [box[None]])
    left, top, right, bottom = box.astype(int)
    inside = float(found.masks[0, top:bottom, left:right].mean())
    outside = float((found.masks[0].sum() - found.masks[0, top:bottom, left:right].sum()) / found.masks[0].size)
    return inside > outside, f"covers {inside:.0%} of the box of a drawn face, {outside:.0%} of the picture beside it"


def _words(model: Any) -> Verdict:
    from idtool.models.ask import Ask

    [answer] = model.ask([Ask("What is in this picture? Answer in one sentence.", (drawn_face(SIZE),), max_tokens=64)])
    if answer.text is None:
        return False, f"no answer: {answer.reason}, {answer.detail}"
    return True, f"{answer.tokens_out} tokens: {' '.join(answer.text.split())[:80]!r}"


def _perceptual(model: Any) -> Verdict:
    image = drawn_face(SIZE)
    none, small, large = model.distance([image] * 3, [image, np.roll(image, 2, axis=1), _noise()])
    return none < 1e-3 < small < large, f"itself {none:.3f}, moved by 2 px {small:.2f}, noise {large:.2f}"


def _noise() -> np.ndarray[Any, np.dtype[np.uint8]]:
    return np.random.default_rng(0).integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)


_TRIALS: dict[str, Callable[[Any], Verdict]] = {
    "faces": _faces,
    "identity": _identity,
    "copy": _copy,
    "nsfw": _nsfw,
    "landmarks": _landmarks,
    "portraits": _portraits,
    "clip": _clip,
    "features": _features,
    "inception": _features,
    "aesthetic": _score,
    "iqa": _score,
    "expression": _expression,
    "pose": _pose,
    "attributes": _attributes,
    "parser": _parser,
    "grounder": _grounder,
    "segmenter": _segmenter,
    "captioner": _words,
    "judge": _words,
    "perceptual": _perceptual,
}
