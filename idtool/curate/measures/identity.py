"""Measures `identity` and `identity2`: embeddings of the largest face by one or two recognition networks."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from idtool.curate.measures.base import FaceMeasure, Image, Item, Values, column

THUMB = 32
EMBEDDING = pa.list_(pa.float32(), 512)


class Identity(FaceMeasure):
    """The main network of role `identity`."""

    name = "identity"
    role = "identity"
    summary = "identity embedding of the largest face"
    writes = pa.schema(
        [
            column("embedding", EMBEDDING, "identity embedding of the largest face, of length 1"),
            column("embedding_norm", pa.float32(), "length before it was made 1; low for poor crops"),
            column("face_thumb", pa.binary(), "32x32 grey bytes of the aligned face, to tell near-copies"),
        ]
    )

    def of_faces(self, items: Sequence[Item]) -> Sequence[Values | Exception]:
        unit, norm = embed(self.model, items)
        return [
            {"embedding": unit[k], "embedding_norm": float(norm[k]), "face_thumb": thumb(item.aligned())}
            for k, item in enumerate(items)
        ]


class Identity2(FaceMeasure):
    """The second network bound to role `identity`: another judge's view of the same face."""

    name = "identity2"
    role = "identity"
    rank = 1
    summary = "identity embedding by a second network"
    writes = pa.schema([column("embedding2", EMBEDDING, "second network's embedding, of length 1")])

    def of_faces(self, items: Sequence[Item]) -> Sequence[Values | Exception]:
        unit, _ = embed(self.model, items)
        return [{"embedding2": row} for row in unit]


def embed(model: object, items: Sequence[Item]) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """(N, 512) of length 1, and the lengths (N,) before, of the aligned faces; one call of the network."""
    raw = np.asarray(model.embed(np.stack([item.aligned() for item in items])), np.float32)  # type: ignore[attr-defined]
    norm = np.linalg.norm(raw, axis=1)
    if not np.all(norm > 0):
        raise ValueError("the identity network gave an embedding without length")
    return raw / norm[:, None], norm


def thumb(crop: Image) -> bytes:
    """32x32 grey bytes, row by row, of an aligned (112, 112, 3) crop, averaged."""
    import cv2

    grey = cv2.cvtColor(crop, cv2.COLOR_RGB2GRAY)
    return bytes(cv2.resize(grey, (THUMB, THUMB), interpolation=cv2.INTER_AREA).tobytes())
