"""Measure `attributes`: age and gender as a network takes them from the face. For balance and statistics of a data
set, never for saying anything of one person: such networks are wrong more often for some groups than for others."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from idtool.evaluate.measures.base import FaceMeasure, Item, Values, column


class Attributes(FaceMeasure):
    """By the network of role `attributes`, of the largest face (ConsistentID, figure 4, shows both for FGID)."""

    name = "attributes"
    role = "attributes"
    summary = "apparent age and gender of the largest face"
    reads = ("face_box", "face_kps", "face_score")
    writes = pa.schema(
        [
            column("age", pa.float32(), "apparent age of the largest face, as a network guesses it", "years"),
            column("female", pa.float32(), "how far a network takes the largest face for a woman's", "[0, 1]"),
        ]
    )

    def of_faces(self, items: Sequence[Item]) -> Sequence[Values | Exception]:
        found = self.model.attributes([item.image for item in items], [item.face for item in items])
        return [
            {"age": float(each.age), "female": float(each.female)}
            if np.isfinite([each.age, each.female]).all()
            else ValueError("the attribute network gave a number that is not finite")
            for each in found
        ]
