"""Seven basic expressions by ResEmoteNet (Roy et al., 2025), the network of DynamicID's measure `Expr`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from idtool.errors import MissingError
from idtool.models import runtime, torch_runtime
from idtool.models.emotions import Seven, face_square, seven
from idtool.models.expression import EXPRESSIONS
from idtool.models.faces import Face
from idtool.models.sources import Weights

Image = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]

_MEAN = np.array([0.485, 0.456, 0.406], np.float32)
_DEVIATION = np.array([0.229, 0.224, 0.225], np.float32)


class ResEmoteNet:
    """ResEmoteNet from a checkpoint with `model_state_dict`, of any width. Safe to call from several threads.

    Its authors cut faces out with OpenCV's Haar cascade, which OpenCV 5 has no longer: ours is the detector's box made
    square. Numbers of the two crops are not comparable. The checkpoint names no classes; they are taken to be in the
    order of the authors' code, which is that of `EXPRESSIONS`.
    """

    roles: ClassVar[tuple[str, ...]] = ("expression",)
    packages: ClassVar[tuple[str, ...]] = ("torch",)
    CROP: ClassVar[int] = 64
    MARGIN: ClassVar[float] = 1.0
    """Side of the crop over the longer side of the box."""

    def __init__(
        self,
        weights: Weights,
        *,
        device: str = "cpu",
        threads: int = 1,
        dtype: str = "float32",
        compiled: bool = False,
        batch: int = 32,
    ) -> None:
        """MissingError when the file is no ResEmoteNet of seven classes, or the device is not there."""
        self._device = torch_runtime.device_of(device, threads)
        self._turns = torch_runtime.Turns(self._device)
        self._weights, self._dtype, self._batch = weights, dtype, batch
        what = f"Model {weights.model} ({weights.path})"
        state = torch_runtime.read_tensors(torch_runtime.file_of(weights), "model_state_dict")
        state = {name.removeprefix("module."): value for name, value in state.items()}
        from idtool.models.networks import resemotenet

        try:
            widths = resemotenet.Widths.of(state)
        except (KeyError, IndexError) as error:
            raise MissingError(f"{what} is no ResEmoteNet: it has no {error}.", "Name another `file`.") from None
        if widths.classes != len(EXPRESSIONS):
            raise MissingError(
                f"{what} has {widths.classes} classes, but ResEmoteNet is used with {len(EXPRESSIONS)} here: "
                f"{', '.join(EXPRESSIONS)}.",
                "Take the checkpoint that was trained on FER2013, which has them.",
            )
        network = resemotenet.ResEmoteNet(widths)
        torch_runtime.fill(network, state, what, ignore=("num_batches_tracked",))
        self._network = torch_runtime.ready(network, self._device, dtype, compiled)

    def __call__(self, images: Sequence[Image], faces: Sequence[Face]) -> Floats:
        """Probabilities (N, 7) in the order of `EXPRESSIONS`, rows of sum 1, for one face in each RGB uint8 image.

        ValueError when the sequences differ in length, an image is of another kind or the network gives a value that
        is not finite.
        """
        return self.detailed(images, faces).probabilities

    def detailed(self, images: Sequence[Image], faces: Sequence[Face]) -> Seven:
        """As calling it; its `contempt` is always 0."""
        crops = [self.crop(image, face) for image, face in zip(images, faces, strict=True)]
        return seven(torch_runtime.in_batches(crops, self._batch, self._logits, len(EXPRESSIONS)), EXPRESSIONS)

    def crop(self, image: Image, face: Face) -> Image:
        """What the network sees of a face: grey three times, uint8 (64, 64, 3)."""
        from PIL import Image as Pillow

        square = face_square(image, face.box, self.MARGIN, self.CROP)
        return np.repeat(np.asarray(Pillow.fromarray(square).convert("L"))[..., None], 3, axis=2)

    def _logits(self, crops: Sequence[Image]) -> Floats:
        import torch

        table = (np.stack(crops).astype(np.float32) / 255 - _MEAN) / _DEVIATION
        batch = torch.from_numpy(np.ascontiguousarray(table.transpose(0, 3, 1, 2)))
        with self._turns, torch.inference_mode():
            batch = batch.to(self._device, torch_runtime.dtype_of(self._dtype))
            return np.asarray(self._network(batch).float().cpu().numpy(), np.float32)

    def fingerprint(self) -> dict[str, Any]:
        """What the probabilities depend on."""
        return {
            **self._weights.facts(),
            "preprocessing": f"detector's box made square x {self.MARGIN}, edges repeated, {self.CROP} px, grey three "
            "times, ImageNet mean and deviation",
            "dtype": self._dtype,
            **runtime.versions("torch", "pillow", "numpy"),
        }
