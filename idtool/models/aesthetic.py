"""Aesthetic predictors on embeddings of CLIP and SigLIP.

Their heads are chains of linear layers with dropout between them and no activation (the published code has the
activations commented out or none), so at inference a head is one affine map w . x + b. It is folded here in float64.

Scores of different predictors are on different scales: a bound that was chosen for one says nothing of another.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from idtool.errors import MissingError, UsageError
from idtool.models import image_text, torch_runtime
from idtool.models.sources import Weights
from idtool.models.torch_runtime import Floats, Image

Doubles = npt.NDArray[np.float64]


def collapse(state: Mapping[str, Any], layers: Sequence[str], what: str) -> tuple[Doubles, float]:
    """The affine map that a chain of linear layers is: weights (D,) and offset, so that score = w . x + b.

    `state` has `<layer>weight` (out, in) and `<layer>bias` (out,) for each name in `layers`, and nothing else; the
    last has one output. MissingError when it is another network, or holds NaN.
    """
    wanted = {f"{layer}{part}" for layer in layers for part in ("weight", "bias")}
    if missing := sorted(wanted - set(state)):
        raise MissingError(f"{what} is not this head: {', '.join(missing[:3])} missing.", _OTHER)
    if extra := sorted(set(state) - wanted):
        raise MissingError(f"{what} is not this head: it also has {', '.join(extra[:3])}.", _OTHER)
    weight, bias = np.eye(1), np.zeros(1)
    for layer in reversed(layers):
        own, offset = (state[f"{layer}{part}"].double().numpy() for part in ("weight", "bias"))
        if own.ndim != 2 or own.shape[0] != weight.shape[1] or offset.shape != own.shape[:1]:
            raise MissingError(f"{what} is not this head: its layers do not follow on each other.", _OTHER)
        weight, bias = weight @ own, bias + weight @ offset
    if not (np.isfinite(weight).all() and np.isfinite(bias).all()):
        raise MissingError(f"{what} holds numbers that are not finite.", "Fetch it again.")
    return weight[0], float(bias[0])


_OTHER = "Name the file of this predictor in option `file`, or give `format` the one that it is of."


class LinearPredictor:
    """A head on the image embeddings of a model of role `clip`, which is shared with that role where they agree.

    Subclasses say what the head's layers are called. Option `backbone` is the address of the network that gives the
    embeddings: it must be the one that the head was trained on, which only the width can tell here.
    """

    roles: ClassVar[tuple[str, ...]] = ("aesthetic",)
    packages: ClassVar[tuple[str, ...]] = ("torch",)
    layers: ClassVar[tuple[str, ...]]
    """What the names of each layer's `weight` and `bias` begin with, in order."""
    usual: ClassVar[str]
    """The address of the backbone that the published head belongs to."""
    note: ClassVar[str]
    """Scale and terms, for fingerprints."""

    def __init__(
        self,
        weights: Weights,
        *,
        device: str = "cpu",
        threads: int = 1,
        dtype: str = "float32",
        compiled: bool = False,
        batch: int = 32,
        backbone: str = "",
    ) -> None:
        if not backbone:
            raise UsageError(
                f"Model {weights.model!r} of role aesthetic needs option `backbone`, the network whose embeddings it "
                "scores.",
                f"Its own is {self.usual!r}.",
            )
        self._weights = weights
        state = torch_runtime.read_tensors(torch_runtime.file_of(weights))
        self._weight, self._bias = collapse(state, self.layers, f"{weights.path} of model {weights.model}")
        self._backbone = image_text.shared(
            backbone, device=device, threads=threads, dtype=dtype, compiled=compiled, batch=batch
        )
        if self._backbone.dim != self.dim:
            raise UsageError(
                f"The head of {weights.model!r} scores embeddings of {self.dim} numbers, but its backbone {backbone!r} "
                f"gives {self._backbone.dim}.",
                f"Set option `backbone` to the network that it was trained on: {self.usual!r}.",
            )

    @property
    def dim(self) -> int:
        """Numbers in an embedding."""
        return len(self._weight)

    @property
    def backbone(self) -> Any:
        """The network of role `clip` whose embeddings are scored."""
        return self._backbone

    def score(self, images: Sequence[Image]) -> Floats:
        """Scores (N,) float32 of RGB uint8 images (H, W, 3), about 1 to 10, higher is more pleasing.

        ValueError for an array of another kind, or when the backbone gives NaN.
        """
        return self.score_embeddings(self._backbone.images(images))

    def score_embeddings(self, embeddings: npt.ArrayLike) -> Floats:
        """Scores (N,) float32 of the backbone's image embeddings (N, `dim`) of length 1, as its `images` gives them.

        ValueError when they have another shape or another length: the head was trained on unit vectors, and gives
        numbers without meaning for others.
        """
        array = np.asarray(embeddings, np.float64)
        if array.ndim != 2 or array.shape[1] != self.dim:
            raise ValueError(f"Expected embeddings of Nx{self.dim}. Got {array.shape}")
        if np.abs(np.linalg.norm(array, axis=1) - 1).max(initial=0) > 1e-2:
            raise ValueError("Expected embeddings of length 1. Divide them by their lengths")
        return np.asarray(array @ self._weight + self._bias, np.float32)

    def fingerprint(self) -> dict[str, Any]:
        """What the scores depend on."""
        return {
            **self._weights.facts(),
            "preprocessing": "image embedding of the backbone, divided by its length",
            "head": self.note,
            "backbone": self._backbone.fingerprint(),
        }


class LaionV2(LinearPredictor):
    """LAION's improved aesthetic predictor, `sac+logos+ava1-l14-linearMSE.pth` (Apache-2.0), on OpenAI's CLIP ViT-L/14.

    Trained on ratings of 1 to 10 from SAC, LAION-Logos and AVA. The ten embeddings that LAION published with its first
    predictor, in rising order of rating, get 1.7 to 5.7, also in rising order.
    """

    layers = ("layers.0.", "layers.2.", "layers.4.", "layers.6.", "layers.7.")
    usual = "hf:openai/clip-vit-large-patch14"
    note = "LAION aesthetic V2 (linear MSE), five linear layers folded into one"


class LaionV1(LinearPredictor):
    """LAION's first aesthetic predictor, one linear layer, `sa_0_4_vit_l_14_linear.pth` for CLIP ViT-L/14 or
    `sa_0_4_vit_b_32_linear.pth` for ViT-B/32 (MIT).

    Its scale is wider than V2's: the same ten embeddings get -2.5 to 11.3.
    """

    layers = ("",)
    usual = "hf:openai/clip-vit-large-patch14"
    note = "LAION aesthetic V1 (linear); not on the scale of V2"


class SiglipV25(LinearPredictor):
    """aesthetic-predictor-v2-5 on SigLIP so400m/14 at 384 px, which DMID filters with (section 4.1.2: above 5.2).

    The weights, and the code that they come with, are under AGPL-3.0; none of that code is used here. Whether loading
    them makes your work fall under that licence is for you to settle. Its author calls scores above 5.5 great.
    """

    layers = tuple(f"scoring_head.{number}." for number in (0, 2, 4, 6, 8))
    usual = "hf:google/siglip-so400m-patch14-384"
    note = "aesthetic-predictor-v2-5, five linear layers folded into one; weights under AGPL-3.0"
