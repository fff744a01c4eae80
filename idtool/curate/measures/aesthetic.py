"""Measure `aesthetic`: its place in recipes. No network for it comes inside packages of the index."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

from idtool.curate.measures.base import Item, Measure, Values, column
from idtool.engine.step import Env
from idtool.errors import MissingError


class Aesthetic(Measure):
    """Left out everywhere, with the reason; gates on its column are then skipped with the same reason."""

    name = "aesthetic"
    role = "aesthetic"
    summary = "aesthetic score of the whole image"
    writes = pa.schema([column("aesthetic", pa.float32(), "aesthetic-predictor-v2.5 score", "about 1 to 10")])

    @classmethod
    def why_not(cls, env: Env) -> str:
        return super().why_not(env) or "measure aesthetic is not built in this version"

    def __call__(self, items: Sequence[Item]) -> Sequence[Values | Exception]:
        raise MissingError("Measure 'aesthetic' is not built in this version.", "Take it out of `measures`.")
