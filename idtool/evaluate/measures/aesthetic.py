"""Measure `aesthetic`: how pleasing the whole image is to the raters that the network of role `aesthetic` learned from.

The scales of two predictors are not one: a bound that was chosen for one says nothing of another.
"""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

from idtool.evaluate.measures.base import Item, Measure, Values, column, score, scores


class Aesthetic(Measure):
    """DMID keeps images above 5.2 by aesthetic-predictor-v2-5 (section 4.1.2)."""

    name = "aesthetic"
    role = "aesthetic"
    summary = "aesthetic score of the whole image"
    writes = pa.schema(
        [column("aesthetic", pa.float32(), "aesthetic score, on the predictor's own scale", "about 1 to 10")]
    )

    def __call__(self, items: Sequence[Item]) -> Sequence[Values | Exception]:
        return score("aesthetic", scores(self.model, items))
