"""Face restoration by CodeFormer (Zhou et al., "Towards Robust Blind Face Restoration with Codebook Lookup
Transformer", NeurIPS 2022), from the public `codeformer.pth`. S-Lab License 1.0: non-commercial.

It makes a face clean and sharp; it swaps none (DMID cites it for face swapping). A swapper's face of 128 px is
restored by it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from idtool.errors import MissingError, UsageError
from idtool.models import alignment, runtime, torch_runtime
from idtool.models.crops import check, warp
from idtool.models.faces import Face
from idtool.models.sources import Weights

Image = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]


class CodeFormer:
    """Restores faces. Safe to call from several threads."""

    roles: ClassVar[tuple[str, ...]] = ("restorer",)
    packages: ClassVar[tuple[str, ...]] = ("torch",)

    def __init__(
        self,
        weights: Weights,
        *,
        device: str = "cpu",
        threads: int = 1,
        dtype: str = "float32",
        compiled: bool = False,
        batch: int = 4,
        heads: int = 8,
        edge: float = 0.15,
    ) -> None:
        if not 0 < edge <= 0.5:
            raise UsageError(f"Option `edge` is above 0 and at most 0.5. Got {edge!r}.")
        self._weights, self._dtype, self._batch, self._edge = weights, dtype, batch, float(edge)
        self._device = torch_runtime.device_of(device, threads)
        self._turns = torch_runtime.Turns(self._device)
        network = _network(weights, heads)
        self.side: int = network.widths.side
        """Side in pixels of the crops that the network takes; 512 for the published one."""
        self._network = torch_runtime.ready(network, self._device, dtype, compiled)
        self._mask = alignment.soft_square(self.side, self._edge)

    def __call__(self, images: Sequence[Image], faces: Sequence[Face], fidelity: float = 0.5) -> list[Image]:
        """RGB uint8 images (H, W, 3) with the one face of each restored, at their own size; pixels outside of the
        face's frame stay. `fidelity` as in `restore`. ValueError for sequences of different lengths and points that
        coincide."""
        matrices = []
        for image, face in zip(images, faces, strict=True):
            check(image)
            matrices.append(alignment.ffhq(face.kps, self.side))
        aligned = [warp(image, matrix, self.side, "replicate") for image, matrix in zip(images, matrices, strict=True)]
        restored = self.restore(aligned, fidelity)
        return [
            alignment.put_back(image, face, matrix, self._mask)
            for image, face, matrix in zip(images, restored, matrices, strict=True)
        ]

    def restore(self, crops: Sequence[Image], fidelity: float = 0.5) -> list[Image]:
        """Aligned RGB uint8 crops (side, side, 3) restored. `fidelity` in [0, 1] (`w`, equation 6): 0 the cleanest
        face, 1 the closest to the picture."""
        if not 0 <= fidelity <= 1:
            raise ValueError(f"fidelity is between 0 and 1. Got {fidelity}")
        for crop in crops:
            if crop.shape != (self.side, self.side, 3) or crop.dtype != np.uint8:
                raise ValueError(f"Expected uint8 crops of {self.side}x{self.side}x3. Got {crop.dtype} {crop.shape}")
        out: list[Image] = []
        for start in range(0, len(crops), self._batch):
            pixels = self._run(np.stack(crops[start : start + self._batch]), fidelity)
            out += list(np.rint((np.clip(pixels, -1, 1) + 1) * 127.5).astype(np.uint8).transpose(0, 2, 3, 1))
        return out

    def fingerprint(self) -> dict[str, Any]:
        """What the faces depend on."""
        return {
            **self._weights.facts(),
            "preprocessing": f"5 points, least squares to FFHQ's in {self.side} px, repeated edges, RGB, [-1, 1]",
            "edge": self._edge,
            "dtype": self._dtype,
            **runtime.versions("torch", "opencv-python-headless", "numpy"),
        }

    def _run(self, crops: npt.NDArray[np.uint8], fidelity: float) -> Floats:
        torch = torch_runtime.import_torch()
        batch = np.ascontiguousarray(crops.transpose(0, 3, 1, 2).astype(np.float32) / 127.5 - 1)
        tensor = torch.from_numpy(batch).to(self._device, torch_runtime.dtype_of(self._dtype))
        with self._turns, torch.inference_mode():
            out = self._network(tensor, fidelity).float().cpu().numpy()
        return torch_runtime.finite(np.asarray(out, np.float32), self._weights.model)


def _network(weights: Weights, heads: int) -> Any:
    """The network in the widths of the checkpoint, filled. MissingError when it is another one."""
    from idtool.models.networks.codeformer import CodeFormer as Network
    from idtool.models.networks.codeformer import Widths

    what = f"Model {weights.model} ({weights.path})"
    state = torch_runtime.read_tensors(torch_runtime.file_of(weights), inside="params_ema")
    try:
        widths = Widths.of(state, heads)
    except KeyError as error:
        raise MissingError(
            f"{what} is no CodeFormer: it has no {error}.", "Bind role restorer to codeformer.pth."
        ) from None
    if widths.dim % heads:
        raise UsageError(f"Option `heads` of {weights.model} has to divide {widths.dim}. Got {heads}.")
    network = Network(widths)
    torch_runtime.fill(network, state, what)
    return network
