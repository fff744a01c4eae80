"""AdaFace and other face networks of the IR family, from the checkpoints of CVLface and of the AdaFace repository.

Kim et al., "AdaFace: Quality Adaptive Margin for Face Recognition", CVPR 2022. The two sources save one network under
names with different prefixes, and feed it different colours:

- CVLface (`hf:minchul/cvlface_adaface_ir101_webface12m`): `model.net.` in `model.safetensors`, `net.` in
  `pretrained_model/model.pt`; RGB;
- the AdaFace repository (`adaface_ir101_webface12m.ckpt`): `model.`, beside the margin's `head.`; BGR.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from idtool.errors import MissingError, UsageError
from idtool.models import runtime, torch_runtime
from idtool.models.faces import Face
from idtool.models.identity import aligned, checked_crops
from idtool.models.pack_files import batch_of
from idtool.models.sources import Weights

Image = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]

_SOURCES = (("model.net.", "rgb"), ("net.", "rgb"), ("model.", "bgr"))
"""Prefix of all names -> colours that the network of that source takes."""
_BLOCK = re.compile(r"body\.(\d+)\.")


class AdaFace:
    """An IR network (512 numbers) on the ArcFace alignment. Safe to call from several threads.

    Depth and width are read off the checkpoint, colours off its source (module docstring). Embeddings are those before
    the scaling to length one; their length grows with the quality of the picture.
    """

    roles: ClassVar[tuple[str, ...]] = ("identity",)
    packages: ClassVar[tuple[str, ...]] = ("torch",)
    alignment: ClassVar[str] = "arcface-112"
    dim: ClassVar[int] = 512

    def __init__(
        self,
        weights: Weights,
        *,
        device: str = "cpu",
        threads: int = 1,
        dtype: str = "float32",
        compiled: bool = False,
        batch: int = 32,
        depth: int | None = None,
        colours: str | None = None,
    ) -> None:
        self.batch = batch_of(None, batch)
        self._weights, self._dtype, self._compiled = weights, dtype, compiled
        self._device = torch_runtime.device_of(device, threads)
        self._turns = torch_runtime.Turns(self._device)
        network, self.depth, self.colours = _network(weights, depth, colours)
        self._network = torch_runtime.ready(network, self._device, dtype, compiled)

    def crops(self, images: Sequence[Image], faces: Sequence[Face]) -> list[Image]:
        """What `embed` takes: the aligned crop of one face in each RGB image (`identity.aligned`)."""
        return aligned(images, faces)

    def embed(self, crops: npt.ArrayLike | Sequence[Image]) -> Floats:
        """Aligned RGB uint8 crops (N, 112, 112, 3) to raw embeddings (N, 512) float32, not normalised."""
        return torch_runtime.in_batches(list(checked_crops(crops)), self.batch, self._embed, self.dim)

    def fingerprint(self) -> dict[str, Any]:
        """What the numbers depend on."""
        colours = self.colours.upper()
        return {
            **self._weights.facts(),
            "preprocessing": f"5 points, least squares to the ArcFace template of 112 px, {colours}, x / 127.5 - 1",
            "depth": self.depth,
            "dtype": self._dtype,
            "compiled": self._compiled,
            "device": self._device.type,
            **runtime.versions("torch", "opencv-python-headless", "numpy"),
        }

    def _embed(self, some: Sequence[Image]) -> Floats:
        torch = torch_runtime.import_torch()
        with self._turns, torch.inference_mode():
            pixels = torch.from_numpy(np.stack(some)).to(self._device).permute(0, 3, 1, 2)
            pixels = pixels.flip(1) if self.colours == "bgr" else pixels
            batch = (pixels.float() / 127.5 - 1).to(torch_runtime.dtype_of(self._dtype))
            rows = self._network(batch).float().cpu().numpy()
        return torch_runtime.finite(np.asarray(rows, np.float32), self._weights.model)


def _network(weights: Weights, depth: int | None, colours: str | None) -> tuple[Any, int, str]:
    """The network, its depth and its colours. MissingError when the checkpoint is of another kind."""
    from idtool.models.networks.iresnet import BLOCKS, CHANNELS, IResNet

    if depth is not None and depth not in BLOCKS:
        raise UsageError(f"Option `depth` is one of {', '.join(map(str, BLOCKS))}. Got {depth!r}.")
    what = f"Model {weights.model} ({weights.path})"
    state, meant = _state(torch_runtime.read_tensors(torch_runtime.file_of(weights), inside="state_dict"))
    chosen = (colours or meant or "").lower()
    if chosen not in ("rgb", "bgr"):
        said = f"Got {colours!r}." if colours else f"The names in {what} do not tell which."
        raise UsageError(f"Option `colours` is rgb or bgr, whatever the network was trained on. {said}")
    blocks = len({found[1] for name in state if (found := _BLOCK.match(name))})
    counted = next((known for known, stages in BLOCKS.items() if sum(stages) == blocks), None)
    if counted is None:
        known = ", ".join(f"IR-{depth} has {sum(stages)}" for depth, stages in BLOCKS.items())
        raise MissingError(
            f"{what} has {blocks} blocks `body.<n>`, but {known}.",
            "Is it the checkpoint of another network, or a half-downloaded one?",
        )
    first = state.get("input_layer.0.weight")
    network = IResNet(depth or counted, width=1.0 if first is None else first.shape[0] / CHANNELS[0])
    torch_runtime.fill(network, state, what, ignore=("num_batches_tracked",))
    return network, depth or counted, chosen


def _state(state: Mapping[str, Any]) -> tuple[dict[str, Any], str | None]:
    """The tensors under the network's own names, without the margin's head, and the colours that their source means."""
    kept = {name: tensor for name, tensor in state.items() if not name.startswith("head.")}
    for prefix, colours in _SOURCES:
        if kept and all(name.startswith(prefix) for name in kept):
            return {name.removeprefix(prefix): tensor for name, tensor in kept.items()}, colours
    return kept, None
