"""Measures `face_regions` and `face_regions_fullframe`: features of five parts of a face, for FGIS (ConsistentID, 4.1).

The paper gives no code and one sentence: the mean cosine of DINO features of facial regions. The rest is ours. The
largest face is aligned to 512 px as FFHQ's faces are, so that a turned or small head is seen as an upright one is. A
parser labels it, and each region is shown to the network on black: cut out (`face_regions`), or in its place in the
frame (`face_regions_fullframe`, as ConsistentID's own encoder sees regions). A cut tells what a region looks like; in
the frame, its place and size weigh as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from idtool.evaluate.measures.base import Floats, Image, Item, Measure, Values, column
from idtool.evaluate.measures.people import ROWS, faces_of
from idtool.models.crops import around, warp
from idtool.models.faces import Face
from idtool.models.parts import CROP, MARGIN, REGIONS, Bools, region_masks

MIN_SHARE = 0.0003
"""Least share of the aligned square for a region to count as visible: 79 pixels of 512 x 512."""
EDGE = 0.15
"""Added to a region's box on each side, as a share of its longer side."""
LEAST = 16
"""Pixels of the aligned square that a region's box has at least."""
SIDE, SHOWN = 256, 224
"""Regions are shown at 224 px, on a black square of 256: networks that look at the middle 224 of 256 px (DINO's own
preprocessing, DINOv2's) see all of the region, at just that size."""


class FaceRegions(Measure):
    """Features of face, eyes, ears, nose and mouth of the largest face, each cut out along its box. Images without a
    face get nulls."""

    name = "face_regions"
    role = "features"
    also = ("parser",)
    summary = "self-supervised features of five parts of the largest face, cut out"
    reads = ("people_boxes", "people_kps", "people_scores")
    writes = pa.schema(
        [
            column(
                "region_embeddings",
                ROWS,
                f"features of {', '.join(REGIONS)} of the largest face, of length 1; null where the part is not seen",
            ),
            column(
                "region_areas", pa.list_(pa.float32()), "share of the aligned square that each part covers", "[0, 1]"
            ),
        ]
    )

    def __call__(self, items: Sequence[Item]) -> Sequence[Values | Exception]:
        having = [item for item in items if item.get("people_boxes")]
        seen = [(picture, visible(masks)) for picture, masks in parsed(having, self.models["parser"])]
        squares = [self.square(picture, mask) for picture, masks in seen for mask in masks if mask is not None]
        rows = iter(np.asarray(self.model.images(squares), np.float32) if squares else ())
        values = iter([self._values(masks, rows) for _, masks in seen])
        return [next(values) if item.get("people_boxes") else {} for item in items]

    def square(self, picture: Image, mask: Bools) -> Image:
        """What the network is shown of a region: (256, 256, 3), from the aligned picture (512, 512, 3) and the region's
        mask (512, 512), which is not empty."""
        rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
        box = np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1], np.float64)
        longer = max(box[2] - box[0], box[3] - box[1])
        scale = (1 + 2 * EDGE) * max(1.0, LEAST / longer)
        return warp(on_black(picture, mask), around(box, scale * SIDE / SHOWN, SIDE), SIDE)

    def _values(self, masks: Sequence[Bools | None], rows: Any) -> Values | Exception:
        found = [None if mask is None else next(rows) for mask in masks]
        lengths = [float(np.linalg.norm(row)) for row in found if row is not None]
        if not all(np.isfinite(length) and length > 0 for length in lengths):
            return ValueError("the features of a part of the face have no length")
        embeddings = [None if row is None else (row / np.linalg.norm(row)).tolist() for row in found]
        areas = [0.0 if mask is None else float(mask.mean()) for mask in masks]
        return dict(zip(self.writes.names, (embeddings, areas), strict=True))


class FaceRegionsFullframe(FaceRegions):
    """As `face_regions`, each part in its place in the aligned square."""

    name = "face_regions_fullframe"
    summary = "self-supervised features of five parts of the largest face, each in its place"
    writes = pa.schema([field.with_name(f"{field.name}_fullframe") for field in FaceRegions.writes])

    def square(self, picture: Image, mask: Bools) -> Image:
        return warp(on_black(picture, mask), around((0, 0, CROP, CROP), SIDE / SHOWN, SIDE), SIDE)


def parsed(items: Sequence[Item], parser: Any) -> list[tuple[Image, dict[str, Bools]]]:
    """The largest face of each item, aligned (512, 512, 3), and the mask (512, 512) of each region. Measures of the
    same step share them."""
    key = f"face regions {id(parser)}"
    new = [item for item in items if key not in item.memo]
    pictures = [aligned(item.image, faces_of(item)[0]) for item in new]
    for item, (picture, inside), found in zip(
        new, pictures, parser([picture for picture, _ in pictures], [_whole()] * len(new)), strict=True
    ):
        item.memo[key] = picture, {name: mask & inside for name, mask in region_masks(found.labels).items()}
    return [item.memo[key] for item in items]


def aligned(image: Image, face: Face) -> tuple[Image, Bools]:
    """A face as FFHQ frames it, (512, 512, 3), and which of its pixels are of the image (512, 512): beyond its edge the
    last pixel is repeated. ValueError when the face's points coincide."""
    import cv2

    from idtool.models.alignment import ffhq

    matrix = ffhq(face.kps)
    inside = cv2.warpAffine(np.ones(image.shape[:2], np.uint8), matrix, (CROP, CROP), flags=cv2.INTER_NEAREST)
    return warp(image, matrix, CROP, "replicate"), np.asarray(inside, np.bool_)


def visible(masks: dict[str, Bools]) -> list[Bools | None]:
    """The masks in the order of `REGIONS`; None for those of too few pixels."""
    return [mask if mask.mean() >= MIN_SHARE else None for mask in (masks[region] for region in REGIONS)]


def on_black(picture: Image, mask: Bools) -> Image:
    """`picture` (H, W, 3), black where `mask` (H, W) is not."""
    return picture * mask[..., None].astype(np.uint8)


def _whole() -> Face:
    """A face whose crop, as parsers cut it, is a whole square of 512 px."""
    half = CROP / (2 * MARGIN)
    box: Floats = np.array([CROP / 2 - half, CROP / 2 - half, CROP / 2 + half, CROP / 2 + half], np.float32)
    return Face(box, 1.0, np.zeros((5, 2), np.float32))
