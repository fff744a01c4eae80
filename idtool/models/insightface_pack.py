"""Model packs of InsightFace (`buffalo_l`, `antelopev2`, any folder of its ONNX files) through the package itself:
detection, recognition, head pose, landmarks, age and gender.

Detector: SCRFD (Guo et al., ICLR 2022). Recognition: ArcFace (Deng et al., CVPR 2019). The other networks of a pack
are unpublished. The package takes BGR images; everything here takes RGB and turns it round at the door.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from idtool.errors import MissingError, UsageError
from idtool.models import crops
from idtool.models.faces import Face
from idtool.models.identity import aligned, checked_crops
from idtool.models.pack_files import OTHER, PACKAGES, batch_of, facts, found_in, network, pairs
from idtool.models.sources import Weights
from idtool.models.torch_runtime import finite, in_batches

Image = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Attributes:
    """What the attribute network guesses of one face."""

    age: float
    """Years."""
    female: float
    """[0, 1] softmax of the network's two numbers, not calibrated; the package itself only takes the larger one."""


class PackFaces:
    """The detector of a pack, with the input size pinned. Safe to call from several threads.

    The package by default looks at 128 and 640 pixels and merges; papers mean 640 alone, so that is what is done
    here. A face that fills the frame is often missed at 640. With `retry`, an image in which nothing is found is
    looked at again at a half and a quarter of the size, then with a black border of 40 % of its longer side.
    """

    roles: ClassVar[tuple[str, ...]] = ("faces",)
    packages: ClassVar[tuple[str, ...]] = PACKAGES
    BORDER: ClassVar[float] = 0.4

    def __init__(
        self,
        weights: Weights,
        *,
        device: str = "cpu",
        threads: int = 1,
        det_size: int | Sequence[int] = 640,
        threshold: float = 0.5,
        retry: bool = True,
    ) -> None:
        self.size, self.threshold, self.retry = _size(det_size), float(threshold), bool(retry)
        if not 0 < self.threshold < 1:
            raise UsageError(f"Option `threshold` is between 0 and 1. Got {threshold!r}.")
        self._weights = weights
        self._file, self._model = network(weights, "detection", device, threads)
        if not self._model.use_kps:
            raise MissingError(f"The detector {self._file} gives no five points, which faces are aligned by.", OTHER)
        fixed = self._model.static_input_size
        if fixed is not None and tuple(fixed) != self.size:
            raise UsageError(
                f"The detector {self._file} takes {fixed[0]}x{fixed[1]} pixels only.",
                f"Set option `det_size` of {weights.model} to [{fixed[0]}, {fixed[1]}].",
            )
        self._model.prepare(0, input_size=self.size, det_thresh=self.threshold)

    @property
    def sizes(self) -> list[tuple[int, int]]:
        """Input sizes (width, height) in the order in which they are tried."""
        if not self.retry or self._model.static_input_size is not None:
            return [self.size]
        smaller = [(self.size[0] // part // 32 * 32, self.size[1] // part // 32 * 32) for part in (2, 4)]
        return [self.size, *(size for size in smaller if min(size) >= 64)]

    def detect(self, images: Sequence[Image]) -> list[list[Face]]:
        """Faces of each RGB uint8 image (H, W, 3), largest box first; an empty list where there is none.

        The network takes one image at a time. Raises ValueError for an array of another kind.
        """
        return [self._detect(image) for image in images]

    def fingerprint(self) -> dict[str, Any]:
        """What the results depend on."""
        tried = [list(size) for size in self.sizes]
        return {
            **facts(self._weights, self._file),
            "preprocessing": f"fitted into {tried[0]} px (bilinear, top left), RGB, (x - 127.5) / 128",
            "threshold": self.threshold,
            "overlap": float(self._model.nms_thresh),
            "retry": {"sizes": tried[1:], "border": self.BORDER} if self.retry else None,
        }

    def _detect(self, image: Image) -> list[Face]:
        crops.check(image)
        bgr = np.ascontiguousarray(image[..., ::-1])
        for size in self.sizes:
            if found := self._look(bgr, size, 0):
                return found
        if not self.retry:
            return []
        edge = int(self.BORDER * max(image.shape[:2]))
        return self._look(np.pad(bgr, ((edge, edge), (edge, edge), (0, 0))), self.size, edge)

    def _look(self, bgr: Image, size: tuple[int, int], edge: int) -> list[Face]:
        height, width = bgr.shape[:2]
        if min(width * min(size[0] / width, size[1] / height), height * min(size[0] / width, size[1] / height)) < 1:
            return []  # a stripe that would be resized to nothing
        boxes, points = self._model.detect(bgr, input_size=size)
        faces = [
            Face((box[:4] - edge).astype(np.float32), float(box[4]), (kps - edge).astype(np.float32))
            for box, kps in zip(boxes, points, strict=True)
        ]
        return sorted(faces, key=lambda face: -face.area)


class PackIdentity:
    """The recognition network of a pack, on batches of aligned crops. Safe to call from several threads.

    Networks whose file fixes the batch at one are run a crop at a time.
    """

    roles: ClassVar[tuple[str, ...]] = ("identity",)
    packages: ClassVar[tuple[str, ...]] = PACKAGES
    alignment: ClassVar[str] = "arcface-112"

    def __init__(self, weights: Weights, *, device: str = "cpu", threads: int = 1, batch: int = 32) -> None:
        self._weights = weights
        self._file, self._model = network(weights, "recognition", device, threads)
        if tuple(self._model.input_size) != (112, 112):
            raise MissingError(f"{self._file} takes crops of {self._model.input_size} px, not of 112.", OTHER)
        self.batch = batch_of(self._model.input_shape[0], batch)
        self.dim = int(self._model.output_shape[1])

    def crops(self, images: Sequence[Image], faces: Sequence[Face]) -> list[Image]:
        """The aligned crop of one face in each RGB image (`identity.aligned`)."""
        return aligned(images, faces)

    def embed(self, crops: npt.ArrayLike | Sequence[Image]) -> Floats:
        """Aligned RGB uint8 crops (N, 112, 112, 3) to raw embeddings (N, dim) float32, not normalised."""
        array = checked_crops(crops)

        def call(some: Sequence[Image]) -> Floats:
            rows = self._model.get_feat([np.ascontiguousarray(crop[..., ::-1]) for crop in some])
            return finite(np.asarray(rows, np.float32), f"{self._weights.model}")

        return in_batches(list(array), self.batch, call, self.dim)

    def fingerprint(self) -> dict[str, Any]:
        """What the numbers depend on."""
        mean, std = self._model.input_mean, self._model.input_std
        return {
            **facts(self._weights, self._file),
            "preprocessing": f"5 points, least squares to the ArcFace template of 112 px, RGB, (x - {mean}) / {std}",
        }


class PackPose:
    """Head pose by the 68 points in space of a pack (`1k3d68`), and its 106 points in the plane (`2d106det`), if any.

    The package fits a mean face to the points and reads the angles off; yaw and pitch have our signs, roll has the
    other one (its y axis points down). Safe to call from several threads.
    """

    roles: ClassVar[tuple[str, ...]] = ("pose",)
    packages: ClassVar[tuple[str, ...]] = (*PACKAGES, "skimage")

    def __init__(self, weights: Weights, *, device: str = "cpu", threads: int = 1) -> None:
        self._weights, self._device, self._threads = weights, device, threads
        self._file, self._model = network(weights, "landmark_3d_68", device, threads)

    def pose(self, images: Sequence[Image], faces: Sequence[Face]) -> Floats:
        """(N, 3) degrees of one face in each RGB image: yaw > 0 the nose points to the right of the picture, pitch > 0
        the face looks up, roll > 0 the head is tilted counter-clockwise. ValueError for a box without area."""
        angles = [
            (pose[1], pose[0], -pose[2])
            for bgr, box in pairs(images, faces)
            for pose in [found_in(self._model, bgr, box)["pose"]]
        ]
        return finite(np.array(angles, np.float32).reshape(-1, 3), self._weights.model)

    def points68(self, images: Sequence[Image], faces: Sequence[Face]) -> Floats:
        """(N, 68, 3) points of the iBUG order in pixels of the image, z in pixels too."""
        found = [found_in(self._model, bgr, box)["landmark_3d_68"] for bgr, box in pairs(images, faces)]
        return np.array(found, np.float32).reshape(-1, 68, 3)

    def points106(self, images: Sequence[Image], faces: Sequence[Face]) -> Floats:
        """(N, 106, 2) points in pixels of the image. MissingError when the pack has no `2d106det`."""
        found = [found_in(self._plane, bgr, box)["landmark_2d_106"] for bgr, box in pairs(images, faces)]
        return np.array(found, np.float32).reshape(-1, 106, 2)

    def fingerprint(self) -> dict[str, Any]:
        """What the numbers depend on."""
        return {**facts(self._weights, self._file), "preprocessing": "box x 1.5, 192 px, RGB", "roll": "sign turned"}

    @functools.cached_property
    def _plane(self) -> Any:
        return network(self._weights, "landmark_2d_106", self._device, self._threads)[1]


class PackAttributes:
    """Age and gender by a pack's `genderage`, on batches. Safe to call from several threads."""

    roles: ClassVar[tuple[str, ...]] = ("attributes",)
    packages: ClassVar[tuple[str, ...]] = (*PACKAGES, "skimage")

    def __init__(self, weights: Weights, *, device: str = "cpu", threads: int = 1, batch: int = 32) -> None:
        self._weights = weights
        self._file, self._model = network(weights, "genderage", device, threads)
        self.batch = batch_of(self._model.input_shape[0], batch)

    def attributes(self, images: Sequence[Image], faces: Sequence[Face]) -> list[Attributes]:
        """Age and gender of one face in each RGB image. ValueError for a box without area."""
        blobs = [self._blob(bgr, box) for bgr, box in pairs(images, faces)]
        model = self._model

        def call(some: Sequence[Floats]) -> Floats:
            rows = model.session.run(model.output_names, {model.input_name: np.concatenate(some)})[0]
            return finite(np.asarray(rows, np.float32), self._weights.model)

        rows = in_batches(blobs, self.batch, call, 3).astype(np.float64)
        # Of the two numbers the first speaks for a woman; the third is the age in centuries.
        return [Attributes(100 * float(row[2]), float(1 / (1 + np.exp(row[1] - row[0])))) for row in rows]

    def fingerprint(self) -> dict[str, Any]:
        """What the guesses depend on."""
        return {**facts(self._weights, self._file), "preprocessing": "box x 1.5, 96 px, RGB"}

    def _blob(self, bgr: Image, box: Floats) -> Floats:
        import cv2
        from insightface.utils.face_align import transform

        size, mean = int(self._model.input_size[0]), self._model.input_mean
        centre = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
        crop, _ = transform(bgr, centre, size, size / (max(box[2] - box[0], box[3] - box[1]) * 1.5), 0)
        scale = 1 / self._model.input_std
        return np.asarray(cv2.dnn.blobFromImage(crop, scale, (size, size), (mean, mean, mean), swapRB=True), np.float32)


def _size(given: int | Sequence[int]) -> tuple[int, int]:
    """Option `det_size`, a number or [width, height]. UsageError unless both are multiples of 32."""
    sides = [given, given] if isinstance(given, int) else list(given)
    if len(sides) != 2 or not all(isinstance(side, int) and side > 0 and side % 32 == 0 for side in sides):
        raise UsageError(f"Option `det_size` is a multiple of 32, or two: [width, height]. Got {given!r}.")
    return sides[0], sides[1]
