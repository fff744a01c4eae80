"""The face of a reference as PuLID's vision tower sees it: aligned, grey, white where it is no face or hair."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from idtool.generate.method import Image
from idtool.models.faces import Face
from idtool.models.parts import Parsed, mask_of

SIZE = 512
TEMPLATE = np.array(
    [
        [192.98138, 239.94708],
        [318.90277, 240.1936],
        [256.63416, 314.01935],
        [201.26117, 371.41043],
        [313.08905, 371.15118],
    ]
)
"""(5, 2) where eyes, nose tip and mouth corners lie in facexlib's crop of 512 px."""
OUTSIDE = ("background", "left_ear", "right_ear", "earring", "neck", "necklace", "cloth", "hat")
"""Parts that the authors paint white. Hair and glasses stay."""
LUMA = np.array([0.299, 0.587, 0.114], np.float32)


def alignment(kps: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """The similarity transform (2, 3) of five points (5, 2) onto `TEMPLATE`, least squares (Umeyama, PAMI 1991).

    ValueError when the points coincide.
    """
    points = np.asarray(kps, np.float64)
    source, target = points[:, 0] + 1j * points[:, 1], TEMPLATE[:, 0] + 1j * TEMPLATE[:, 1]
    centred = source - source.mean()
    spread = float(np.sum(np.abs(centred) ** 2))
    if spread <= 1e-12:
        raise ValueError("the five points of a face coincide: it cannot be aligned")
    factor = np.sum(np.conj(centred) * (target - target.mean())) / spread
    shift = target.mean() - factor * source.mean()
    return np.array([[factor.real, -factor.imag, shift.real], [factor.imag, factor.real, shift.imag]])


def grey_face(image: Image, face: Face, parsed: Parsed) -> npt.NDArray[np.float32]:
    """(512, 512, 3) in [0, 1]: the aligned face in grey, white outside.

    The parser looks at its own, wider crop of the image; its labels are brought into this one, and where they do not
    reach, there is white.
    """
    from idtool.models.crops import warp

    matrix = alignment(face.kps)
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
