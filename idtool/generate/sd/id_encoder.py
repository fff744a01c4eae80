"""PhotoMaker's ID encoder (Li et al., CVPR 2024), versions 1 and 2: CLIP's image tower, and features of references
fused into the class word of the prompt. Names are those of section `id_encoder` of `photomaker-v1.bin` and `-v2.bin`.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, cat, nn

from idtool.generate.sd.clip_state import Vision, settings_of
from idtool.generate.sd.fuse import Fuse
from idtool.generate.sd.projection import FaceResampler, resampler_like

HEAD = 128
"""Width of a head of version 2's resampler."""


class FaceTokens(nn.Module):
    """Version 2: a face vector (N, vector) becomes `count` tokens, which look at the tower's last features."""

    def __init__(self, vector: int, hidden: int, width: int, count: int, resampler: FaceResampler) -> None:
        super().__init__()
        self.width, self.count = width, count
        self.token_proj = nn.Sequential(nn.Linear(vector, hidden), nn.GELU(), nn.Linear(hidden, width * count))
        self.token_norm = nn.LayerNorm(width)
        self.perceiver_resampler = resampler

    def forward(self, vector: Tensor, features: Tensor) -> Tensor:
        tokens: Tensor = self.token_norm(self.token_proj(vector).unflatten(-1, (self.count, self.width)))
        found: Tensor = self.perceiver_resampler(tokens, features)
        return tokens + found


class IdEncoder(Vision):
    """Pictures, and in version 2 raw face vectors, to features (N, `count`, width) for as many copies of the word."""

    def __init__(self, settings: Mapping[str, int], second: int, faces: FaceTokens | None) -> None:
        """`second`: width of the other projection of version 1, for the second text encoder."""
        super().__init__(settings)
        self.visual_projection_2 = nn.Linear(settings["hidden_size"], second, bias=False)
        self.fuse_module = Fuse(settings["projection_dim"] + second)
        if faces is not None:
            self.qformer_perceiver = faces
        self.count = 1 if faces is None else faces.count
        self.vector: int | None = None if faces is None else int(faces.token_proj[0].in_features)
        """Numbers of the face vector that it takes; None in version 1."""

    def forward(self, pixels: Tensor, vectors: Tensor | None = None) -> Tensor:
        if vectors is not None:
            found: Tensor = self.qformer_perceiver(vectors, self.vision_model(pixels).last_hidden_state)
            return found
        pooled = self.pooled(pixels)
        return cat([self.visual_projection(pooled), self.visual_projection_2(pooled)], dim=-1)[:, None]

    @classmethod
    def like(cls, state: Mapping[str, Tensor]) -> IdEncoder:
        """The network in the widths of a checkpoint; version 2 where it has tokens of faces. KeyError for a name that
        it has not."""
        faces = None
        if any(name.startswith("qformer_perceiver.") for name in state):
            width = state["qformer_perceiver.token_norm.weight"].shape[0]
            hidden, vector = state["qformer_perceiver.token_proj.0.weight"].shape
            count = state["qformer_perceiver.token_proj.2.weight"].shape[0] // width
            resampler = resampler_like(state, "qformer_perceiver.perceiver_resampler.", HEAD)
            faces = FaceTokens(vector, hidden, width, count, resampler)
        return cls(settings_of(state), state["visual_projection_2.weight"].shape[0], faces)
