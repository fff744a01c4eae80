"""Masks for boxes by the package `segment-anything` of SAM's authors (Kirillov et al., ICCV 2023)."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from idtool.errors import MissingError, UsageError
from idtool.models import torch_runtime
from idtool.models.masks import Segmenter
from idtool.models.sources import Weights

Image = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]

_BLOCK = re.compile(r"image_encoder\.blocks\.(\d+)\.attn\.rel_pos_h")
_WINDOW = 14
"""Side of the encoder's windows in patches. A block with another table of relative positions looks at all patches."""


class SegmentAnything(Segmenter):
    """SAM from a `.pth` file of its authors (`sam_vit_h_4b8939.pth`), run by their package. Safe to call from several
    threads. The package's own loader unpickles what the file holds; here only tensors are read."""

    packages: ClassVar[tuple[str, ...]] = ("torch", "torchvision", "segment_anything")

    def __init__(
        self,
        weights: Weights,
        *,
        device: str = "cpu",
        threads: int = 1,
        dtype: str = "float32",
        compiled: bool = False,
        batch: int = 1,
        multimask: bool = True,
    ) -> None:
        super().__init__(weights, torch_runtime.device_of(device, threads), dtype, batch, multimask)
        if dtype != "float32":
            raise UsageError(
                f"{weights.model} runs in float32 only: its package computes parts of the prompt in it.",
                "Take the transformers version of SAM (`format: sam`) for other precisions.",
            )
        from segment_anything.utils.transforms import ResizeLongestSide

        self._network = torch_runtime.ready(network(weights), self._device, dtype)
        self._resize = ResizeLongestSide(self._network.image_encoder.img_size)
        if compiled:
            self._network.image_encoder.compile()

    def fingerprint(self) -> dict[str, Any]:
        """What the masks depend on."""
        return self.facts(
            f"longer side {self._resize.target_length} px, padded, its own mean; best of the masks", "segment-anything"
        )

    def _prepare(self, image: Image, boxes: Floats) -> tuple[Any, ...]:
        torch = torch_runtime.import_torch()
        small = torch.as_tensor(self._resize.apply_image(image), device=self._device).permute(2, 0, 1).contiguous()
        prompt = torch.as_tensor(
            self._resize.apply_boxes(boxes, image.shape[:2]), dtype=torch.float, device=self._device
        )
        return self._network.preprocess(small), prompt, tuple(small.shape[1:]), image.shape[:2]

    def _embed(self, pixels: Sequence[Any]) -> Any:
        return self._network.image_encoder(torch_runtime.import_torch().stack(list(pixels)))

    def _decode(self, embeddings: Any, place: int, prompt: Sequence[Any], some: slice) -> tuple[Any, Any]:
        sparse, dense = self._network.prompt_encoder(points=None, boxes=prompt[0][some], masks=None)
        low, expected = self._network.mask_decoder(
            image_embeddings=embeddings[place : place + 1],
            image_pe=self._network.prompt_encoder.get_dense_pe(),
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
            multimask_output=self.multimask,
        )
        return low, expected

    def _enlarge(self, low: Any, prompt: Sequence[Any]) -> Any:
        return self._network.postprocess_masks(low, prompt[1], prompt[2]) > self._network.mask_threshold


def network(weights: Weights) -> Any:
    """`segment_anything`'s `Sam`, filled, every tensor accounted for. MissingError when the file holds another model,
    half a one, or more than tensors."""
    from segment_anything.build_sam import _build_sam

    what = f"Model {weights.model} ({weights.path})"
    state = torch_runtime.read_tensors(torch_runtime.file_of(weights))
    made = _build_sam(**encoder_size(state, what), checkpoint=None)
    torch_runtime.fill(made, state, what)
    return made


def encoder_size(state: Mapping[str, Any], what: str) -> dict[str, Any]:
    """Arguments of the encoder (`vit_b`: 768 wide, 12 blocks, 12 heads, blocks 2, 5, 8 and 11 global), read off the
    tensors' shapes: the tables of relative positions (2 side - 1, width of a head) tell heads and global blocks."""
    tables = {int(match[1]): state[name].shape for name in state if (match := _BLOCK.fullmatch(name))}
    first = state.get("image_encoder.patch_embed.proj.weight")
    if not tables or first is None or sorted(tables) != list(range(len(tables))):
        raise MissingError(
            f"{what} is no checkpoint of the package segment-anything.",
            "Is it half-downloaded, or of SAM 2? Those take option `format: sam`.",
        )
    width = int(first.shape[0])
    return {
        "encoder_embed_dim": width,
        "encoder_depth": len(tables),
        "encoder_num_heads": width // int(tables[0][1]),
        "encoder_global_attn_indexes": [index for index in sorted(tables) if tables[index][0] != 2 * _WINDOW - 1],
    }
