"""The Inception v3 of FID with random weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.zoo.recognition import settled
from tests.zoo.weights import drawn

FILE = "pt_inception-2015-12-05-6726825d.pth"


def inception(folder: Path) -> None:
    """`pt_inception-2015-12-05-6726825d.pth` as pytorch-fid and torch-fidelity give it, a sixteenth of the real
    width."""
    save(folder / FILE, width=1 / 16)


def save(path: Path, width: float = 1.0) -> None:
    """A file with the names of the public one: with a classifier, and without counts of batches."""
    import torch

    from idtool.models.networks.inception import FidInceptionV3

    with drawn():
        network = kaiming(settled(FidInceptionV3(width)))
        state = {k: v for k, v in network.state_dict().items() if not k.endswith("num_batches_tracked")}
        state["fc.weight"], state["fc.bias"] = torch.randn(1008, network.dim), torch.randn(1008)
    torch.save(state, path, _use_new_zipfile_serialization=False)


def kaiming(network: Any) -> Any:
    """Convolutions that pass on as much as they are given, so that two pictures end apart."""
    import torch

    for module in network.modules():
        if isinstance(module, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(module.weight)
    return network
