"""ConsistentID's facial encoder (Huang et al., 2024, section 3.2): pictures of the regions of a face become features
that are fused into the words that name them. Names are those of section `FacialEncoder` of `ConsistentID-v1.bin`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from torch import Tensor, nn

from idtool.generate.flux.perceiver import Resampler
from idtool.generate.method import Image
from idtool.generate.sd.fuse import Fuse
from idtool.models.parts import Parsed, region_masks

MARK = "<|facial|>"
SENTENCE = {
    "face": "The person has one face",
    "ears": "two ears",
    "eyes": "two eyes",
    "nose": "one nose",
    "mouth": "and one mouth",
}
"""Region -> its part of the sentence that the authors give every reference, in their order."""


class FacialEncoder(nn.Module):
    """Vision features of regions to one feature each, and these into embeddings of the prompt."""

    def __init__(self, visual_projection: Resampler, width: int) -> None:
        super().__init__()
        self.visual_projection = visual_projection
        self.fuse_module = Fuse(width)

    @property
    def features(self) -> int:
        """Width of the vision features that it takes."""
        return int(self.visual_projection.proj_in.in_features)

    def forward(self, text: Tensor, positions: Sequence[Sequence[int]], regions: Sequence[Tensor]) -> Tensor:
        """`text` (B, tokens, width); `regions[b]` (positions of b, F, features); (B, tokens, width)."""
        found = [self.visual_projection(each)[:, 0] if len(each) else each for each in regions]
        return self.fuse_module.into(text, positions, found)

    @classmethod
    def like(cls, state: Mapping[str, Tensor]) -> FacialEncoder:
        """The network in the widths of a checkpoint. KeyError for a name that it has not."""
        prefix = "visual_projection."
        own = {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}
        return cls(Resampler.like(own), state["fuse_module.layer_norm.weight"].shape[0])


def regions(image: Image, parsed: Parsed) -> dict[str, Image]:
    """For each region that is seen, in the order of `SENTENCE`, the picture with all else black.

    Both of a pair and both lips count, and every region stands behind its own word. The released code takes one of a
    pair, and sorts words and pictures by different rules, so that eyes go behind `ears`.
    """
    masks = region_masks(parsed.on(*image.shape[:2]))
    return {name: np.where(masks[name][..., None], image, 0).astype(np.uint8) for name in SENTENCE if masks[name].any()}


def prompt_with(prompt: str, seen: Sequence[str], *, detail_first: bool = False) -> str:
    """The prompt with the sentence about the regions that are seen, a mark behind each; `detail_first`: the sentence
    before the prompt, as the authors have it where both are too long for the text encoder."""
    detail = " ".join(f"{SENTENCE[name]} {MARK}," for name in seen)
    if not seen:
        return prompt
    return f"Detail:{detail} Caption:{prompt}" if detail_first else f"{prompt} Detail:{detail}"
