"""Reference pictures as latents, packed as FLUX takes them, with their positions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Image = npt.NDArray[np.uint8]


def encode_images(pipe: Any, images: Sequence[Image]) -> Tensor:
    """RGB uint8 pictures of one size (H, W, 3) to latents (B, channels, H / 8, W / 8), scaled.

    The mode of the VAE's distribution, not a draw from it, so that the same picture gives the same tokens; a picture
    at a time, so that its neighbours do not matter.
    """
    vae = pipe.vae
    device, dtype = pipe._execution_device, vae.dtype
    found = []
    for image in images:
        pixels = torch.from_numpy(np.ascontiguousarray(image)).to(device).permute(2, 0, 1)[None]
        mode = vae.encode((pixels.float() / 127.5 - 1).to(dtype)).latent_dist.mode()
        found.append((mode - vae.config.shift_factor) * vae.config.scaling_factor)
    return torch.cat(found)


def pack(pipe: Any, latents: Tensor) -> Tensor:
    """(B, channels, h, w) to tokens (B, h / 2 · w / 2, 4 channels), row by row."""
    packed: Tensor = pipe._pack_latents(latents, *latents.shape)
    return packed


def positions(rows: int, columns: int, like: Tensor, shift: tuple[int, int] = (0, 0)) -> Tensor:
    """(rows · columns, 3) ids of a grid of tokens: 0, row, column, moved by `shift` (rows, columns)."""
    ids = torch.zeros(rows, columns, 3, device=like.device, dtype=torch.float32)
    ids[..., 1] = torch.arange(rows, device=like.device)[:, None] + shift[0]
    ids[..., 2] = torch.arange(columns, device=like.device)[None, :] + shift[1]
    return ids.reshape(-1, 3).to(like.dtype)
