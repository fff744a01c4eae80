"""Masks for boxes on transformers: SAM (Kirillov et al., ICCV 2023) and SAM 2 (Ravi et al., 2024)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from idtool.errors import UsageError
from idtool.models import torch_runtime
from idtool.models.masks import Masks, Segmenter
from idtool.models.segment_anything import SegmentAnything
from idtool.models.sources import Weights

__all__ = ["Masks", "Sam", "SegmentAnything"]

Image = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]


class Sam(Segmenter):
    """SAM or SAM 2 from a folder of transformers. Safe to call from several threads.

    The published SAM 2 folders say `sam2_video` in their `config.json`: one set of weights serves images and videos,
    here images only.
    """

    packages: ClassVar[tuple[str, ...]] = torch_runtime.PACKAGES
    KINDS: ClassVar[dict[str, tuple[str, str]]] = {
        "sam": ("SamModel", "SamProcessor"),
        "sam2": ("Sam2Model", "Sam2Processor"),
        "sam2_video": ("Sam2Model", "Sam2Processor"),
    }

    def __init__(
        self,
        weights: Weights,
        *,
        device: str = "cpu",
        threads: int = 1,
        dtype: str = "float32",
        compiled: bool = False,
        batch: int = 4,
        multimask: bool = True,
    ) -> None:
        super().__init__(weights, torch_runtime.device_of(device, threads), dtype, batch, multimask)
        import transformers

        with torch_runtime.as_missing(f"Model {weights.model} ({weights.path})"):
            kind = transformers.AutoConfig.from_pretrained(weights.path, local_files_only=True).model_type
        if kind not in self.KINDS:
            raise UsageError(
                f"Model {weights.model} is of the kind {kind!r}, not SAM.",
                "SAM 3 takes option `format: sam3`; a `.pth` file of the authors, `format: segment-anything`.",
            )
        network_class, processor_class = (getattr(transformers, name) for name in self.KINDS[kind])
        network = torch_runtime.ready(torch_runtime.pretrained(network_class, weights), self._device, dtype)
        if compiled:
            network.vision_encoder.compile()
        self._network = network
        self._processor = torch_runtime.processor(processor_class, weights)
        self._one_level = kind == "sam"

    def fingerprint(self) -> dict[str, Any]:
        """What the masks depend on."""
        return self.facts(
            f"its own processor, {dict(self._processor.image_processor.size)}; best of the masks", "transformers"
        )

    def _prepare(self, image: Image, boxes: Floats) -> tuple[Any, ...]:
        import PIL.Image

        made = self._processor(
            images=[PIL.Image.fromarray(image)], input_boxes=[boxes.astype(float).tolist()], return_tensors="pt"
        )
        # In half precision, coordinates of 1024 px would be off by 2 px; the network scales them to [0, 1] first.
        prompt = made["input_boxes"].to(self._device, torch_runtime.dtype_of("float32"))
        sizes = {name: made[name] for name in ("original_sizes", "reshaped_input_sizes") if name in made}
        return made["pixel_values"][0], prompt, sizes

    def _embed(self, pixels: Sequence[Any]) -> Any:
        torch = torch_runtime.import_torch()
        return self._network.get_image_embeddings(
            torch.stack(list(pixels)).to(self._device, torch_runtime.dtype_of(self._dtype))
        )

    def _decode(self, embeddings: Any, place: int, prompt: Sequence[Any], some: slice) -> tuple[Any, Any]:
        one = slice(place, place + 1)
        out = self._network(
            image_embeddings=embeddings[one] if self._one_level else [level[one] for level in embeddings],
            input_boxes=prompt[0][:, some],
            multimask_output=self.multimask,
        )
        return out.pred_masks[0], out.iou_scores[0]

    def _enlarge(self, low: Any, prompt: Sequence[Any]) -> Any:
        return self._processor.image_processor.post_process_masks([low], **prompt[1])[0]
