"""OpenCV's own face networks: YuNet finds faces, SFace tells them apart. Their terms allow commercial use.

YuNet: Wu et al., "YuNet: A Tiny Millisecond-level Face Detector", Machine Intelligence Research 2023. SFace: Zhong et
al., "SFace: Sigmoid-Constrained Hypersphere Loss for Robust Face Recognition", IEEE TIP 2021.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from idtool.errors import MissingError, UsageError
from idtool.models import crops as crop_rules
from idtool.models import runtime
from idtool.models.faces import Face, letterbox
from idtool.models.identity import aligned, checked_crops
from idtool.models.pack_files import batch_of
from idtool.models.sources import Weights
from idtool.models.torch_runtime import as_missing, file_of, finite, in_batches

Image = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]


class YuNet:
    """YuNet through `cv2.FaceDetectorYN`, on the CPU. Safe to call from several threads.

    An image is first fitted into `size` pixels: on a photo of 4000x3000 the network finds only parts of a face that
    fills it. Seen on real photos with the default threshold: every one of 178 portraits (the least score .83), 29 of
    29 in a group photo, 15 of 15 in another, and one false face (a dog's, .88). Statues, paintings and cartoons count
    as faces. 25 ms per image on one core.
    """

    roles: ClassVar[tuple[str, ...]] = ("faces",)
    packages: ClassVar[tuple[str, ...]] = ()
    OVERLAP: ClassVar[float] = 0.3
    """Intersection over union above which two boxes are one face."""
    MOST: ClassVar[int] = 5000
    """Boxes that are looked at before overlaps are dropped."""

    def __init__(
        self, weights: Weights, *, device: str = "cpu", threads: int = 1, size: int = 640, threshold: float = 0.7
    ) -> None:
        runtime.cpu_only(device, "OpenCV's face detector")
        if not (isinstance(size, int) and size > 0 and size % 32 == 0):
            raise UsageError(f"Option `size` is a multiple of 32. Got {size!r}.")
        if not 0 < threshold < 1:
            raise UsageError(f"Option `threshold` is between 0 and 1. Got {threshold!r}.")
        self.size, self.threshold = size, float(threshold)
        self._weights, self._file = weights, str(file_of(weights))
        # OpenCV has one number of threads for all of a process, so `threads` is left to the one who runs the process.
        self._detectors = runtime.PerThread(self._detector)
        with as_missing(f"Model {weights.model} ({weights.path})"):
            self._detectors.get().detect(np.zeros((size, size, 3), np.uint8))

    def detect(self, images: Sequence[Image]) -> list[list[Face]]:
        """Faces of each RGB uint8 image (H, W, 3), largest box first; an empty list where there is none.

        Raises ValueError for an array of another kind.
        """
        return [self._detect(image) for image in images]

    def fingerprint(self) -> dict[str, Any]:
        """What the results depend on."""
        return {
            **self._weights.facts(),
            "preprocessing": f"fitted into {self.size} px (top left, black), BGR 0 to 255",
            "threshold": self.threshold,
            "overlap": self.OVERLAP,
            **runtime.versions("opencv-python-headless", "numpy"),
        }

    def _detect(self, image: Image) -> list[Face]:
        crop_rules.check(image)
        canvas, scale = letterbox(image, self.size)
        _, rows = self._detectors.get().detect(np.ascontiguousarray(canvas[..., ::-1]))
        faces = []
        for row in np.zeros((0, 15)) if rows is None else finite(rows, self._weights.model):
            # Left, top, width, height, then the points; the person's right eye first, which is left in the picture.
            box = np.concatenate([row[:2], row[:2] + row[2:4]]) / np.tile(scale, 2)
            kps = row[4:14].reshape(5, 2) / scale
            faces.append(Face(box.astype(np.float32), float(row[14]), kps.astype(np.float32)))
        return sorted(faces, key=lambda face: -face.area)

    def _detector(self) -> Any:
        import cv2

        with _quiet():
            return cv2.FaceDetectorYN.create(
                self._file, "", (self.size, self.size), self.threshold, self.OVERLAP, self.MOST
            )


class SFace:
    """SFace (128 numbers) on ONNX Runtime, fed as `cv2.FaceRecognizerSF` feeds it. Safe to call from several threads.

    The published file takes one crop at a time. OpenCV calls a cosine of .363 and more the same person.
    """

    roles: ClassVar[tuple[str, ...]] = ("identity",)
    packages: ClassVar[tuple[str, ...]] = ("onnxruntime",)
    alignment: ClassVar[str] = "arcface-112"

    def __init__(self, weights: Weights, *, device: str = "cpu", threads: int = 1, batch: int = 32) -> None:
        self._weights, file = weights, file_of(weights)
        what = f"Model {weights.model} ({file})"
        with as_missing(what):
            self._session = runtime.onnx_session(file, device, threads)
        inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
        if len(inputs) != 1 or list(inputs[0].shape[1:]) != [3, 112, 112] or len(outputs[0].shape) != 2:
            raise MissingError(
                f"{what} is no network for face crops: it takes {[i.shape for i in inputs]} and gives "
                f"{[o.shape for o in outputs]}.",
                "Name the file of SFace by option `file` of the binding.",
            )
        self.dim, self.batch = int(outputs[0].shape[1]), batch_of(inputs[0].shape[0], batch)
        self._input = inputs[0].name

    def crops(self, images: Sequence[Image], faces: Sequence[Face]) -> list[Image]:
        """What `embed` takes: the aligned crop of one face in each RGB image (`identity.aligned`)."""
        return aligned(images, faces)

    def embed(self, crops: npt.ArrayLike | Sequence[Image]) -> Floats:
        """Aligned RGB uint8 crops (N, 112, 112, 3) to raw embeddings (N, dim) float32, not normalised."""

        def call(some: Sequence[Image]) -> Floats:
            # The file itself shifts and scales the values 0 to 255.
            pixels = np.stack(some).astype(np.float32).transpose(0, 3, 1, 2)
            rows = self._session.run(None, {self._input: np.ascontiguousarray(pixels)})[0]
            return finite(np.asarray(rows, np.float32), self._weights.model)

        return in_batches(list(checked_crops(crops)), self.batch, call, self.dim)

    def fingerprint(self) -> dict[str, Any]:
        """What the numbers depend on."""
        return {
            **self._weights.facts(),
            "preprocessing": "5 points, least squares to the ArcFace template of 112 px, RGB 0 to 255",
            **runtime.versions("onnxruntime", "opencv-python-headless", "numpy"),
        }


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep OpenCV 5 from warning on standard error, at every start, that its new engine ignores the target device."""
    import cv2

    before = cv2.utils.logging.getLogLevel()
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_ERROR)
    try:
        yield
    finally:
        cv2.utils.logging.setLogLevel(before)
