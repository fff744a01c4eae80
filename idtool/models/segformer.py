"""Face parsing by SegFormer (Xie et al., NeurIPS 2021), such as `jonathandinu/face-parsing` (trained on
CelebAMask-HQ), whose classes come in another order than BiSeNet's: they are told by the names in its `config.json`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from idtool.models import runtime, torch_runtime
from idtool.models.crops import warp
from idtool.models.faces import Face
from idtool.models.parts import CROP, MARGIN, Parsed, crop_matrix, order_of
from idtool.models.sources import Weights

Image = npt.NDArray[np.uint8]
Labels = npt.NDArray[np.uint8]


class SegFormerParser:
    """SegFormer on the crops of `idtool.models.parser.BiSeNet`. Safe to call from several threads.

    Left and right are the person's own, as in CelebAMask-HQ: names decide, `l_eye` is `left_eye`.
    """

    roles: ClassVar[tuple[str, ...]] = ("parser",)
    packages: ClassVar[tuple[str, ...]] = torch_runtime.PACKAGES

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
        self._device = torch_runtime.device_of(device, threads)
        from transformers import SegformerForSemanticSegmentation, SegformerImageProcessor

        self._weights, self._dtype, self._batch = weights, dtype, batch
        network = torch_runtime.pretrained(SegformerForSemanticSegmentation, weights)
        named = network.config.id2label
        self._order = order_of(
            [str(named[index]) for index in sorted(named)], f"Model {weights.model} ({weights.path})"
        )
        self._processor = torch_runtime.processor(SegformerImageProcessor, weights, "image processor")
        self._turns = torch_runtime.Turns(self._device)
        self._network = torch_runtime.ready(network, self._device, dtype, compiled)

    def __call__(self, images: Sequence[Image], faces: Sequence[Face]) -> list[Parsed]:
        """Parts of one face in each RGB uint8 image (H, W, 3).

        Raises ValueError when the sequences differ in length, an array is of another kind, or a score is not finite.
        """
        matrices = [crop_matrix(face.box) for _, face in zip(images, faces, strict=True)]
        found: list[Parsed] = []
        for start in range(0, len(matrices), self._batch):
            some = matrices[start : start + self._batch]
            crops = [
                warp(image, matrix, CROP, "replicate")
                for image, matrix in zip(images[start : start + self._batch], some, strict=True)
            ]
            found += [Parsed(row, matrix) for row, matrix in zip(self._labels(crops), some, strict=True)]
        return found

    def fingerprint(self) -> dict[str, Any]:
        """What the parts depend on."""
        size = self._processor.size
        return {
            **self._weights.facts(),
            "preprocessing": f"box x {MARGIN}, {CROP} px, repeated edges, its own processor to "
            f"{size['height']} x {size['width']} px; scores enlarged linearly",
            "dtype": self._dtype,
            **runtime.versions("torch", "transformers", "opencv-python-headless", "numpy"),
        }

    def _labels(self, crops: Sequence[Image]) -> Labels:
        """Indices into `PARTS` (N, 512, 512) of crops (512, 512, 3)."""
        torch = torch_runtime.import_torch()
        pixels = self._processor(images=list(crops), input_data_format="channels_last", return_tensors="pt")
        with self._turns, torch.inference_mode():
            logits = self._network(
                pixel_values=pixels["pixel_values"].to(self._device, torch_runtime.dtype_of(self._dtype))
            ).logits.float()
            torch_runtime.finite(logits.cpu().numpy(), "The face parser")
            # The network's scores are at a quarter of the size: it is the scores that are enlarged, not the labels.
            scores = torch.nn.functional.interpolate(logits, (CROP, CROP), mode="bilinear", align_corners=False)
            own = scores.argmax(dim=1).cpu().numpy()
        return np.asarray(self._order[own], np.uint8)
