"""The Inception v3 of the Fréchet inception distance (Heusel et al., NeurIPS 2017) and of KID (Bińkowski et al., ICLR
2018): ImageNet features of whole images.

The weights were ported from TensorFlow once, and both public files hold the same bytes: `pt_inception-2015-12-05-
6726825d.pth` of pytorch-fid and `weights-inception-2015-12-05-6726825d.pth` of torch-fidelity.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import numpy as np

from idtool.errors import UsageError
from idtool.models import preprocess, runtime, torch_runtime
from idtool.models.pack_files import batch_of
from idtool.models.sources import Weights
from idtool.models.torch_runtime import Floats, Image

SIDE = 299
WIDTH = 32
"""Channels of the first convolution of the public network."""


class FidInception:
    """Features of the last average pool (2048 numbers). Safe to call from several threads.

    `preproc` says how pictures come to 299 px. Parmar et al. ("On Aliased Resizing and Surprising Subtleties in GAN
    Evaluation", CVPR 2022) show that the distances of two ways cannot be compared:

    - `clean`: Pillow's bicubic filter, which averages where it shrinks, on colours as floats (clean-fid);
    - `torch-fidelity`: TensorFlow 1's bilinear filter, which skips pixels where it shrinks (the original FID);
    - `pytorch-fid`: PyTorch's bilinear filter, which skips pixels too, and values from -1 to 1.
    """

    roles: ClassVar[tuple[str, ...]] = ("inception",)
    packages: ClassVar[tuple[str, ...]] = ("torch",)

    def __init__(
        self, weights: Weights, *, device: str = "cpu", threads: int = 1, batch: int = 32, preproc: str = "clean"
    ) -> None:
        if preproc not in _PREPROCESSING:
            known = ", ".join(_PREPROCESSING)
            raise UsageError(f"Option `preproc` of {weights.model!r} is {preproc!r}.", f"Use one of {known}.")
        self.batch = batch_of(None, batch)
        self._weights, self._preproc = weights, preproc
        resize, words = _PREPROCESSING[preproc]
        self._pictures = preprocess.Pictures(lambda image: {"pixel_values": resize(image)[None]}, words, threads)
        self._device = torch_runtime.device_of(device, threads)
        self._turns = torch_runtime.Turns(self._device)
        network = _network(weights)
        self.dim = int(network.dim)
        self._network = torch_runtime.ready(network, self._device)

    def images(self, images: Sequence[Image]) -> Floats:
        """Features (N, 2048) float32 of RGB uint8 images (H, W, 3) of any size. ValueError for an array of another
        kind, or when the network gives NaN."""
        return preprocess.encode(
            images,
            self._pictures,
            self._features,
            batch=self.batch,
            width=self.dim,
            turns=self._turns,
            ahead=self._device.type != "cpu",
        )

    def fingerprint(self) -> dict[str, Any]:
        """What the features depend on."""
        return {
            **self._weights.facts(),
            "architecture": "inception-v3",
            "preprocessing": f"{self._preproc}: {self._pictures.words}",
            "feature": "last average pool",
            "dtype": "float32",
            "device": self._device.type,
            **runtime.versions("torch", "pillow", "numpy"),
        }

    def _features(self, tensors: preprocess.Tensors) -> Floats:
        torch = torch_runtime.import_torch()
        pixels = tensors["pixel_values"].to(self._device, non_blocking=True)
        with torch.inference_mode():
            rows = self._network(pixels).cpu().numpy()
        return torch_runtime.finite(np.asarray(rows, np.float32), self._weights.model)


def _clean(image: Image) -> Any:
    from PIL import Image as Pillow

    planes: list[Floats] = [
        np.asarray(Pillow.fromarray(plane).resize((SIDE, SIDE), Pillow.Resampling.BICUBIC))
        for plane in np.moveaxis(image, 2, 0).astype(np.float32)
    ]
    return (torch_runtime.import_torch().from_numpy(np.stack(planes).clip(0, 255)) - 128) / 128


def _torch_fidelity(image: Image) -> Any:
    torch = torch_runtime.import_torch()
    found = _planes(image)
    # TensorFlow 1 takes the corner of a pixel for its place. Columns before rows, as there.
    for axis in (2, 1):
        size = found.shape[axis]
        place = torch.arange(SIDE, dtype=torch.float32) * torch.tensor(size / SIDE, dtype=torch.float32)
        before = place.long()
        share = (place - before).reshape(-1, *[1] * (2 - axis))
        low, high = (found.index_select(axis, at) for at in (before, (before + 1).clamp_max(size - 1)))
        found = low + (high - low) * share
    return (found - 128) / 128


def _pytorch_fid(image: Image) -> Any:
    functional = torch_runtime.import_torch().nn.functional
    unit = _planes(image)[None] / 255
    return functional.interpolate(unit, (SIDE, SIDE), mode="bilinear", align_corners=False)[0] * 2 - 1


def _planes(image: Image) -> Any:
    """(3, H, W) float32, 0 to 255."""
    return torch_runtime.import_torch().from_numpy(np.require(image, np.uint8, ["C", "W"])).permute(2, 0, 1).float()


_PREPROCESSING: dict[str, tuple[Callable[[Image], Any], str]] = {
    "clean": (_clean, "Pillow bicubic to 299 px on float32 planes, (x - 128) / 128"),
    "torch-fidelity": (_torch_fidelity, "TensorFlow 1 bilinear to 299 px, not antialiased, (x - 128) / 128"),
    "pytorch-fid": (_pytorch_fid, "PyTorch bilinear to 299 px, not antialiased, x / 127.5 - 1"),
}
"""Name -> RGB uint8 image to tensor (3, 299, 299), and what it does in words."""


def _network(weights: Weights) -> Any:
    """The network in the width of the checkpoint, filled. MissingError when it is another one."""
    from idtool.models.networks.inception import FidInceptionV3

    state = torch_runtime.read_tensors(torch_runtime.file_of(weights))
    # The classifier over ImageNet, which distances do not use.
    state = {name: tensor for name, tensor in state.items() if not name.startswith("fc.")}
    first = state.get("Conv2d_1a_3x3.conv.weight")
    network = FidInceptionV3(width=1.0 if first is None else first.shape[0] / WIDTH)
    what = f"Model {weights.model} ({weights.path})"
    torch_runtime.fill(network, state, what, ignore=("num_batches_tracked",))
    return network
