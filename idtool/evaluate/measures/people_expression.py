"""Measures `people_expression` and `people_expression2`: which of seven expressions every face of a picture shows."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from idtool.evaluate.measures.base import Floats, Item, column
from idtool.evaluate.measures.people import ROWS, PeopleMeasure
from idtool.models.expression import EXPRESSIONS
from idtool.models.faces import Face

ORDER = f"of every face, probabilities of {', '.join(EXPRESSIONS)}"


class PeopleExpression(PeopleMeasure):
    """By the main network of role `expression`; weighed together with the blendshapes of `people_mesh` where those are
    made and the network is made for it (it has `combine`), as measure `expression` does."""

    name = "people_expression"
    role = "expression"
    summary = "basic expression of every face"
    uses = ("people_blendshapes",)
    writes = pa.schema([column("people_expressions", ROWS, ORDER, "[0, 1]")])

    def of_faces(self, items: Sequence[Item], faces: Sequence[Face]) -> Floats:
        said = np.asarray(self.model([item.image for item in items], list(faces)), np.float32)
        combine = getattr(self.model, "combine", None)
        if combine is None:
            return said
        # `items` holds a picture once for each of its faces, in their order.
        place: dict[int, int] = {}
        rows = []
        for item, row in zip(items, said, strict=True):
            k = place[id(item)] = place.get(id(item), -1) + 1
            shapes = item.get("people_blendshapes")
            rows.append(row if shapes is None else combine(row, np.asarray(shapes[k], np.float32)))
        return np.stack(rows)


class PeopleExpression2(PeopleExpression):
    """By the second network."""

    name = "people_expression2"
    rank = 1
    summary = "basic expression of every face by the second network"
    writes = pa.schema([column("people_expressions2", ROWS, f"second network: {ORDER}", "[0, 1]")])


EXPRESSION_MEASURES = (PeopleExpression, PeopleExpression2)
