"""Measure `parts`: how much of the picture around the face is hair, glasses, a hat and so on."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

from idtool.evaluate.measures.base import FaceMeasure, Item, Values, column
from idtool.models.parts import MARGIN, REGIONS

SHARES: dict[str, tuple[str, ...]] = {
    **{f"part_{region}": parts for region, parts in REGIONS.items()},
    "part_glasses": ("glasses",),
    "part_hair": ("hair",),
    "part_hat": ("hat",),
    "part_neck": ("neck", "necklace"),
    "part_cloth": ("cloth",),
}
"""Column -> the parser's parts that it counts. `part_face` takes in eyes, nose and mouth."""


class Parts(FaceMeasure):
    """By the network of role `parser`, in a square about the largest face."""

    name = "parts"
    role = "parser"
    summary = "shares of face, eyes, ears, nose, mouth, glasses, hair, hat, neck and clothes around the face"
    reads = ("face_box", "face_kps", "face_score")
    writes = pa.schema(
        [
            column(
                name, pa.float32(), f"share of {', '.join(parts)} in a square {MARGIN} times the face's box", "[0, 1]"
            )
            for name, parts in SHARES.items()
        ]
    )

    def of_faces(self, items: Sequence[Item]) -> Sequence[Values | Exception]:
        found = self.model([item.image for item in items], [item.face for item in items])
        return [{name: parsed.share(*parts) for name, parts in SHARES.items()} for parsed in found]
