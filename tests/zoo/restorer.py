"""CodeFormer in a sixteenth of its widths, for pictures of 128 px, under the names of the public checkpoint."""

from __future__ import annotations

from pathlib import Path

from tests.zoo.weights import drawn

FILE = "codeformer.pth"
SIDE = 128


def codeformer(folder: Path) -> None:
    """`params_ema`, as in the public file."""
    import torch

    from idtool.models.networks.codeformer import CodeFormer, Widths

    widths = Widths((32,) * 6, code=32, codes=16, positions=16, dim=32, mlp=64, layers=2)
    with drawn():
        network = CodeFormer(widths)
        torch.nn.init.normal_(network.position_emb)
        # So that what the encoder saw, and which codes were chosen, is seen in the picture.
        for tensor in network.parameters():
            if tensor.dim() > 1:
                torch.nn.init.normal_(tensor, std=tensor[0].numel() ** -0.5)
    torch.save({"params_ema": network.state_dict()}, folder / FILE)
