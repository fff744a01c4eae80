"""What steps that make pictures or videos by networks share: the columns of what they made, seeds and prompts drawn for
it, the terms that it is under, and why a step cannot make it.

What is made is told by its row alone: the id is derived from the parent's id, the models, the settings, the seed of the
run and the number of the child (`derived.derived_id`), and the child's own seed is read off that id.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from idtool.engine.step import Binding, Env
from idtool.evaluate.measures.base import column
from idtool.models import why_not

MADE = pa.schema(
    [
        pa.field(
            "origin",
            pa.string(),
            metadata={"doc": "how the row came about: photo, video, frame, or the step that made it"},
        ),
        pa.field("parent", pa.string(), metadata={"doc": "id of the row it was made from"}),
        pa.field("prompt", pa.string(), metadata={"doc": "text that the generator was given"}),
        pa.field("generator", pa.string(), metadata={"doc": "model and revision that made it"}),
        pa.field("generator_seed", pa.int64(), metadata={"doc": "seed it was made with"}),
    ]
)
"""Columns of everything that a step makes."""
MEDIA = pa.schema(
    [
        column("media", pa.string(), "where the bytes are: a path, a URL, or store:… in the run's media folder"),
        column("format", pa.string(), "jpeg or png"),
        column("bytes", pa.int64(), "size of the file", "bytes"),
        column("width", pa.int32(), "of the picture", "px"),
        column("height", pa.int32(), "of the picture", "px"),
        column("short_side", pa.int32(), "the smaller of width and height", "px"),
    ]
)
"""Columns of a picture in the media store (`derived.stored`), as ingest gives them."""
TERMS = ("source", "licence")
"""Columns of the listing that say more of what was made than of what it was made of."""

FACE = ("face_box", "face_kps", "face_score")
"""Columns of measure `faces`. Steps that come before it look for faces themselves (role `faces`)."""


def usable(env: Env, role: str) -> Binding | None:
    """The main model of a role where it is bound and this version can load it."""
    return None if why_not(env, role) else env.require(role)


def facts(binding: Binding | None) -> list[Any] | None:
    """What is known of a model without its files, for ids and fingerprints; None for none."""
    return None if binding is None else [binding.model, binding.revision, dict(binding.options), binding.sha256]


def named(binding: Binding) -> str:
    """A model with its revision, and with the LoRA that sits on it."""
    base = f"{binding.model}@{binding.revision}" if binding.revision else binding.model
    lora = binding.options.get("lora")
    return f"{base} + {lora}" if lora else base


def terms(row: Mapping[str, Any], how: str, binding: Binding) -> dict[str, Any]:
    """`source` and `licence` of what was made of a row: the row's own, and what the network adds to them."""
    stated = {name: row.get(name) or "not stated" for name in TERMS}
    return {
        "source": f"{stated['source']} ({how})",
        "licence": f"{stated['licence']}; {binding.role}: {binding.licence}",
    }


def seed_of(new: str) -> int:
    """The seed of a child, below 2^60: the beginning of its id (hexadecimal digits)."""
    return int(new[:15], 16)


def drawn(prompts: Sequence[str], parent: str, seed: int, number: int) -> str:
    """The prompt of a parent's child of that number: each prompt once, in an order drawn for the parent, before any
    comes again. `seed`: of the run."""
    key = [seed, *parent.encode()]
    return prompts[int(np.random.default_rng(key).permutation(len(prompts))[number % len(prompts)])]


def wanted(row: Mapping[str, Any], where: Mapping[str, Any]) -> bool:
    """Whether a row is an image with those values in its columns."""
    return row["kind"] == "image" and all(row[name] == value for name, value in where.items())


def face_of(row: Mapping[str, Any], image: Any, detector: Any | None) -> Any | None:
    """The largest face of an image: that of the columns `FACE`, or, with a detector, what it finds. None: no face."""
    if detector is not None:
        found = detector.detect([image])[0]
        return found[0] if found else None
    if row["face_kps"] is None or row["face_box"] is None:
        return None
    from idtool.models.faces import Face

    box, kps = (np.asarray(row[name], np.float32) for name in ("face_box", "face_kps"))
    return Face(box, float(row["face_score"] or 0.0), kps.reshape(5, 2))
