"""Text to masks (Grounded SAM, Ren et al., 2024): a grounder finds boxes for phrases, a segmenter masks for boxes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from idtool.errors import UsageError
from idtool.models.faces import suppress

Image = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Region:
    """One object that answers to a phrase, with its mask."""

    label: str
    """The phrase, as it was asked."""
    score: float
    """[0, 1] how surely it answers to the phrase."""
    box: Floats
    """(4,) left, top, right, bottom in pixels of the image, as it was found."""
    mask: Bools
    """(H, W) at the size of the image."""


class Grounded:
    """Regions of images by phrases. As safe to call from several threads as its two models.

    A segmenter that answers phrases itself (`regions`, SAM 3) needs no grounder.
    """

    def __init__(self, grounder: Any | None, segmenter: Any, *, overlap: float = 0.5, min_area: float = 0.005) -> None:
        """Of two boxes of one label that overlap by more than `overlap` (intersection over union), the surer stays.
        Masks under the share `min_area` of the image, or of the subject where one is given, are dropped."""
        self._direct = hasattr(segmenter, "regions")
        if grounder is None and not self._direct:
            raise UsageError(
                "Masks for phrases need role grounder beside this segmenter.", "Bind both in the profile, or SAM 3."
            )
        if not 0 <= overlap <= 1 or not 0 <= min_area < 1:
            raise UsageError(f"overlap {overlap} and min_area {min_area} are not shares in [0, 1].")
        self._grounder: Any = grounder
        self._segmenter = segmenter
        self.overlap, self.min_area = overlap, min_area

    def regions(
        self,
        images: Sequence[Image],
        phrases: Sequence[Sequence[str]],
        subjects: Sequence[Bools | None] | None = None,
    ) -> list[list[Region]]:
        """Objects that answer to the phrases of each RGB uint8 image (H, W, 3), surest first.

        `subjects`: for each image a mask (H, W) that all its masks are cut to, or None. Raises ValueError when the
        sequences differ in length or a subject's mask has another size than its image.
        """
        limits: Sequence[Bools | None] = [None] * len(images) if subjects is None else subjects
        for image, limit in zip(images, limits, strict=True):
            if limit is not None and limit.shape != image.shape[:2]:
                raise ValueError(f"Expected a subject's mask of {image.shape[:2]}. Got {limit.shape}")
        if self._direct:
            found = [self._distinct(some) for some in self._segmenter.regions(images, phrases)]
        else:
            boxes = [self._distinct(some) for some in self._grounder.detect(images, phrases)]
            corners = [np.array([one.box for one in some], np.float32).reshape(-1, 4) for some in boxes]
            # A box at the very edge may have been cut to nothing; there is no object to outline in it.
            whole = [np.flatnonzero((some[:, 2:] - some[:, :2]).min(axis=1, initial=np.inf) > 0) for some in corners]
            masks = self._segmenter.segment(images, [some[kept] for some, kept in zip(corners, whole, strict=True)])
            found = [
                [
                    Region(some[i].label, some[i].score, some[i].box, mask)
                    for i, mask in zip(kept, outlined.masks, strict=True)
                ]
                for some, kept, outlined in zip(boxes, whole, masks, strict=True)
            ]
        return [self._within(some, limit) for some, limit in zip(found, limits, strict=True)]

    def fingerprint(self) -> dict[str, Any]:
        """What the regions depend on."""
        models = {"segmenter": self._segmenter.fingerprint()}
        if not self._direct:
            models["grounder"] = self._grounder.fingerprint()
        return {**models, "overlap": self.overlap, "min_area": self.min_area}

    def _distinct(self, found: Sequence[Any]) -> list[Any]:
        """Without boxes of one label that a surer one overlaps; surest first."""
        kept: list[Any] = []
        for label in dict.fromkeys(one.label for one in found):
            same = [one for one in found if one.label == label]
            boxes = np.array([one.box for one in same], np.float32)
            scores = np.array([one.score for one in same], np.float32)
            kept += [same[i] for i in suppress(boxes, scores, self.overlap)]
        return sorted(kept, key=lambda one: -one.score)

    def _within(self, found: Sequence[Region], limit: Bools | None) -> list[Region]:
        """Masks cut to the subject; without those that are too small."""
        kept = []
        for one in found:
            mask = one.mask if limit is None else one.mask & limit
            area = mask.size if limit is None else int(limit.sum())
            if mask.any() and mask.sum() >= self.min_area * area:
                kept.append(Region(one.label, one.score, one.box, mask))
        return kept
