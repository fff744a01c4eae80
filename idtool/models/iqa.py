"""CLIP-IQA: image quality by asking a CLIP (Wang et al., "Exploring CLIP for Assessing the Look and Feel of Images",
AAAI 2023)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from idtool.models import image_text
from idtool.models.sources import Weights
from idtool.models.torch_runtime import Floats, Image


class ClipIqa:
    """The probability that an image goes with "Good photo." rather than with "Bad photo.", on any CLIP.

    Cosines are multiplied by 100 before the softmax, as torchmetrics does. That is also the temperature which OpenAI's
    CLIPs learned (they were clipped there), so it agrees with piq, which takes the network's own; fixed, it keeps the
    definition the same for networks that learned another.

    The paper and torchmetrics' default run ResNet-50 without position embeddings on whole images. This runs a CLIP as
    it is, on its usual crop of 224 px or so, so the numbers are others: compare only those with the same `label`.
    """

    roles: ClassVar[tuple[str, ...]] = ("iqa",)
    packages: ClassVar[tuple[str, ...]] = ("torch",)
    PROMPTS: ClassVar[tuple[str, str]] = ("Good photo.", "Bad photo.")
    SCALE: ClassVar[float] = 100.0

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
        self._clip = image_text.shared(
            weights.model,
            revision=weights.revision,
            device=device,
            threads=threads,
            dtype=dtype,
            compiled=compiled,
            batch=batch,
        )
        good, bad = self._clip.texts(self.PROMPTS).features.astype(np.float64)
        self._towards_good = self.SCALE * (good - bad)
        self.label = f"clip-iqa-{self._clip.label}"
        """Short name with the network's architecture, such as `clip-iqa-vit-b-32`."""

    @property
    def backbone(self) -> Any:
        """The network of role `clip` whose embeddings are scored."""
        return self._clip

    def score(self, images: Sequence[Image]) -> Floats:
        """P(good), (N,) float32 in [0, 1], of RGB uint8 images (H, W, 3).

        ValueError for an array of another kind, or when the network gives NaN.
        """
        return self.score_embeddings(self._clip.images(images))

    def score_embeddings(self, embeddings: Floats) -> Floats:
        """P(good), (N,) float32 in [0, 1], of the network's image embeddings (N, dim) of length 1."""
        # The softmax of two logits is the logistic function of their difference.
        logits = np.asarray(embeddings, np.float64) @ self._towards_good
        return np.asarray(0.5 * (1 + np.tanh(logits / 2)), np.float32)

    def fingerprint(self) -> dict[str, Any]:
        """What the scores depend on."""
        return {**self._clip.fingerprint(), "prompts": list(self.PROMPTS), "scale": self.SCALE}
