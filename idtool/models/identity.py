"""Identity embeddings: ArcFace MobileFaceNet and EdgeFace-S, both on the 112 px ArcFace alignment.

ArcFace: Deng et al., CVPR 2019; the network is `w600k_mbf` of InsightFace's buffalo_s, trained on WebFace600K.
EdgeFace: George et al., "EdgeFace: Efficient Face Recognition Model for Edge Devices", IEEE T-BIOM 2024, variant
S (gamma 0.5). Cosine similarities of the two are not on one scale: thresholds belong to the network.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from idtool.models import runtime, weights
from idtool.models.faces import Face

Image = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]

CROP = 112
TEMPLATE: npt.NDArray[np.float64] = np.array(
    [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]]
)
"""(5, 2) where the eyes, nose tip and mouth corners lie in an aligned crop of 112 px (InsightFace's arcface_dst)."""


def similarity_transform(
    points: npt.ArrayLike, template: npt.NDArray[np.float64] = TEMPLATE
) -> npt.NDArray[np.float64]:
    """The rotation, scale and shift (N, 2, 3) that map (N, 5, 2) points onto `template` (5, 2) by least squares.

    Closed form for the plane (Umeyama, PAMI 1991, without reflection): with centred points p and targets q as
    complex numbers, the factor is sum(conj(p) q) / sum(|p|^2). Deterministic, unlike a robust sampling estimate.
    Raises ValueError when the five points of a face coincide.
    """
    array = np.asarray(points, np.float64).reshape(-1, 5, 2)
    source, target = array[..., 0] + 1j * array[..., 1], template[:, 0] + 1j * template[:, 1]
    source_mean, target_mean = source.mean(axis=1, keepdims=True), target.mean()
    centred = source - source_mean
    spread = np.sum(np.abs(centred) ** 2, axis=1)
    if not np.all(spread > 1e-12):
        raise ValueError("the five points of a face coincide: it cannot be aligned")
    factor = np.sum(np.conj(centred) * (target - target_mean), axis=1) / spread
    shift = target_mean - factor * source_mean[:, 0]
    rows = [[factor.real, -factor.imag, shift.real], [factor.imag, factor.real, shift.imag]]
    return np.moveaxis(np.array(rows), -1, 0)


def align(image: Image, kps: npt.ArrayLike, size: int = CROP) -> npt.NDArray[np.uint8]:
    """Aligned crops (N, size, size, 3) of one image for its faces' points (N, 5, 2), or one face's (5, 2)."""
    import cv2

    matrices = similarity_transform(kps) * (size / CROP)
    crops = [cv2.warpAffine(image, matrix, (size, size), flags=cv2.INTER_LINEAR) for matrix in matrices]
    return np.stack(crops).astype(np.uint8) if crops else np.zeros((0, size, size, 3), np.uint8)


def aligned(images: Sequence[Image], faces: Sequence[Face]) -> list[npt.NDArray[np.uint8]]:
    """The aligned crop (112, 112, 3) of one face in each RGB uint8 image: the alignment `arcface-112`.

    ValueError when the sequences differ in length or the points of a face coincide.
    """
    return [align(image, face.kps)[0] for image, face in zip(images, faces, strict=True)]


def checked_crops(crops: npt.ArrayLike | Sequence[Image], size: int = CROP) -> npt.NDArray[np.uint8]:
    """Crops as one array (N, size, size, 3). ValueError when they are of another shape or not uint8."""
    array = np.asarray(crops)
    if len(array) == 0:
        return np.zeros((0, size, size, 3), np.uint8)
    if array.ndim != 4 or array.shape[1:] != (size, size, 3) or array.dtype != np.uint8:
        raise ValueError(f"Expected uint8 crops of Nx{size}x{size}x3. Got {array.dtype} {array.shape}")
    return array


class Embedder:
    """A face recognition network on aligned crops. Safe to call from several threads."""

    name: ClassVar[str]
    dim: ClassVar[int] = 512
    alignment: ClassVar[str] = "arcface-112"
    """How its crops are cut: the same name, the same crops, so that callers cut them once for several networks."""

    def __init__(self, *, device: str = "cpu", threads: int = 1) -> None:
        self._session = runtime.onnx_session(weights.path(self.name), device, threads)
        self._input = self._session.get_inputs()[0].name

    def crops(self, images: Sequence[Image], faces: Sequence[Face]) -> list[Image]:
        """What `embed` takes: the aligned crop of one face in each image (`aligned`)."""
        return aligned(images, faces)

    def embed(self, crops: npt.ArrayLike | Sequence[Image]) -> Floats:
        """Aligned RGB uint8 crops (N, 112, 112, 3) to raw embeddings (N, 512) float32, not normalised.

        The length of a raw embedding falls with the quality of the crop; divide by it to compare by cosine.
        """
        array = checked_crops(crops)
        if len(array) == 0:
            return np.zeros((0, self.dim), np.float32)
        batch = np.ascontiguousarray(((array.astype(np.float32) - 127.5) / 127.5).transpose(0, 3, 1, 2))
        # One crop per call: this EdgeFace file takes no more, larger batches are slower on a CPU, and the embedding
        # of a face must not depend on its neighbours.
        rows = [self._session.run(None, {self._input: crop[None]})[0] for crop in batch]
        return np.concatenate(rows).astype(np.float32, copy=False)

    def fingerprint(self) -> dict[str, Any]:
        """What the numbers depend on."""
        return {
            "model": self.name,
            "sha256": weights.sha256(self.name),
            "preprocessing": "5 points, least squares to the ArcFace template of 112 px, RGB, (x - 127.5) / 127.5",
            **runtime.versions("onnxruntime", "opencv-python-headless", "numpy"),
        }


class ArcFaceMobile(Embedder):
    """ArcFace MobileFaceNet `w600k_mbf`.

    On our 161 labelled photos of 26 people (582 pairs of one person, 12,298 of two): same person .64 on average and
    .32 at least, others .03 on average and .40 at most. At .34, 8 pairs of two people are taken for one and 1 pair
    of one person for two; at .38, 1 and 2; at .40, 0 and 5.
    """

    name = "arcface-mbf"


class EdgeFaceS(Embedder):
    """EdgeFace-S, gamma 0.5.

    On the same pairs: same person .75 on average and .46 at least, others .04 on average and .52 at most. At .44,
    11 pairs of two people are taken for one and no pair of one person for two; at .50, 2 and 4; at .55, 0 and 9.
    """

    name = "edgeface-s"
