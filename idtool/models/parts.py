"""The parts of a face that all parsers speak of, and the regions and masks that are made of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from idtool.errors import MissingError
from idtool.models.crops import around

Bools = npt.NDArray[np.bool_]
Labels = npt.NDArray[np.uint8]

CROP = 512
"""Side in pixels of the crops that parsers label."""
MARGIN = 1.9
"""Side of the crop over the longer side of the face's box: hair and neck are inside."""

PARTS = (
    *("background", "skin", "left_brow", "right_brow", "left_eye", "right_eye", "glasses", "left_ear", "right_ear"),
    *("earring", "nose", "mouth", "upper_lip", "lower_lip", "neck", "necklace", "cloth", "hair", "hat"),
)
"""The 19 classes in BiSeNet's order; left and right are the person's own, `mouth` is the inside of the mouth."""

CELEBAMASK = {
    "eye_g": "glasses",
    "ear_r": "earring",
    "neck_l": "necklace",
    "u_lip": "upper_lip",
    "l_lip": "lower_lip",
    **{f"{side[0]}_{part}": f"{side}_{part}" for side in ("left", "right") for part in ("brow", "eye", "ear")},
}
"""Names of CelebAMask-HQ that differ from `PARTS`. Its `l_` is the person's own left, but `l_lip` is the lower lip."""

_FACE = ("skin", "left_brow", "right_brow", "left_eye", "right_eye", "nose", "mouth", "upper_lip", "lower_lip")
REGIONS: dict[str, tuple[str, ...]] = {
    "face": _FACE,
    "eyes": ("left_eye", "right_eye"),
    "ears": ("left_ear", "right_ear"),
    "nose": ("nose",),
    "mouth": ("mouth", "upper_lip", "lower_lip"),
}
"""The five regions that ConsistentID compares (FGIS, section 4.1) and FGID stores. Its table of classes keeps one of
each pair only; here both count. Glasses are no part of the face there."""

_HEAD = (*_FACE, "glasses", "left_ear", "right_ear", "earring", "hair", "hat")
MASKS: dict[str, tuple[str, ...]] = {
    "face": (*_FACE, "glasses"),
    "head": _HEAD,
    "hair": ("hair",),
    "all-but-face": tuple(part for part in PARTS if part not in (*_FACE, "glasses")),
}
"""What an inpainting run may draw anew: one kind of mask each. What covers a face goes with the face."""


@dataclass(frozen=True, eq=False)
class Parsed:
    """The parts of one face, in a square crop around it."""

    labels: Labels
    """(512, 512) index into `PARTS` for every pixel of the crop."""
    matrix: npt.NDArray[np.float64]
    """(2, 3) from pixels of the image to pixels of the crop."""

    def share(self, *parts: str) -> float:
        """[0, 1] share of the crop that is any of the parts. ValueError for an unknown name."""
        return float(mask_of(self.labels, parts).mean())

    def on(self, height: int, width: int) -> Labels:
        """The labels on the image they come from, (height, width); background outside the crop."""
        import cv2

        back = cv2.invertAffineTransform(self.matrix)
        return np.asarray(cv2.warpAffine(self.labels, back, (width, height), flags=cv2.INTER_NEAREST), np.uint8)


def mask_of(labels: Labels, parts: Sequence[str]) -> Bools:
    """Where `labels` (H, W) are any of the parts, bool (H, W). ValueError for an unknown name."""
    unknown = [part for part in parts if part not in PARTS]
    if unknown:
        raise ValueError(f"There is no part {unknown[0]!r} of a face. Parts: {', '.join(PARTS)}")
    return np.isin(labels, [PARTS.index(part) for part in parts])


def region_masks(labels: Labels) -> dict[str, Bools]:
    """One bool (H, W) for each of `REGIONS`; all False where the region is not seen."""
    return {region: mask_of(labels, parts) for region, parts in REGIONS.items()}


def inpainting_mask(labels: Labels, kind: str) -> Bools:
    """Where a kind of `MASKS` lets an inpainting model draw, bool (H, W). ValueError for an unknown kind.

    `labels` of a crop know nothing beyond it: for the whole image, take `Parsed.on`.
    """
    if kind not in MASKS:
        raise ValueError(f"There is no kind of mask {kind!r}. Kinds: {', '.join(MASKS)}")
    return mask_of(labels, MASKS[kind])


def order_of(names: Sequence[str], what: str) -> npt.NDArray[np.uint8]:
    """For each class of a network, in its order, its index in `PARTS`.

    `names` are those of `PARTS` or of CelebAMask-HQ, in any order; `what` names the model in errors. MissingError
    when parts are missing, unknown or there twice.
    """
    plain = [name.strip().lower().removesuffix(".png") for name in names]
    found = [CELEBAMASK.get(name, name) for name in plain]
    unknown = [name for name, part in zip(names, found, strict=True) if part not in PARTS]
    missing = [part for part in PARTS if part not in found]
    twice = sorted({part for part in found if part in PARTS and found.count(part) > 1})
    if unknown or missing or twice:
        parts = [
            f"{sort}: {', '.join(those)}"
            for sort, those in (("unknown", unknown), ("missing", missing), ("there twice", twice))
            if those
        ]
        raise MissingError(
            f"{what} does not know the {len(PARTS)} parts of a face, but {len(names)} classes ({'; '.join(parts)}).",
            "Bind role parser to a model that was trained on CelebAMask-HQ.",
        )
    return np.array([PARTS.index(part) for part in found], np.uint8)


def crop_matrix(box: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """The transform (2, 3) from the image to the crop of `CROP` px about a face's box (4, xyxy)."""
    return around(box, MARGIN, CROP)
