"""Measure `expression`: which of seven basic expressions the largest face shows."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from idtool.evaluate.measures.base import FaceMeasure, Item, Values, column
from idtool.models.expression import EXPRESSIONS


class Expression(FaceMeasure):
    """Weighed together with the blendshapes of measure `landmarks` where those are there and the network is made for
    it (it has `combine`). Of low confidence."""

    name = "expression"
    role = "expression"
    summary = "basic expression of the largest face"
    reads = ("face_box", "face_kps", "face_score")
    uses = ("blendshapes",)
    writes = pa.schema(
        [
            column("expression", pa.string(), f"the most probable of {', '.join(EXPRESSIONS)}"),
            column("expression_p", pa.float32(), "its probability", "[0, 1]"),
            column("expressions", pa.list_(pa.float32()), f"probabilities of {', '.join(EXPRESSIONS)}", "[0, 1]"),
        ]
    )

    def of_faces(self, items: Sequence[Item]) -> Sequence[Values | Exception]:
        said = self.model([item.image for item in items], [item.face for item in items])
        combine = getattr(self.model, "combine", None)
        out: list[Values | Exception] = []
        for item, row in zip(items, said, strict=True):
            shapes = item.get("blendshapes")
            odds = row if shapes is None or combine is None else combine(row, np.asarray(shapes, np.float32))
            if not np.isfinite(odds).all():
                out.append(ValueError("the expression network gave a probability that is not finite"))
                continue
            best = int(np.argmax(odds))
            out.append({"expression": EXPRESSIONS[best], "expression_p": float(odds[best]), "expressions": odds})
        return out
