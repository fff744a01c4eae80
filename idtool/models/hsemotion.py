"""Expressions by HSEmotion's EfficientNets in ONNX (Savchenko, "Video-based Frame-level Facial Analysis of Affective
Behavior on Mobile Devices using EfficientNets", CVPR Workshops 2022), trained on AffectNet."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from idtool.errors import MissingError, UsageError
from idtool.models import runtime, torch_runtime
from idtool.models.emotions import Seven, face_square, seven, words
from idtool.models.expression import EXPRESSIONS
from idtool.models.faces import Face
from idtool.models.sources import Weights

Image = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]

_MEAN = np.array([0.485, 0.456, 0.406], np.float32)
_DEVIATION = np.array([0.229, 0.224, 0.225], np.float32)
_EIGHT = ("Anger", "Contempt", "Disgust", "Fear", "Happiness", "Neutral", "Sadness", "Surprise")
_SEVEN = tuple(name for name in _EIGHT if name != "Contempt")
_CLASSES = {7: _SEVEN, 8: _EIGHT, 9: _SEVEN, 10: _EIGHT}
"""Numbers that a file gives per face -> its classes. Multi-task files add valence and arousal at the end."""


class HsEmotion:
    """An HSEmotion file such as `enet_b0_8_best_vgaf.onnx`, `enet_b2_8.onnx` or `enet_b0_8_va_mtl.onnx`. Safe to call
    from several threads.

    Size and classes are read off the file. The probability of contempt is left out and the others are raised
    (`emotions.seven`); `detailed` gives it.
    """

    roles: ClassVar[tuple[str, ...]] = ("expression",)
    packages: ClassVar[tuple[str, ...]] = ("onnxruntime",)
    MARGIN: ClassVar[float] = 1.0
    """Side of the crop over the longer side of the box."""

    def __init__(
        self, weights: Weights, *, device: str = "cpu", threads: int = 1, batch: int = 32, size: int | None = None
    ) -> None:
        """`size`: side of the crop in pixels, where the file leaves it open. MissingError when the file is not of this
        kind or the device is not there; UsageError when `size` is absent or contradicts the file."""
        self._weights = weights
        what = f"Model {weights.model} ({weights.path})"
        file = torch_runtime.file_of(weights)
        with torch_runtime.as_missing(what):
            self._session = runtime.onnx_session(file, device, threads)
        inputs = self._session.get_inputs()
        shape = inputs[0].shape
        if len(inputs) != 1 or len(shape) != 4 or shape[1] != 3:
            raise MissingError(f"{what} is no HSEmotion file: it does not take one image.", "Name another `file`.")
        self._input = inputs[0].name
        self.size = _size(shape[2:], size, what)
        # A file of one face at a time takes one at a time.
        self._batch = shape[0] if isinstance(shape[0], int) else batch
        with torch_runtime.as_missing(what):
            trial = self._session.run(None, {self._input: np.zeros((self._batch, 3, self.size, self.size), np.float32)})
        widths = [output.shape[1] if output.ndim == 2 else 0 for output in trial]
        self._output = next((k for k, width in enumerate(widths) if width in _CLASSES), -1)
        if self._output < 0:
            raise MissingError(
                f"{what} is no HSEmotion file: it gives {widths} numbers, not those of 7 or 8 classes.",
                "Name another `file`.",
            )
        self._order = words(_CLASSES[widths[self._output]])

    def __call__(self, images: Sequence[Image], faces: Sequence[Face]) -> Floats:
        """Probabilities (N, 7) in the order of `EXPRESSIONS`, rows of sum 1, for one face in each RGB uint8 image.

        ValueError when the sequences differ in length, an image is of another kind or the network gives a value that
        is not finite.
        """
        return self.detailed(images, faces).probabilities

    def detailed(self, images: Sequence[Image], faces: Sequence[Face]) -> Seven:
        """As calling it, with the probability of contempt that was left out."""
        crops = [
            face_square(image, face.box, self.MARGIN, self.size) for image, face in zip(images, faces, strict=True)
        ]
        return seven(torch_runtime.in_batches(crops, self._batch, self._logits, len(self._order)), self._order)

    def _logits(self, crops: Sequence[Image]) -> Floats:
        table = (np.stack(crops).astype(np.float32) / 255 - _MEAN) / _DEVIATION
        output = self._session.run(None, {self._input: np.ascontiguousarray(table.transpose(0, 3, 1, 2))})[self._output]
        return np.asarray(output[:, : len(self._order)], np.float32)

    def fingerprint(self) -> dict[str, Any]:
        """What the probabilities depend on."""
        classes = "contempt left out" if len(self._order) > len(EXPRESSIONS) else "7 classes"
        return {
            **self._weights.facts(),
            "preprocessing": f"detector's box made square x {self.MARGIN}, edges repeated, {self.size} px, RGB, "
            f"ImageNet mean and deviation; {classes}",
            "dtype": "float32",
            **runtime.versions("onnxruntime", "pillow", "numpy"),
        }


def _size(stated: Sequence[Any], asked: int | None, what: str) -> int:
    """The side of the crop that the file states, or else the one that was asked for."""
    fixed = {side for side in stated if isinstance(side, int)}
    if len(fixed) > 1:
        raise MissingError(f"{what} is no HSEmotion file: its images are {stated}.", "Name another `file`.")
    if not fixed and asked is None:
        raise UsageError(f"{what} leaves the size of its crops open.", "Set option `size`: 224 for b0 files, else 260.")
    if fixed and asked is not None and asked not in fixed:
        raise UsageError(f"{what} takes crops of {min(fixed)} px, but option `size` is {asked}.", "Remove the option.")
    size = min(fixed) if fixed else int(asked or 0)
    if size < 1:
        raise UsageError(f"Option `size` is {asked}, which is no size.", "Set 224 for b0 files, else 260.")
    return size
