"""Masks for boxes, whichever library runs the network: images in batches, boxes few at a time, the best mask each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from idtool.models import crops, runtime, torch_runtime
from idtool.models.sources import Weights

Image = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]
Bools = npt.NDArray[np.bool_]

BOXES_AT_ONCE = 16
"""Boxes that one call of the mask decoder takes: what it needs grows with them, the image's embedding does not."""
PIXELS_AT_ONCE = 2**25
"""Pixels of masks that are enlarged together, four bytes each and some more on the way."""


@dataclass(frozen=True, eq=False)
class Masks:
    """What is in the boxes of one image."""

    masks: Bools
    """(K, H, W) at the size of the image, one for each box."""
    scores: Floats
    """(K,) the intersection over union with the true mask that the network expects, about [0, 1]."""


class Segmenter:
    """What all wrappers of SAM share: batches of images for the encoder, few boxes at once for the decoder."""

    roles: ClassVar[tuple[str, ...]] = ("segmenter",)

    def __init__(self, weights: Weights, device: Any, dtype: str, batch: int, multimask: bool) -> None:
        self._weights, self._device, self._dtype = weights, device, dtype
        self._batch, self.multimask = batch, multimask
        self._turns = torch_runtime.Turns(device)

    def segment(self, images: Sequence[Image], boxes: Sequence[npt.ArrayLike]) -> list[Masks]:
        """The object in each box (K, 4: left, top, right, bottom in pixels) of each RGB uint8 image (H, W, 3).

        Each image is embedded once for all its boxes; one without boxes, not at all. Of three masks for a box, the
        one that the network expects to fit best is taken (`multimask`, else its single mask). Raises ValueError when
        the sequences differ in length, a box is empty or not finite, or the network gives NaN.
        """
        pairs = [(image, _checked(image, some)) for image, some in zip(images, boxes, strict=True)]
        found = [Masks(np.zeros((0, *image.shape[:2]), bool), np.zeros(0, np.float32)) for image, _ in pairs]
        busy = [index for index, (_, some) in enumerate(pairs) if len(some)]
        torch = torch_runtime.import_torch()
        for start in range(0, len(busy), self._batch):
            some = busy[start : start + self._batch]
            with torch.inference_mode():
                prepared = [self._prepared(*pairs[index]) for index in some]
            with self._turns, torch.inference_mode():
                embeddings = self._embed([pixels for pixels, *_ in prepared])
                for place, (index, (_, *prompt)) in enumerate(zip(some, prepared, strict=True)):
                    found[index] = self._masks(embeddings, place, prompt, *pairs[index])
        return found

    def _masks(self, embeddings: Any, place: int, prompt: Sequence[Any], image: Image, boxes: Floats) -> Masks:
        torch = torch_runtime.import_torch()
        masks, scores = [], []
        together = max(1, PIXELS_AT_ONCE // (image.shape[0] * image.shape[1]))
        for start in range(0, len(boxes), BOXES_AT_ONCE):
            low, expected = self._decode(embeddings, place, prompt, slice(start, start + BOXES_AT_ONCE))
            if not bool(torch.isfinite(low).all() & torch.isfinite(expected).all()):
                raise ValueError("the segmenter gave a value that is not finite")
            best = expected.argmax(dim=1)
            rows = torch.arange(len(best), device=best.device)
            # Only the mask that is taken is enlarged: at full size three of them would be large.
            for some in low[rows, best][:, None].float().split(together):
                masks.append(self._enlarge(some, prompt)[:, 0].cpu().numpy())
            scores.append(expected[rows, best].float().cpu().numpy())
        return Masks(np.concatenate(masks), np.concatenate(scores).astype(np.float32))

    def _prepared(self, image: Image, boxes: Floats) -> tuple[Any, ...]:
        try:
            return self._prepare(image, boxes)
        except ValueError as error:  # a side of 0 pixels after resizing
            raise ValueError(f"an image of {image.shape[1]}x{image.shape[0]} px is too thin to be resized") from error

    def _prepare(self, image: Image, boxes: Floats) -> tuple[Any, ...]:
        """Pixels (3, S, S) for the encoder, then whatever `_decode` and `_enlarge` need of the image's prompt."""
        raise NotImplementedError

    def _embed(self, pixels: Sequence[Any]) -> Any:
        """Embeddings of a batch of images."""
        raise NotImplementedError

    def _decode(self, embeddings: Any, place: int, prompt: Sequence[Any], some: slice) -> tuple[Any, Any]:
        """Mask logits (k, M, h, w) and expected overlaps (k, M) for some boxes of the image at `place`."""
        raise NotImplementedError

    def _enlarge(self, low: Any, prompt: Sequence[Any]) -> Any:
        """Mask logits (k, 1, h, w) as bool (k, 1, H, W) at the size of the image."""
        raise NotImplementedError

    def facts(self, preprocessing: str, *packages: str) -> dict[str, Any]:
        """The fingerprint; `packages` are the libraries beside PyTorch."""
        return {
            **self._weights.facts(),
            "preprocessing": preprocessing,
            "dtype": self._dtype,
            "multimask": self.multimask,
            **runtime.versions("torch", *packages, "numpy"),
        }


def _checked(image: Image, boxes: npt.ArrayLike) -> Floats:
    """Boxes (K, 4) clipped to the image. ValueError for other shapes and for boxes without area in it."""
    crops.check(image)
    array = np.asarray(boxes, np.float32)
    array = array.reshape(0, 4) if array.size == 0 else array
    if array.ndim != 2 or array.shape[1] != 4 or not np.isfinite(array).all():
        raise ValueError(f"Expected finite boxes of Kx4. Got {array.shape}")
    height, width = image.shape[:2]
    inside = np.clip(array, 0, np.array([width, height, width, height], np.float32))
    empty = (inside[:, 2] <= inside[:, 0]) | (inside[:, 3] <= inside[:, 1])
    if empty.any():
        raise ValueError(f"the box {array[int(empty.argmax())].tolist()} has no area in an image of {width}x{height}")
    return np.asarray(inside, np.float32)
