"""FaceNet: Inception-ResNet v1 trained on VGGFace2, in the protocol that FastComposer began and that DynamicID and
ConsistentID report as "FaceNet" (spec §3.2).

Schroff et al., "FaceNet", CVPR 2015; weights of facenet-pytorch (`20180402-114759-vggface2.pt`), converted from
D. Sandberg's. The protocol finds faces by MTCNN; here the boxes are those of the bound detector. SCRFD's, on 41 of our
portraits, overlap MTCNN's by .92 in the middle (intersection over union; .83 at the 5th percentile) and are 3 % taller,
so similarities are near those of the protocol but not the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from idtool.models import crops as crop_rules
from idtool.models import runtime, torch_runtime
from idtool.models.faces import Face
from idtool.models.identity import checked_crops
from idtool.models.pack_files import batch_of
from idtool.models.sources import Weights

Image = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]

CROP = 160


class FaceNet:
    """FaceNet (512 numbers). Safe to call from several threads.

    Embeddings are those of the last batch normalisation, before the scaling to length one that facenet-pytorch ends
    with: divide by the length to get its numbers.
    """

    roles: ClassVar[tuple[str, ...]] = ("identity",)
    packages: ClassVar[tuple[str, ...]] = ("torch",)
    alignment: ClassVar[str] = "facenet-160"
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
    ) -> None:
        self.batch = batch_of(None, batch)
        self._weights, self._dtype, self._compiled = weights, dtype, compiled
        self._device = torch_runtime.device_of(device, threads)
        self._turns = torch_runtime.Turns(self._device)
        self._network = torch_runtime.ready(_network(weights), self._device, dtype, compiled)

    def crops(self, images: Sequence[Image], faces: Sequence[Face]) -> list[Image]:
        """What `embed` takes: the box of one face in each RGB uint8 image, without margin, as 160 px.

        As in facenet-pytorch with margin 0: the box is cut at the edges of the image, its corners lose their
        fractions, and Pillow's bilinear filter (which averages where it shrinks) stretches it to a square. ValueError
        when a box lies outside its image.
        """
        return [_crop(image, face) for image, face in zip(images, faces, strict=True)]

    def embed(self, crops: npt.ArrayLike | Sequence[Image]) -> Floats:
        """RGB uint8 crops (N, 160, 160, 3) to raw embeddings (N, 512) float32, not normalised."""
        array = checked_crops(crops, CROP)
        return torch_runtime.in_batches(list(array), self.batch, self._embed, self.dim)

    def fingerprint(self) -> dict[str, Any]:
        """What the numbers depend on."""
        return {
            **self._weights.facts(),
            "preprocessing": "box without margin, cut at the image, 160 px (Pillow bilinear), RGB, (x - 127.5) / 128",
            "dtype": self._dtype,
            "compiled": self._compiled,
            "device": self._device.type,
            **runtime.versions("torch", "pillow", "numpy"),
        }

    def _embed(self, some: Sequence[Image]) -> Floats:
        torch = torch_runtime.import_torch()
        with self._turns, torch.inference_mode():
            pixels = torch.from_numpy(np.stack(some)).to(self._device).permute(0, 3, 1, 2)
            batch = ((pixels.float() - 127.5) / 128).to(torch_runtime.dtype_of(self._dtype))
            rows = self._network(batch).float().cpu().numpy()
        return torch_runtime.finite(np.asarray(rows, np.float32), self._weights.model)


def _crop(image: Image, face: Face) -> Image:
    from PIL import Image as Pillow

    crop_rules.check(image)
    height, width = image.shape[:2]
    left, top = (int(max(value, 0)) for value in face.box[:2])
    right, bottom = (int(min(value, most)) for value, most in zip(face.box[2:], (width, height), strict=True))
    if right <= left or bottom <= top:
        raise ValueError(f"the box of a face lies outside its image: {np.asarray(face.box).tolist()}")
    cut = Pillow.fromarray(np.ascontiguousarray(image[top:bottom, left:right]))
    return np.asarray(cut.resize((CROP, CROP), Pillow.Resampling.BILINEAR), np.uint8)


def _network(weights: Weights) -> Any:
    """The network in the width of the checkpoint, filled. MissingError when it is another one."""
    from idtool.models.networks.inception_resnet import InceptionResnetV1

    state = torch_runtime.read_tensors(torch_runtime.file_of(weights), inside="state_dict")
    # The classifier over the training people, which files may or may not have.
    state = {name: tensor for name, tensor in state.items() if not name.startswith("logits.")}
    first = state.get("conv2d_1a.conv.weight")
    network = InceptionResnetV1(width=1.0 if first is None else first.shape[0] / 32)
    what = f"Model {weights.model} ({weights.path})"
    torch_runtime.fill(network, state, what, ignore=("num_batches_tracked",))
    return network
