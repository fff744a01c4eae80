"""Columns of requests and of the images that are candidates for preference pairs."""

from __future__ import annotations

import pyarrow as pa

from idtool.curate.made import MADE, MEDIA
from idtool.evaluate.measures.base import column

REQUEST, PHOTO, GENERATED, PERTURBED = "request", "photo", "generated", "perturb"
"""Origins of rows: what is to be made, an authentic photo, what a method made, a worse copy."""

ASKED = pa.schema(
    [
        column("group", pa.string(), "hash of prompt and references: what candidates of one request share"),
        column("references", pa.list_(pa.string()), "pictures of the people, one each, from left to right"),
        column("people", pa.list_(pa.string()), "who they are, in the same order"),
        column("boxes", pa.list_(pa.list_(pa.float32())), "where they stand: left, top, right, bottom", "of the frame"),
    ]
)
"""What a request asks for, with `prompt`. Worse copies inherit it (`derived.INHERITED`)."""
TERMS = pa.schema(
    [
        column("source", pa.string(), "where the pictures come from"),
        column("licence", pa.string(), "their terms"),
        column("consent", pa.string(), "of the people in them"),
    ]
)
REQUESTS = pa.schema(
    [
        column("id", pa.string(), "hash of group and number, or that of the photo"),
        column("kind", pa.string(), "request, or image for authentic photos"),
        column("identity", pa.string(), "the people as one label"),
        *ASKED,
        *(MADE.field(name) for name in ("origin", "parent", "prompt", "generator_seed")),
        *MEDIA,
        *TERMS,
    ]
)
"""The table of step `requests`."""
