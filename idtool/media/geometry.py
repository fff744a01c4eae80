"""How a stored video frame is to be shown: display matrix and pixel aspect ratio."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, cast

import numpy as np

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer as Buffer
    from av.video.frame import VideoFrame
    from av.video.reformatter import VideoReformatter
    from av.video.stream import VideoStream
    from numpy.typing import NDArray

_BT709, _BT601, _UNSPECIFIED = 1, 5, 2
"""Matrix coefficients as ITU-T H.273 numbers them."""


@dataclass(frozen=True)
class Geometry:
    """Scale a stored frame to `width` x `height` square pixels, then transpose, then mirror."""

    width: int
    height: int
    transpose: bool = False
    mirror_x: bool = False
    mirror_y: bool = False

    @classmethod
    def of(cls, frame: VideoFrame, stream: VideoStream) -> Geometry:
        """From the first frame. Angles that are no multiple of 90 degrees are rounded to one."""
        aspect = Fraction(stream.sample_aspect_ratio or 1)
        width, height = frame.width, frame.height
        # The axis with the coarser pixels is stretched, so that no detail is lost; absurd ratios are ignored.
        if 1 < aspect <= 4:
            width = round(width * aspect)
        elif Fraction(1, 4) <= aspect < 1:
            height = round(height / aspect)
        side = frame.side_data.get("DISPLAYMATRIX")
        if side is None:
            return cls(width, height)
        # Row-vector convention, 16.16 fixed point: x' = a x + c y, y' = b x + d y (ISO 14496-12, 6.2.2).
        a, b, _, c, d = np.frombuffer(bytes(cast("Buffer", side))[:20], np.int32).tolist()
        if abs(b) > abs(a):
            return cls(width, height, True, c < 0, b < 0)
        return cls(width, height, False, a < 0, d < 0)

    @property
    def shown(self) -> tuple[int, int]:
        """Width and height as shown."""
        return (self.height, self.width) if self.transpose else (self.width, self.height)

    @property
    def rotation(self) -> int:
        """Degrees counter-clockwise, for a matrix that mirrors nothing."""
        if self.transpose:
            return 90 if self.mirror_y else 270
        return 180 if self.mirror_x and self.mirror_y else 0

    def rgb(self, frame: VideoFrame, reformatter: VideoReformatter) -> NDArray[np.uint8]:
        """The frame as RGB (H, W, 3), as shown; deeper pixels reduced to 8 bit, no tone mapping."""
        from av.video.reformatter import Interpolation

        matrix = frame.colorspace
        if matrix == _UNSPECIFIED:  # what players assume: BT.709 for HD, BT.601 below
            matrix = _BT709 if frame.height >= 720 else _BT601
        known = matrix if matrix in (_BT709, _BT601) else None
        converted = reformatter.reformat(
            frame, self.width, self.height, "rgb24", src_colorspace=known, interpolation=Interpolation.BICUBIC
        )
        pixels = cast("NDArray[np.uint8]", converted.to_ndarray())
        if self.transpose:
            pixels = pixels.transpose(1, 0, 2)
        if self.mirror_y:
            pixels = pixels[::-1]
        if self.mirror_x:
            pixels = pixels[:, ::-1]
        return np.ascontiguousarray(pixels)
