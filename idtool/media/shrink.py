"""Making pictures smaller, fast. OpenCV averages 2x2 pixels about ten times faster than any other area."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[np.uint8]


def halved(image: Pixels, width: int, height: int) -> Pixels:
    """uint8 `image` (H, W) or (H, W, 3) averaged over 2x2 pixels as often as it stays at least `width` x `height`.

    So a resize by less than two is all that is left to do. An odd last row or column is dropped.
    """
    import cv2

    while image.shape[0] >= 2 * height and image.shape[1] >= 2 * width:
        rows, columns = image.shape[0] // 2, image.shape[1] // 2
        even = image[: 2 * rows, : 2 * columns]
        image = np.asarray(cv2.resize(even, (columns, rows), interpolation=cv2.INTER_AREA), np.uint8)
    return image
