"""Measures by the second and third network of a role: those of the first, in columns of their own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import pyarrow as pa

from idtool.evaluate.measures.aesthetic import Aesthetic
from idtool.evaluate.measures.base import Item, Measure, Values
from idtool.evaluate.measures.clip import Clip
from idtool.evaluate.measures.features import Features
from idtool.evaluate.measures.iqa import Iqa
from idtool.evaluate.measures.prompt import PromptClip

_ORDINALS = {1: "second", 2: "third"}


def ranked(base: type[Measure], rank: int) -> type[Measure]:
    """`base` by the network of that rank (1: the second one), named with its number, as are the columns."""
    number, ordinal = rank + 1, _ORDINALS[rank]

    def call(self: Measure, items: Sequence[Item]) -> Sequence[Values | Exception]:
        return [
            value if isinstance(value, Exception) else {f"{name}{number}": one for name, one in value.items()}
            for value in base.__call__(self, items)
        ]

    columns = [
        field.with_name(f"{field.name}{number}").with_metadata(
            {**field.metadata, b"doc": field.metadata[b"doc"] + f", by the {ordinal} network".encode()}
        )
        for field in base.writes
    ]
    content = {
        "__module__": __name__,
        "__doc__": f"As `{base.name}`, by the {ordinal} network.",
        "__call__": call,
        "name": f"{base.name}{number}",
        "rank": rank,
        "summary": f"{base.summary}, by the {ordinal} network",
        "writes": pa.schema(columns),
    }
    return cast(type[Measure], type(f"{base.__name__}{number}", (base,), content))


# By name, each: workers find the classes of pickled measures so.
Clip2, Clip3 = ranked(Clip, 1), ranked(Clip, 2)
PromptClip2, PromptClip3 = ranked(PromptClip, 1), ranked(PromptClip, 2)
Features2, Features3 = ranked(Features, 1), ranked(Features, 2)
Aesthetic2, Aesthetic3 = ranked(Aesthetic, 1), ranked(Aesthetic, 2)
Iqa2, Iqa3 = ranked(Iqa, 1), ranked(Iqa, 2)

CLIPS = (Clip, Clip2, Clip3)
PROMPT_CLIPS = (PromptClip, PromptClip2, PromptClip3)
FEATURES = (Features, Features2, Features3)
AESTHETICS = (Aesthetic, Aesthetic2, Aesthetic3)
IQAS = (Iqa, Iqa2, Iqa3)
