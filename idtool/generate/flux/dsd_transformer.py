"""FLUX's transformer with the second embedder of Diffusion Self-Distillation."""

from __future__ import annotations

from diffusers.configuration_utils import register_to_config
from torch import nn

from idtool.generate.flux.transformer import BranchTransformer


class DsdTransformer(BranchTransformer):
    """`BranchTransformer` with `c_embedder`, for `Additions.beside`; saved with the names of `primecai/dsd_model`."""

    @register_to_config  # type: ignore[untyped-decorator]
    def __init__(
        self,
        patch_size: int = 1,
        in_channels: int = 64,
        out_channels: int | None = None,
        num_layers: int = 19,
        num_single_layers: int = 38,
        attention_head_dim: int = 128,
        num_attention_heads: int = 24,
        joint_attention_dim: int = 4096,
        pooled_projection_dim: int = 768,
        guidance_embeds: bool = False,
        axes_dims_rope: tuple[int, int, int] = (16, 56, 56),
    ) -> None:
        super().__init__(
            patch_size=patch_size,
            in_channels=in_channels,
            out_channels=out_channels,
            num_layers=num_layers,
            num_single_layers=num_single_layers,
            attention_head_dim=attention_head_dim,
            num_attention_heads=num_attention_heads,
            joint_attention_dim=joint_attention_dim,
            pooled_projection_dim=pooled_projection_dim,
            guidance_embeds=guidance_embeds,
            axes_dims_rope=axes_dims_rope,
        )
        self.c_embedder = nn.Linear(in_channels, self.inner_dim)
