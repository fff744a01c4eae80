"""Masks for phrases directly: SAM 3 (Carion et al., 2025), "promptable concept segmentation", from transformers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, NoReturn

import numpy as np
import numpy.typing as npt

from idtool.errors import MissingError, UsageError
from idtool.models import crops, runtime, torch_runtime
from idtool.models.grounded import Region
from idtool.models.grounder import Found, tokenizer_of
from idtool.models.sources import Weights

Image = npt.NDArray[np.uint8]


class Sam3:
    """SAM 3 from a folder of transformers. Safe to call from several threads.

    Published folders of SAM 3 and releases of transformers have disagreed about the names of the text tower, which
    was then left at random without an error. Here a folder loads when every weight of the network was in it.
    """

    roles: ClassVar[tuple[str, ...]] = ("grounder", "segmenter")
    packages: ClassVar[tuple[str, ...]] = torch_runtime.PACKAGES

    def __init__(
        self,
        weights: Weights,
        *,
        device: str = "cpu",
        threads: int = 1,
        dtype: str = "float32",
        compiled: bool = False,
        batch: int = 2,
        threshold: float = 0.5,
        mask_threshold: float = 0.5,
    ) -> None:
        """`threshold` [0, 1] of an object's score (.5 in the model's card), `mask_threshold` [0, 1] of a pixel's."""
        for name, value in (("threshold", threshold), ("mask_threshold", mask_threshold)):
            if not 0 <= value <= 1:
                raise UsageError(f"Option `{name}` of {weights.model} is {value}, not a share in [0, 1].")
        self._device = torch_runtime.device_of(device, threads)
        from transformers import Sam3Model, Sam3Processor

        self._weights, self._dtype, self._batch = weights, dtype, batch
        self.threshold, self.mask_threshold = threshold, mask_threshold
        try:
            network = torch_runtime.pretrained(Sam3Model, weights)
        except MissingError as error:
            raise MissingError(
                error.message,
                f"{error.hint} If names of `text_encoder` are missing, the folder's names are of another release of "
                "transformers: without them SAM 3 would not understand a word.",
            ) from error
        self.limit = int(network.config.text_config.max_position_embeddings)
        """Most tokens of a phrase."""
        self._processor = torch_runtime.processor(Sam3Processor, weights)
        self._tokenizer = tokenizer_of(self._processor, network.config.text_config.vocab_size, weights)
        self._turns = torch_runtime.Turns(self._device)
        self._network = torch_runtime.ready(network, self._device, dtype)
        if compiled:
            self._network.vision_encoder.compile()

    def regions(self, images: Sequence[Image], phrases: Sequence[Sequence[str]]) -> list[list[Region]]:
        """Objects that answer to the phrases of each RGB uint8 image (H, W, 3), surest first.

        An image is embedded once for all its phrases. Each phrase is asked alone, so its scores do not depend on the
        others. Raises ValueError when the sequences differ in length, a phrase is empty or longer than `limit`
        tokens, or the network gives NaN.
        """
        asked = [self._tokens(some) for _, some in zip(images, phrases, strict=True)]
        for image in images:
            crops.check(image)
        found: list[list[Region]] = [[] for _ in images]
        busy = [index for index, some in enumerate(asked) if some]
        torch = torch_runtime.import_torch()
        for start in range(0, len(busy), self._batch):
            some = busy[start : start + self._batch]
            pixels = torch.stack([self._pixels(images[index]) for index in some])
            with self._turns, torch.inference_mode():
                seen = self._network.get_vision_features(
                    pixels.to(self._device, torch_runtime.dtype_of(self._dtype)),
                )
                for place, index in enumerate(some):
                    one = _slice(seen, place)
                    for phrase, text in asked[index].items():
                        found[index] += self._answer(one, phrase, text, images[index])
        return [sorted(some, key=lambda region: -region.score) for some in found]

    def detect(self, images: Sequence[Image], phrases: Sequence[Sequence[str]]) -> list[list[Found]]:
        """The boxes of `regions`, in their order."""
        return [[Found(one.label, one.score, one.box) for one in some] for some in self.regions(images, phrases)]

    def segment(self, images: Sequence[Image], boxes: Sequence[npt.ArrayLike]) -> NoReturn:
        """SAM 3 answers phrases. UsageError: where boxes are asked about, another segmenter has to be bound."""
        raise UsageError(
            f"{self._weights.model} finds masks by phrases (`regions`), not by boxes.",
            "Bind role segmenter to SAM or SAM 2 where boxes are given.",
        )

    def fingerprint(self) -> dict[str, Any]:
        """What the masks depend on."""
        size = self._processor.image_processor.size
        return {
            **self._weights.facts(),
            "preprocessing": f"its own processor, {size['height']} x {size['width']} px; one phrase at a time",
            "dtype": self._dtype,
            "threshold": self.threshold,
            "mask_threshold": self.mask_threshold,
            **runtime.versions("torch", "transformers", "numpy"),
        }

    def _tokens(self, phrases: Sequence[str]) -> dict[str, Any]:
        """Each phrase once, with its tokens."""
        if isinstance(phrases, str):
            raise ValueError(f"Expected a sequence of phrases for each image. Got the text {phrases!r}")
        found: dict[str, Any] = {}
        for phrase in phrases:
            if not phrase.strip():
                raise ValueError(f"the phrase {phrase!r} has no word")
            ids = self._tokenizer(phrase, verbose=False)["input_ids"]
            if len(ids) > self.limit:
                raise ValueError(
                    f"the phrase {phrase[:60]!r} is {len(ids)} tokens long; {self._weights.model} takes {self.limit}"
                )
            # As the processor fills up, but without its tokenizer's padding, which is state that threads would share.
            found[phrase] = self._tokenizer.pad(
                {"input_ids": [ids]}, padding="max_length", max_length=self.limit, return_tensors="pt"
            )
        return found

    def _pixels(self, image: Image) -> Any:
        return self._processor.image_processor(images=[image], input_data_format="channels_last", return_tensors="pt")[
            "pixel_values"
        ][0]

    def _answer(self, seen: Any, phrase: str, text: Any, image: Image) -> list[Region]:
        torch = torch_runtime.import_torch()
        out = self._network(
            vision_embeds=seen,
            input_ids=text["input_ids"].to(self._device),
            attention_mask=text["attention_mask"].to(self._device),
        )
        scores = out.pred_logits[0].float().sigmoid() * out.presence_logits[0].float().sigmoid()
        if not bool(torch.isfinite(scores).all() & torch.isfinite(out.pred_boxes).all()):
            raise ValueError("SAM 3 gave a value that is not finite")
        kept = torch.nonzero(scores > self.threshold)[:, 0]
        if not len(kept):
            return []
        height, width = image.shape[:2]
        # Probabilities are enlarged, then cut, as the library's own post-processing does.
        masks = torch.nn.functional.interpolate(
            out.pred_masks[0, kept].float().sigmoid()[None], (height, width), mode="bilinear", align_corners=False
        )[0]
        boxes = out.pred_boxes[0, kept].float().clamp(0, 1).cpu().numpy() * np.array([width, height] * 2, np.float32)
        return [
            Region(phrase, float(score), box.astype(np.float32), mask)
            for score, box, mask in zip(
                scores[kept].cpu().numpy(), boxes, (masks > self.mask_threshold).cpu().numpy(), strict=True
            )
        ]


def _slice(seen: Any, place: int) -> Any:
    """The features of one image of a batch, as a batch of one."""

    def row(levels: Sequence[Any]) -> tuple[Any, ...]:
        return tuple(level[place : place + 1] if level.shape[0] > 1 else level for level in levels)

    return type(seen)(
        fpn_hidden_states=row(seen.fpn_hidden_states), fpn_position_encoding=row(seen.fpn_position_encoding)
    )
