"""Measure `copy`: a descriptor that is close for edits of one image and far for two photos of one person."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

from idtool.evaluate.measures.base import Item, Measure, Values, column


class CopyEmbedding(Measure):
    """Descriptor of the whole image by the network of role `copy`."""

    name = "copy"
    role = "copy"
    summary = "copy-detection descriptor of the image"
    writes = pa.schema(
        [column("copy_embedding", pa.list_(pa.float32(), 512), "copy-detection descriptor of the image, of length 1")]
    )

    def __call__(self, items: Sequence[Item]) -> Sequence[Values | Exception]:
        return [{"copy_embedding": row} for row in self.model.embed([item.image for item in items])]
