"""Baselines: methods that bound every metric, so that a number can be read against something (DESIGN §7).

`copy` gives back the reference: the best identity score there is, and no obedience to the prompt. `other-identity`
gives somebody else: the identity score of strangers. `text-only` has never seen the reference. `paste` puts the
reference's face into a text-only image: identity without any harmony with the rest.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from idtool.engine.operator import Context, Rejected
from idtool.generate.method import Image, Made, Method, MethodSettings, Request


def fitted(image: Image, width: int, height: int) -> Image:
    """The middle of `image` at (height, width): scaled until it covers the frame, then cut."""
    import cv2

    rows, columns = image.shape[:2]
    scale = max(width / columns, height / rows)
    size = (max(width, round(columns * scale)), max(height, round(rows * scale)))
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    large = cv2.resize(image, size, interpolation=method)
    left, top = (size[0] - width) // 2, (size[1] - height) // 2
    return np.ascontiguousarray(large[top : top + height, left : left + width])


class Copy(Method):
    """The reference itself, cut to the size that was asked for; with several people, side by side."""

    summary = "the reference itself: the upper bound of identity, the lower of following the prompt"
    baseline = True
    parallel = True
    accelerated = False
    needs_prompt = False
    people = (1, 8)

    def generate(self, requests: Sequence[Request]) -> Sequence[Made | Exception]:
        return [Made(_beside([person.image for person in one.people], one.width, one.height)) for one in requests]


class OtherIdentity(Method):
    """A picture of somebody else out of the same table."""

    summary = "a picture of somebody else: what strangers score"
    baseline = True
    needs_other = True
    parallel = True
    accelerated = False
    needs_prompt = False
    people = (1, 8)

    def generate(self, requests: Sequence[Request]) -> Sequence[Made | Exception]:
        out: list[Made | Exception] = []
        for one in requests:
            if one.other is None:
                out.append(Rejected("request.other", "the table shows nobody else: give references of two people"))
            else:
                out.append(Made(fitted(one.other.image, one.width, one.height), {"other": one.other.uri}))
        return out


def _beside(images: Sequence[Image], width: int, height: int) -> Image:
    edges = np.linspace(0, width, len(images) + 1).round().astype(int)
    parts = [fitted(image, int(b - a), height) for image, a, b in zip(images, edges, edges[1:], strict=False)]
    return np.concatenate(parts, axis=1)


class TextSettings(MethodSettings):
    steps: int = 28
    guidance: float = 3.5


class TextOnly(Method):
    """What the profile's text-to-image model makes of the prompt alone."""

    summary = "the profile's text-to-image model, which never saw the reference"
    baseline = True
    roles: ClassVar[tuple[str, ...]] = ("t2i",)
    people = (0, 8)
    packages = ("torch", "diffusers")
    multiple = 16
    Settings: ClassVar[type[MethodSettings]] = TextSettings

    def load(self, context: Context) -> None:
        from idtool.generate.text_to_image import TextToImage

        self.model = TextToImage(self.bound["t2i"][0], context)

    def check(self, request: Request) -> None:
        super().check(request)
        if why := self.model.unheeded(request):
            raise Rejected("request.negative_prompt", f"{self.spec.name} would not heed a negative prompt: {why}")

    def generate(self, requests: Sequence[Request]) -> Sequence[Made | Exception]:
        images = self.model(requests)
        return [Made(image, self.model.facts(one)) for image, one in zip(images, requests, strict=True)]

    def dtype(self) -> str:
        return str(self.model.dtype)


class Paste(TextOnly):
    """The reference's face blended onto the largest face of a text-only image (Poisson: Pérez et al., SIGGRAPH 2003).

    Where the text-only image shows no face, the request is rejected: there is nothing to paste onto.
    """

    summary = "the reference's face blended into a text-only image"
    needs_face = True
    needs_prompt = True
    people = (1, 1)
    roles: ClassVar[tuple[str, ...]] = ("t2i", "faces")

    def load(self, context: Context) -> None:
        from idtool.models import load

        super().load(context)
        self.detector = load(self.bound["faces"][0], device=context.device, threads=context.threads)

    def generate(self, requests: Sequence[Request]) -> Sequence[Made | Exception]:
        canvases = self.model(requests)
        found = self.detector.detect(canvases)
        return [self._pasted(*one) for one in zip(canvases, found, requests, strict=True)]

    def _pasted(self, canvas: Image, faces: Sequence[Any], request: Request) -> Made | Exception:
        if not faces:
            told = "the text-only image shows no face to paste onto"
            return Rejected("paste.no_face", told, value=0.0, threshold="1")
        try:
            return Made(paste(canvas, faces[0], request.people[0]), self.model.facts(request))
        except ValueError as error:
            return error

    def preprocessing(self) -> Mapping[str, Any]:
        return {"paste": "similarity of five points, ellipse of the face box, seamless clone"}


def paste(canvas: Image, target: Any, person: Any) -> Image:
    """`person`'s face onto the face `target` of `canvas`, aligned by the five points and blended at its edge.

    ValueError when the two faces do not overlap inside the frame.
    """
    import cv2

    from idtool.models.identity import similarity_transform

    # Both faces onto the same template: the one transform, then back through the other.
    there = _square(similarity_transform(person.face.kps)[0])
    back = np.linalg.inv(_square(similarity_transform(target.kps)[0]))
    matrix = (back @ there)[:2]
    height, width = canvas.shape[:2]
    moved = cv2.warpAffine(person.image, matrix, (width, height), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
    inside = cv2.warpAffine(np.full(person.image.shape[:2], 255, np.uint8), matrix, (width, height))
    left, top, right, bottom = target.box
    mask = np.zeros((height, width), np.uint8)
    centre = (round(float(left + right) / 2), round(float(top + bottom) / 2))
    axes = (max(1, round(float(right - left) * 0.45)), max(1, round(float(bottom - top) * 0.5)))
    cv2.ellipse(mask, centre, axes, 0, 0, 360, 255, -1)
    mask &= inside
    # The clone must not touch the frame's edge.
    mask[[0, 1, -2, -1]] = 0
    mask[:, [0, 1, -2, -1]] = 0
    rows, columns = np.nonzero(mask)
    if len(rows) == 0:
        raise ValueError("the face of the text-only image lies outside the frame")
    middle = (int(columns.min() + columns.max()) // 2, int(rows.min() + rows.max()) // 2)
    return np.asarray(cv2.seamlessClone(moved, canvas, mask, middle, cv2.NORMAL_CLONE), np.uint8)


def _square(matrix: np.ndarray[Any, np.dtype[np.float64]]) -> np.ndarray[Any, np.dtype[np.float64]]:
    return np.vstack([matrix, [0.0, 0.0, 1.0]])
