"""DINO: how alike image and references are to each network of role `features`."""

from __future__ import annotations

from typing import Any, ClassVar

from idtool.evaluate.measures.ranked import FEATURES
from idtool.evaluate.metrics.networks import LikeReferences


class Dino(LikeReferences):
    """Of whole pictures: background and pose count. The name carries the network, which need not be a DINO."""

    family = "dino"
    summary = "cosine of self-supervised features of image and references, whole pictures"
    paper = (
        "ConsistentID section 4.1 (ViT-S/16), over all pairs; preprocessing of DINO's own code, not of the hub's card"
    )
    unit = "cosine"
    bounds: ClassVar[Any] = (-1.0, 1.0)
    axis: ClassVar[Any] = "identity"
    measures = FEATURES
