"""Face detection with five points: SCRFD (Guo et al., "Sample and Computation Redistribution for Efficient Face
Detection", ICLR 2022), the 500 MFLOP network with key points."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from idtool.media.shrink import halved
from idtool.models import crops, runtime, weights

Image = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]

_STRIDES = (8, 16, 32)
_ANCHORS = 2


@dataclass(frozen=True, eq=False)
class Face:
    """A detected face, in pixels of the image it was found in; boxes may reach over the edge of the image."""

    box: Floats
    """(4,) left, top, right, bottom."""
    score: float
    """[0, 1]"""
    kps: Floats
    """(5, 2) x and y of the left eye, right eye, nose tip, left and right mouth corner, left as seen in the image."""

    @property
    def area(self) -> float:
        """Square pixels of the box."""
        return float((self.box[2] - self.box[0]) * (self.box[3] - self.box[1]))


def letterbox(image: Image, size: int) -> tuple[Image, Floats]:
    """`image` fitted into the top left of a black square of `size` pixels, and the scale used along x and y."""
    import cv2

    height, width = image.shape[:2]
    scale = size / max(height, width)
    fitted = (max(1, int(width * scale)), max(1, int(height * scale)))
    canvas = np.zeros((size, size, 3), np.uint8)
    canvas[: fitted[1], : fitted[0]] = cv2.resize(halved(image, *fitted), fitted, interpolation=cv2.INTER_LINEAR)
    return canvas, np.array([fitted[0] / width, fitted[1] / height], np.float32)


def suppress(boxes: Floats, ranks: Floats, overlap: float, contained: float = 1.0) -> npt.NDArray[np.intp]:
    """Greedy non-maximum suppression: indices of the (N, 4) boxes that stay, highest rank first.

    A box goes when a better one overlaps it by more than `overlap` (intersection over union), or when more than the
    share `contained` of the smaller of the two lies in the larger. Equal ranks keep their order.
    """
    order = np.argsort(-ranks, kind="stable")
    area = np.prod(np.clip(boxes[:, 2:] - boxes[:, :2], 0, None), axis=1)
    kept = []
    while len(order):
        first, rest = order[0], order[1:]
        kept.append(first)
        low = np.maximum(boxes[first, :2], boxes[rest, :2])
        high = np.minimum(boxes[first, 2:], boxes[rest, 2:])
        common = np.prod(np.clip(high - low, 0, None), axis=1)
        one = common > overlap * (area[first] + area[rest] - common)
        part = common > contained * np.minimum(area[first], area[rest])
        order = rest[~(one | part)]
    return np.array(kept, np.intp)


class Scrfd:
    """SCRFD-500M with key points. Safe to call from several threads.

    The network is blind to faces that fill its canvas, and to small ones on a small canvas. So every image is looked
    at twice, fitted into 640 and into 256 pixels, and the answers are merged: of two boxes on one face, one that
    suits its canvas (at most a third of the 640 frame, at least a quarter of the 256 frame) goes before one that does
    not, and a better score before a worse.

    Seen on real photos: a face in each of 161 portraits and 17 singles (90 and 12 of them are missed at 640 alone),
    every one of 29 in a group photo 2048 px wide, none in a dog and a drawing without faces. Statues, paintings and
    cartoons of faces count as faces. 30 ms per image on one core.
    """

    name = "scrfd-500m"
    LEVELS: ClassVar[tuple[tuple[int, float, float], ...]] = ((640, 0.0, 1 / 3), (256, 0.25, np.inf))
    """Canvas in pixels, and the sides of faces that suit it as shares of the frame's longer side."""
    OVERLAP: ClassVar[float] = 0.4
    """Intersection over union above which two boxes are one face."""
    CONTAINED: ClassVar[float] = 0.7
    """Share of the smaller box inside the other above which the two are one face (a part of it seen as a face)."""

    def __init__(self, *, threshold: float = 0.5, device: str = "cpu", threads: int = 1) -> None:
        self.threshold = threshold
        self._session = runtime.onnx_session(weights.path(self.name), device, threads)
        self._anchors = {(size, stride): _anchors(size, stride) for size, *_ in self.LEVELS for stride in _STRIDES}

    def detect(self, images: Sequence[Image]) -> list[list[Face]]:
        """Faces of each RGB uint8 image (H, W, 3), largest box first; an empty list where there is none.

        Images are run one at a time: batches of this network are slower on a CPU, and the result of an image must
        not depend on its neighbours. Raises ValueError for an array of another kind.
        """
        return [self._detect(image) for image in images]

    def fingerprint(self) -> dict[str, Any]:
        """What the results depend on."""
        return {
            "model": self.name,
            "sha256": weights.sha256(self.name),
            "preprocessing": f"fitted into {[size for size, *_ in self.LEVELS]} px, RGB, (x - 127.5) / 128",
            "threshold": self.threshold,
            "overlap": [self.OVERLAP, self.CONTAINED],
            **runtime.versions("onnxruntime", "opencv-python-headless", "numpy"),
        }

    def _detect(self, image: Image) -> list[Face]:
        crops.check(image)
        frame = max(image.shape[:2])
        looks = [self._look(image, size) for size, *_ in self.LEVELS]
        boxes, scores, kps = (np.concatenate(parts) for parts in zip(*looks, strict=True))
        side = (boxes[:, 2:] - boxes[:, :2]).max(axis=1, initial=0) / frame
        low = np.concatenate([np.full(len(look[0]), level[1]) for look, level in zip(looks, self.LEVELS, strict=True)])
        high = np.concatenate([np.full(len(look[0]), level[2]) for look, level in zip(looks, self.LEVELS, strict=True)])
        suits = (side >= low) & (side <= high)
        kept = suppress(boxes, scores + suits, self.OVERLAP, self.CONTAINED)
        faces = [Face(boxes[i], float(scores[i]), kps[i]) for i in kept]
        return sorted(faces, key=lambda face: -face.area)

    def _look(self, image: Image, size: int) -> tuple[Floats, Floats, Floats]:
        """Boxes (N, 4), scores (N,) and points (N, 5, 2) in pixels of `image`, above the threshold, before merging."""
        import cv2

        canvas, scale = letterbox(image, size)
        blob = cv2.dnn.blobFromImage(canvas, 1 / 128, mean=(127.5, 127.5, 127.5))
        outputs = self._session.run(None, {self._session.get_inputs()[0].name: blob})
        boxes, scores, kps = [], [], []
        for index, stride in enumerate(_STRIDES):
            score = np.asarray(outputs[index], np.float32).reshape(-1)
            above = np.flatnonzero(score >= self.threshold)
            centre = self._anchors[size, stride][above]
            # Distances from the anchor's centre to the four sides, and offsets of the points, in units of the stride.
            sides = outputs[index + 3].reshape(-1, 4)[above] * stride
            points = outputs[index + 6].reshape(-1, 5, 2)[above] * stride
            boxes.append(np.concatenate([centre - sides[:, :2], centre + sides[:, 2:]], axis=1) / np.tile(scale, 2))
            kps.append((centre[:, None] + points) / scale)
            scores.append(score[above])
        return np.concatenate(boxes).astype(np.float32), np.concatenate(scores), np.concatenate(kps).astype(np.float32)


def _anchors(size: int, stride: int) -> Floats:
    """Centres of the anchors of one feature map, (cells * anchors, 2) x and y in canvas pixels."""
    line = np.arange(size // stride, dtype=np.float32) * stride
    grid = np.stack(np.meshgrid(line, line), axis=-1).reshape(-1, 2)
    return np.repeat(grid, _ANCHORS, axis=0)
