"""Face swapping by InsightFace's `inswapper_128`: one ONNX network that draws the face of an aligned crop anew, with
the identity of an ArcFace embedding. The network is unpublished; its weights are for non-commercial research only.

What the file holds beside the network is `emap`, the last of its initializers (512, 512): embeddings are turned by it
and made of length 1 before they go in. They must come from the recognition network that it was trained with,
`w600k_r50` of the pack buffalo_l, whatever the profile's role `identity` is bound to: option `backbone`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from idtool.errors import MissingError, UsageError
from idtool.models import alignment, crops, runtime, sources
from idtool.models.faces import Face
from idtool.models.insightface_pack import PackIdentity
from idtool.models.pack_files import PACKAGES, facts, tasks
from idtool.models.sources import Weights
from idtool.models.torch_runtime import as_missing, finite

Image = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]

EMBEDDING = 512
OTHER = "Bind role swapper to inswapper_128.onnx, or to the folder that holds it."


class InSwapper:
    """Gives faces the identity of other faces. Safe to call from several threads."""

    roles: ClassVar[tuple[str, ...]] = ("swapper",)
    packages: ClassVar[tuple[str, ...]] = PACKAGES

    def __init__(
        self,
        weights: Weights,
        *,
        device: str = "cpu",
        threads: int = 1,
        backbone: str = "insightface:buffalo_l",
        edge: float = 0.15,
    ) -> None:
        if not 0 < edge <= 0.5:
            raise UsageError(f"Option `edge` is above 0 and at most 0.5. Got {edge!r}.")
        self._weights, self._edge = weights, float(edge)
        self._file = _swapper_of(weights)
        with as_missing(f"{self._file} of {weights.model}"):
            self._session = runtime.onnx_session(self._file, device, threads)
            self._emap = _emap(self._file)
        self._target, self._source = _inputs(self._session, self._file)
        self._recogniser = PackIdentity(sources.other(backbone), device=device, threads=threads)
        if self._recogniser.dim != EMBEDDING:
            raise MissingError(
                f"{backbone} gives embeddings of {self._recogniser.dim} numbers, the swapper takes {EMBEDDING}.",
                "Set option `backbone` of the swapper to insightface:buffalo_l.",
            )
        self._mask = alignment.soft_square(alignment.ARCFACE_SIDE, self._edge)

    def identities(self, images: Sequence[Image], faces: Sequence[Face]) -> Floats:
        """(N, 512) of length 1: what `__call__` takes of one face in each RGB image. ValueError for a face that has
        no embedding."""
        rows = self._recogniser.embed(self._recogniser.crops(images, faces))
        lengths = np.linalg.norm(rows, axis=1, keepdims=True)
        if not (lengths > 0).all():
            raise ValueError("the swapper's recognition network gave an embedding of length 0")
        return np.asarray(rows / lengths, np.float32)

    def __call__(self, images: Sequence[Image], faces: Sequence[Face], identities: Floats) -> list[Image]:
        """RGB uint8 images (H, W, 3), the one face of each drawn with the identity (N, 512) given for it; all pixels
        outside of the face's frame stay. ValueError for sequences of different lengths and points that coincide."""
        out = []
        for image, face, identity in zip(images, faces, identities, strict=True):
            crops.check(image)
            matrix = alignment.arcface(face.kps)
            out.append(alignment.put_back(image, self.draw(image, face, identity), matrix, self._mask))
        return out

    def draw(self, image: Image, face: Face, identity: npt.ArrayLike) -> Image:
        """The network's own picture (128, 128, 3): the aligned face with the other identity."""
        crop = crops.warp(image, alignment.arcface(face.kps), alignment.ARCFACE_SIDE)
        latent = np.asarray(identity, np.float32).reshape(1, EMBEDDING) @ self._emap
        fed = {
            self._target: np.ascontiguousarray(crop.transpose(2, 0, 1)[None], np.float32) / 255,
            self._source: latent / np.linalg.norm(latent),
        }
        [drawn] = self._session.run(None, fed)
        pixels = finite(np.asarray(drawn[0], np.float32), self._weights.model).transpose(1, 2, 0)
        return np.asarray(np.rint(np.clip(pixels, 0, 1) * 255), np.uint8)

    def fingerprint(self) -> dict[str, Any]:
        """What the pictures depend on."""
        return {
            **facts(self._weights, self._file),
            "preprocessing": f"5 points, least squares to ArcFace's template in {alignment.ARCFACE_SIDE} px, RGB / 255",
            "edge": self._edge,
            "backbone": self._recogniser.fingerprint(),
        }


def _swapper_of(weights: Weights) -> Path:
    found = tasks(weights.path)
    file = next((file for file, does in found.items() if does == "swapping"), None)
    if file is None:
        held = (
            ", ".join(f"{file.name} ({does or 'of no known kind'})" for file, does in found.items()) or "no ONNX file"
        )
        raise MissingError(f"{weights.model} is no face swapper. {weights.path} holds: {held}.", OTHER)
    return file


def _emap(file: Path) -> Floats:
    """The matrix that embeddings are turned by, (512, 512)."""
    import onnx
    from onnx import numpy_helper

    held = onnx.load(str(file)).graph.initializer
    shape = tuple(held[-1].dims) if held else ()
    if shape != (EMBEDDING, EMBEDDING):
        raise MissingError(f"{file} ends in {shape or 'nothing'}, not in the emap of {(EMBEDDING,) * 2}.", OTHER)
    return np.asarray(numpy_helper.to_array(held[-1]), np.float32)


def _inputs(session: Any, file: Path) -> tuple[str, str]:
    """Names of the inputs for the picture and for the embedding."""
    shapes = {one.name: list(one.shape) for one in session.get_inputs()}
    side = alignment.ARCFACE_SIDE
    picture = [name for name, shape in shapes.items() if shape[1:] == [3, side, side]]
    embedding = [name for name, shape in shapes.items() if shape[1:] == [EMBEDDING]]
    if len(picture) != 1 or len(embedding) != 1:
        raise MissingError(f"{file} takes {shapes}, not a picture of {side} px and {EMBEDDING} numbers.", OTHER)
    return picture[0], embedding[0]
