"""Shot changes: where one take ends and another begins, so that a clip is one shot.

Each decoded frame is reduced to 64x36 pixels and compared with the one before it:

    difference = (1 - correlation) / 2 + histogram / 2,  in [0, 1]

`correlation`: normalised cross-correlation of the smoothed luma, cut off at 0; blind to brightness and contrast, so
that fades and flashes change it little. `histogram`: half the L1 distance of the 8x8x8 RGB histograms; blind to
motion. A frame begins a shot when its difference reaches `threshold` and stands out from its neighbours, and when
the old picture does not come back within a few frames (a flash). Slow changes count too: a fade, when an even
colour ends; a dissolve, when two pictures `DISSOLVE` frames apart differ that much and those between are mixtures of
the two, which motion does not make.
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

SIZE = (64, 36)
"""Width and height of the pictures compared."""
DEFAULT_THRESHOLD = 0.35
LOOKAHEAD = 5
"""Frames that must be seen before the shot of a frame is settled; also the longest flash."""
DISSOLVE = 16
"""Frames over which a dissolve is looked for; shorter and somewhat longer ones are found as well."""
_STANDS_OUT = 2.0
"""A cut is this many times the median difference of the frames around it; fast motion is not."""
_MIXTURE = 0.06
"""Share of the change between two pictures that a mixture of them may leave unexplained (variance)."""
_FLAT = 3.0
"""Standard deviation of luma (of 255) under which a picture is an even colour."""


@dataclass(frozen=True)
class _Signature:
    luma: NDArray[np.float32]
    variance: float
    histogram: NDArray[np.float64]

    @property
    def flat(self) -> bool:
        return self.variance < _FLAT**2


def signature(small: NDArray[np.uint8]) -> _Signature:
    """What is compared, of an RGB picture of shape (36, 64, 3)."""
    import cv2

    luma = cv2.GaussianBlur(cv2.cvtColor(small, cv2.COLOR_RGB2GRAY).astype(np.float32), (0, 0), 1.0)
    centred = luma - luma.mean()
    bins = small.astype(np.int32) >> 5
    index = (bins[..., 0] << 6 | bins[..., 1] << 3 | bins[..., 2]).ravel()
    histogram = np.bincount(index, minlength=512) / index.size
    return _Signature(centred, float(np.square(centred).mean()), histogram)


def difference(a: _Signature, b: _Signature) -> float:
    """How different two pictures are, in [0, 1]; symmetric, 0 for equal ones."""
    noise = 4.0  # keeps two nearly even pictures from being told apart by their noise
    covariance = float((a.luma * b.luma).mean())
    correlation = (covariance + noise) / float(np.sqrt((a.variance + noise) * (b.variance + noise)))
    histogram = float(np.abs(a.histogram - b.histogram).sum()) / 2
    return (1 - min(max(correlation, 0.0), 1.0)) / 2 + histogram / 2


def is_dissolve(first: _Signature, between: list[_Signature], last: _Signature) -> bool:
    """Whether the pictures between are mixtures `(1 - a) first + a last`, with `a` growing."""
    change = last.luma - first.luma
    energy = float(np.square(change).sum())
    previous = 0.0
    for picture in between:
        moved = picture.luma - first.luma
        share = float((moved * change).sum()) / energy
        unexplained = float(np.square(moved - share * change).sum()) / energy
        if not previous + 0.03 < share < 0.97 or unexplained > _MIXTURE:
            return False
        previous = share
    return True


class ShotDetector:
    """Feed every decoded frame in order; get shot numbers back, `LOOKAHEAD` frames later.

    `threshold`: difference in [0, 1] at which a frame begins a shot. Lower splits more.
    """

    def __init__(self, threshold: float = DEFAULT_THRESHOLD) -> None:
        self.threshold = threshold
        self._frames: list[_Signature] = []
        """The last `DISSOLVE` + 1 signatures pushed."""
        self._steps: list[float] = []
        """The difference of each of them to the frame before."""
        self._pushed = 0
        self._settled = 0
        self._shot = 0
        self._last_cut: int | None = None
        self._flash_until = -1

    def push(self, small: NDArray[np.uint8]) -> list[int]:
        """Add a picture of shape (36, 64, 3); return the shots of frames that are settled by it (0 or 1)."""
        current = signature(small)
        self._steps.append(difference(self._frames[-1], current) if self._frames else 0.0)
        self._frames.append(current)
        self._pushed += 1
        del self._frames[: -DISSOLVE - 1], self._steps[: -DISSOLVE - 1]
        return [self._settle()] if self._pushed > self._settled + LOOKAHEAD else []

    def finish(self) -> list[int]:
        """The shots of the frames not yet settled."""
        return [self._settle() for _ in range(self._pushed - self._settled)]

    def _settle(self) -> int:
        index = self._settled
        position = len(self._frames) - (self._pushed - index)
        since = index + 2 * DISSOLVE if self._last_cut is None else index - self._last_cut
        if position > 0 and (self._is_cut(position, index) or self._is_dissolve(since)):
            # Cuts that follow at once (over one black frame) are one change.
            if self._last_cut is None or since >= LOOKAHEAD:
                self._shot += 1
            self._last_cut = index
        self._settled += 1
        return self._shot

    def _is_cut(self, position: int, index: int) -> bool:
        if index <= self._flash_until:
            return False
        before, current = self._frames[position - 1], self._frames[position]
        if before.flat and not current.flat:
            return True
        step = self._steps[position]
        if step < self.threshold:
            return False
        around = [*self._steps[max(position - 2, 1) : position], *self._steps[position + 1 : position + 3]]
        if around and step < _STANDS_OUT * median(around):
            return False
        if any(difference(frame, current) < self.threshold / 2 for frame in self._frames[: position - 1][-LOOKAHEAD:]):
            return False  # the end of a flash that began below the threshold
        for later, frame in enumerate(self._frames[position + 1 : position + 1 + LOOKAHEAD], start=index + 1):
            if difference(before, frame) < self.threshold / 2:
                self._flash_until = later
                return False
        return True

    def _is_dissolve(self, since: int) -> bool:
        """Looked for once the window is full and away from the last change, a long dissolve being one change."""
        first, last = self._frames[0], self._frames[-1]
        if len(self._frames) <= DISSOLVE or since <= 2 * DISSOLVE or first.flat or last.flat:
            return False
        if difference(first, last) < self.threshold:
            return False
        # Three near the middle, so that a dissolve half as long as the window is seen.
        return is_dissolve(first, [self._frames[DISSOLVE // 2 + offset] for offset in (-2, 0, 2)], last)
