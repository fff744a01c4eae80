"""Whether one picture is a part of another: a reference that was cut out of the very photo that is to be preferred.

Such a pair teaches to copy. IdGlow does not say where the portraits of its authentic group photos come from.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Picture = npt.NDArray[np.uint8]

LONG_SIDE = 1024
"""Pixels of the longer side at which pictures are compared, at most."""
INLIERS = 25
"""Points that must agree on one shift, turn and scale."""
SHARE = 0.5
"""Of the matched points, so many must agree."""
RATIO, REACH = 0.75, 3.0
"""Of the distances to the best and the second-best match (Lowe 2004); px that an agreeing point may be off."""


def is_crop(part: Picture, whole: Picture) -> bool:
    """Whether `part` shows the same shot as `whole`, or a cut-out of it, at any size. RGB uint8 (H, W, 3).

    Scale-invariant features (SIFT) that agree on one similarity transform by RANSAC. Frames of one burst count, too:
    they are as good as the same shot. A mirrored copy does not.
    """
    import cv2

    finder = cv2.SIFT.create(nfeatures=2000)
    found = [finder.detectAndCompute(_grey(image), None) for image in (part, whole)]
    (points, features), (others, other_features) = found
    if features is None or other_features is None or len(points) < INLIERS or len(others) < INLIERS:
        return False
    matches = cv2.BFMatcher().knnMatch(features, other_features, k=2)
    good = [pair[0] for pair in matches if len(pair) == 2 and pair[0].distance < RATIO * pair[1].distance]
    if len(good) < INLIERS:
        return False
    here = np.array([points[one.queryIdx].pt for one in good], np.float32)
    there = np.array([others[one.trainIdx].pt for one in good], np.float32)
    # The random draws of RANSAC begin at the same place each time: the same pictures get the same answer.
    cv2.setRNGSeed(0)
    _, agree = cv2.estimateAffinePartial2D(here, there, method=cv2.RANSAC, ransacReprojThreshold=REACH)
    count = 0 if agree is None else int(agree.sum())
    return count >= INLIERS and count >= SHARE * len(good)


def _grey(image: Picture) -> Picture:
    import cv2

    from idtool.models.asking import reduced

    return np.asarray(cv2.cvtColor(reduced(image, LONG_SIDE), cv2.COLOR_RGB2GRAY), np.uint8)
