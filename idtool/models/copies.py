"""Copy detection: SSCD (Pizzi et al., "A Self-Supervised Descriptor for Image Copy Detection", CVPR 2022)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from idtool.models import crops, runtime, weights

Image = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]


class Sscd:
    """SSCD ResNet-50 (disc_mixup), quantised to 8 bits. Safe to call from several threads.

    Cosine of two descriptors: two photos of one person .34 in the middle and above .75 in 3 of 100 pairs, most of them
    near-copies of one shot; photos of two people .63 at most. Above .75 on our photos: every mirrored, halved,
    brightened, greyed or noisy copy, JPEG down to quality 30, crops of 80 %; half of the crops of 70 %.
    """

    name: ClassVar[str] = "sscd"
    dim: ClassVar[int] = 512
    SIZE: ClassVar[int] = 288

    def __init__(self, *, device: str = "cpu", threads: int = 1) -> None:
        self._session = runtime.onnx_session(weights.path(self.name), device, threads)

    def embed(self, images: Sequence[Image]) -> Floats:
        """Unit-length descriptors (N, 512) float32 of RGB uint8 images (H, W, 3), squeezed to a square.

        One image per call of the network: the file is quantised with ranges taken from what it is given, so images
        that share a batch would change each other's descriptors. ValueError for an array of another kind.
        """
        import cv2

        rows = np.zeros((len(images), self.dim), np.float32)
        for row, image in zip(rows, images, strict=True):
            crops.check(image)
            smaller = min(image.shape[:2]) >= self.SIZE
            interpolation = cv2.INTER_AREA if smaller else cv2.INTER_LINEAR
            square = cv2.resize(image, (self.SIZE, self.SIZE), interpolation=interpolation)
            output = self._session.run(None, {"image": square[None]})[0][0]
            row[:] = output / max(float(np.linalg.norm(output)), 1e-12)
        return rows

    def fingerprint(self) -> dict[str, Any]:
        """What the descriptors depend on."""
        return {
            "model": self.name,
            "sha256": weights.sha256(self.name),
            "preprocessing": f"resized to {self.SIZE} x {self.SIZE}, RGB",
            **runtime.versions("onnxruntime", "opencv-python-headless", "numpy"),
        }
