"""Face parsing on PyTorch: the 19-class BiSeNet from its public checkpoints, batched, on any device.

The network, crop and numbers are those of `idtool.models.parser.BiSeNet`, which runs the same weights on OpenVINO.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from idtool.errors import MissingError
from idtool.models import runtime, torch_runtime
from idtool.models.crops import warp
from idtool.models.faces import Face
from idtool.models.parts import CROP, MARGIN, PARTS, Parsed, crop_matrix
from idtool.models.sources import Weights

Image = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]

MEAN = (0.485, 0.456, 0.406)
DEVIATION = (0.229, 0.224, 0.225)
_TRAINING_ONLY = ("conv_out16.", "conv_out32.")


class BiSeNetTorch:
    """BiSeNet on CelebAMask-HQ classes: `79999_iter.pth`, `face_parsing.pth`. Safe to call from several threads."""

    roles: ClassVar[tuple[str, ...]] = ("parser",)
    packages: ClassVar[tuple[str, ...]] = ("torch",)

    def __init__(
        self,
        weights: Weights,
        *,
        device: str = "cpu",
        threads: int = 1,
        dtype: str = "float32",
        compiled: bool = False,
        batch: int = 16,
    ) -> None:
        self._weights, self._dtype, self._batch = weights, dtype, batch
        self._device = torch_runtime.device_of(device, threads)
        self._turns = torch_runtime.Turns(self._device)
        self._network = torch_runtime.ready(_network(weights), self._device, dtype, compiled)

    def __call__(self, images: Sequence[Image], faces: Sequence[Face]) -> list[Parsed]:
        """Parts of one face in each RGB uint8 image (H, W, 3).

        Raises ValueError when the sequences differ in length, an array is of another kind, or a score is not finite.
        """
        matrices = [crop_matrix(face.box) for _, face in zip(images, faces, strict=True)]
        found: list[Parsed] = []
        # Labels are kept, not the scores of all crops: those are 20 MB each.
        for start in range(0, len(matrices), self._batch):
            some = matrices[start : start + self._batch]
            crops = [
                warp(image, matrix, CROP, "replicate")
                for image, matrix in zip(images[start : start + self._batch], some, strict=True)
            ]
            labels = self.scores(crops).argmax(axis=1).astype(np.uint8)
            found += [Parsed(row, matrix) for row, matrix in zip(labels, some, strict=True)]
        return found

    def scores(self, crops: Sequence[Image]) -> Floats:
        """Class scores (N, 19, 512, 512) of RGB uint8 crops (512, 512, 3)."""
        rows = torch_runtime.in_batches(crops, self._batch, self._scores, len(PARTS))
        return rows if len(crops) else np.zeros((0, len(PARTS), CROP, CROP), np.float32)

    def fingerprint(self) -> dict[str, Any]:
        """What the parts depend on."""
        return {
            **self._weights.facts(),
            "preprocessing": f"box x {MARGIN}, {CROP} px, repeated edges, ImageNet mean and deviation",
            "dtype": self._dtype,
            **runtime.versions("torch", "opencv-python-headless", "numpy"),
        }

    def _scores(self, crops: Sequence[Image]) -> Floats:
        torch = torch_runtime.import_torch()
        pixels = np.stack(crops).astype(np.float32) / 255
        batch = ((pixels - np.array(MEAN, np.float32)) / np.array(DEVIATION, np.float32)).transpose(0, 3, 1, 2)
        tensor = torch.from_numpy(np.ascontiguousarray(batch))
        with self._turns, torch.inference_mode():
            out = self._network(tensor.to(self._device, torch_runtime.dtype_of(self._dtype))).float().cpu().numpy()
        return torch_runtime.finite(np.asarray(out, np.float32), "The face parser")


def _network(weights: Weights) -> Any:
    """The network in the widths of the checkpoint, filled. MissingError when it is another one."""
    from idtool.models.networks.bisenet import BiSeNet, Widths

    what = f"Model {weights.model} ({weights.path})"
    state = torch_runtime.read_tensors(torch_runtime.file_of(weights), inside="state_dict")
    state = {name: tensor for name, tensor in state.items() if not name.startswith(_TRAINING_ONLY)}
    try:
        widths = Widths.of(state)
    except KeyError as error:
        raise MissingError(
            f"{what} is no face-parsing BiSeNet: it has no {error}.", "Give it the option `format` that it is in."
        ) from None
    if widths.classes != len(PARTS):
        raise MissingError(
            f"{what} tells {widths.classes} classes apart; the parts of a face here are {len(PARTS)}.",
            "Bind role parser to a model that was trained on CelebAMask-HQ.",
        )
    network = BiSeNet(widths)
    torch_runtime.fill(network, state, what, ignore=("num_batches_tracked",))
    return network
