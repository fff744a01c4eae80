"""The face of a reference as PuLID's vision tower sees it: aligned, grey, white where it is no face or hair."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from idtool.generate.method import Image
from idtool.models.alignment import FFHQ_SIDE, ffhq
from idtool.models.faces import Face
from idtool.models.parts import Parsed, mask_of

SIZE = FFHQ_SIDE
OUTSIDE = ("background", "left_ear", "right_ear", "earring", "neck", "necklace", "cloth", "hat")
"""Parts that the authors paint white. Hair and glasses stay."""
LUMA = np.array([0.299, 0.587, 0.114], np.float32)


def grey_face(image: Image, face: Face, parsed: Parsed) -> npt.NDArray[np.float32]:
    """(512, 512, 3) in [0, 1]: the aligned face in grey, white outside.

    The parser looks at its own, wider crop of the image; its labels are brought into this one, and where they do not
    reach, there is white.
    """
    from idtool.models.crops import warp

    matrix = ffhq(face.kps)
    crop = warp(image, matrix, SIZE, "replicate").astype(np.float32) / 255
    labels = _moved(parsed, matrix)
    grey = np.repeat((crop @ LUMA)[..., None], 3, axis=2)
    return np.where(mask_of(labels, OUTSIDE)[..., None], np.float32(1), grey).astype(np.float32)


def _moved(parsed: Parsed, matrix: npt.NDArray[np.float64]) -> Any:
    """Labels of a parser's crop in the crop of `matrix`."""
    import cv2

    there, crop = (np.vstack([one, [0.0, 0.0, 1.0]]) for one in (matrix, parsed.matrix))
    between = (there @ np.linalg.inv(crop))[:2]
    return cv2.warpAffine(parsed.labels, between, (SIZE, SIZE), flags=cv2.INTER_NEAREST)
