"""Measure `prompt_clip`: a prompt in the space of a text-image network, and how much of it the network did not read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

import pyarrow as pa

from idtool.evaluate.measures.base import VECTOR, Item, Measure, Values, column, vectors


class PromptClip(Measure):
    """By the network of role `clip`, the one that measure `clip` shows the image to. Long prompts lose their end: CLIP
    takes 77 tokens, SigLIP 64."""

    name = "prompt_clip"
    kind: ClassVar[Literal["image", "text", "sample"]] = "text"
    role = "clip"
    summary = "prompt embedding in the space of a text-image network"
    writes = pa.schema(
        [
            column("text_embedding", VECTOR, "text-image embedding of the prompt, of length 1"),
            column("text_cut", pa.int32(), "tokens at the end of the prompt that the network did not read"),
        ]
    )

    def __call__(self, items: Sequence[Item]) -> Sequence[Values | Exception]:
        found = self.model.texts([item.row["text"] for item in items])
        rows = vectors("text_embedding", found.features, unit=True)
        return [
            row if isinstance(row, Exception) else {**row, "text_cut": int(cut)}
            for row, cut in zip(rows, found.cut, strict=True)
        ]
