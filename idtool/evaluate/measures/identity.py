"""Measures `identity` and `identity2`: embeddings of the largest face by one or two recognition networks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from idtool.evaluate.measures.base import VECTOR, FaceMeasure, Floats, Image, Item, Values, column

THUMB = 32
CACHED = "arcface-112"
"""The alignment of `Item.aligned`, which all networks that want it share."""


class Identity(FaceMeasure):
    """The main network of role `identity`."""

    name = "identity"
    role = "identity"
    summary = "identity embedding of the largest face"
    writes = pa.schema(
        [
            column("embedding", VECTOR, "identity embedding of the largest face, of length 1"),
            column("embedding_norm", pa.float32(), "length before it was made 1; low for poor crops"),
            column("face_thumb", pa.binary(), "32x32 grey bytes of the aligned face, to tell near-copies"),
        ]
    )

    def of_faces(self, items: Sequence[Item]) -> Sequence[Values | Exception]:
        out: list[Values | Exception] = []
        for item, row in zip(items, embed(self.model, items), strict=True):
            norm = float(np.linalg.norm(row))
            if usable(norm):
                out.append({"embedding": row / norm, "embedding_norm": norm, "face_thumb": thumb(item.aligned())})
            else:
                out.append(no_length(norm))
        return out


class Identity2(FaceMeasure):
    """The second network bound to role `identity`: another judge's view of the same face."""

    name = "identity2"
    role = "identity"
    rank = 1
    summary = "identity embedding by a second network"
    writes = pa.schema([column("embedding2", VECTOR, "second network's embedding, of length 1")])

    def of_faces(self, items: Sequence[Item]) -> Sequence[Values | Exception]:
        rows = embed(self.model, items)
        norms = [float(norm) for norm in np.linalg.norm(rows, axis=1)]
        return [
            {"embedding2": row / norm} if usable(norm) else no_length(norm)
            for row, norm in zip(rows, norms, strict=True)
        ]


def embed(model: Any, items: Sequence[Item]) -> Floats:
    """(N, dim) raw embeddings of the largest faces, cropped as the network wants them; one call of the network."""
    if getattr(model, "alignment", CACHED) == CACHED:
        crops = [item.aligned() for item in items]
    else:
        crops = model.crops([item.image for item in items], [item.face for item in items])
    return np.asarray(model.embed(np.stack(crops)), np.float32)


def usable(norm: float) -> bool:
    """Whether a vector of this length has a direction."""
    return bool(np.isfinite(norm)) and norm > 0


def no_length(norm: float) -> Exception:
    return ValueError(f"the identity network gave an embedding of length {norm}")


def thumb(crop: Image) -> bytes:
    """32x32 grey bytes, row by row, of an aligned (112, 112, 3) crop, averaged."""
    import cv2

    grey = cv2.cvtColor(crop, cv2.COLOR_RGB2GRAY)
    return bytes(cv2.resize(grey, (THUMB, THUMB), interpolation=cv2.INTER_AREA).tobytes())
