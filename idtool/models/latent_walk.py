"""Image to video without a video network: the portrait network walks on from a picture that it made.

A portrait is a style; the walk turns the head to one side and to the other and changes the smile, by small amounts
along directions of the coarse layers (`idtool.models.portraits`). It needs the picture's latent, which the built-in
sample tells: what drew another network's picture, or a camera's, cannot be read off its pixels.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from idtool.errors import UsageError
from idtool.models.crops import check
from idtool.models.image_to_video import Size, fitting, framed
from idtool.models.portraits import PITCH, SMILE, YAW, Latent, MobileStyleGan

Image = npt.NDArray[np.uint8]

VERSION = 1
"""Raised whenever the same arguments give other frames."""
AMOUNTS = {YAW: 1.4, SMILE: 2.0, PITCH: 0.8}
"""Farthest from the portrait along each direction, drawn up to `VARIED` more or less. Measured on 16 people, 6 frames
each, by ArcFace MobileFaceNet: first to last frame .75 in the middle and .63 at least, any two frames .51 at least
(one person: .38); 54 % of the pairs between .8 and .95, where frames of a clip make a training pair, 3 % above. SSCD:
.77 from first to last, .88 between neighbours, over .85 in a third of the pairs. Yaw changes by 12 degrees. (All in the
middle.) With less of the smile nothing but yaw changes to the eye; with half as much again, first to last is .66."""
VARIED = 0.15
NEAR = 3.0
"""Mean difference (of 255) up to which a picture is the one that its latent makes. Of five portraits, saved as JPEG:
1.9 at most at quality 80, 2.4 at 60; another person is over 30."""


class OtherPictureError(ValueError):
    """The latent makes another picture than the one it is said to be of."""

    def __init__(self, difference: float) -> None:
        super().__init__(f"the latent makes another picture: they differ by {difference:.1f} of 255 on average")
        self.difference = difference


class LatentWalk:
    """Clips of portraits by MobileStyleGAN. Safe to call from several threads."""

    roles: ClassVar[tuple[str, ...]] = ("i2v",)

    def __init__(self, *, device: str = "cpu", threads: int = 1, fps: float = 10.0) -> None:
        """`fps`: frames a second of the clips. A walk goes all the way, in however many frames."""
        if not (isinstance(fps, int | float) and 0 < fps <= 1000):
            raise UsageError(f"Option `fps` of the latent walk is above 0, at most 1000. Got {fps!r}.")
        self.network = MobileStyleGan(device=device, threads=threads)
        self.fps = float(fps)

    def size(self, shape: Size, area: int) -> Size:
        """Width and height of a clip of a picture of that width and height: its own, or even ones of at most `area`
        pixels."""
        return shape if shape[0] * shape[1] <= area and not (shape[0] % 2 or shape[1] % 2) else fitting(shape, area, 2)

    def frames(self, seconds: float) -> int:
        """The number of frames of so many seconds, at least two."""
        return max(2, round(seconds * self.fps))

    def __call__(self, image: Image, latent: Latent, seed: int, frames: int) -> Image:
        """`frames` (N, H, W, 3) uint8: the RGB uint8 `image` (H, W, 3) itself, then the walk from it, in its size.

        The same arguments give the same pixels on machines with the same libraries and processor features.
        OtherPictureError when `image` is not what `latent` makes, by more than `NEAR`; ValueError for fewer than two
        frames.
        """
        check(image)
        if frames < 2:
            raise ValueError(f"A walk has at least 2 frames. Got {frames}")
        style = self.network.drawn(latent)
        [own] = self._rendered([self.network.layered(style)], image)
        difference = float(np.abs(own.astype(np.int16) - image).mean())
        if difference > NEAR:
            raise OtherPictureError(difference)
        path = walk(seed, frames)
        return np.stack([image, *self._rendered([self.network.moved(style, moves) for moves in path[1:]], image)])

    def fingerprint(self) -> dict[str, Any]:
        """What the clips depend on besides their arguments."""
        return {**MobileStyleGan.fingerprint(), "walk": VERSION, "fps": self.fps}

    def _rendered(self, styles: list[npt.NDArray[np.float32]], like: Image) -> list[Image]:
        height, width = like.shape[:2]
        return [framed(image, (width, height)) for image in self.network.render(styles)]


def walk(seed: int, frames: int) -> list[dict[int, float]]:
    """Amounts along directions for each frame, the first all 0. The head turns to one side, back, and to the other; the
    smile grows or fades all along; the head nods once. Sides and amounts are drawn."""
    draw = np.random.default_rng([seed, VERSION])
    most = {
        direction: float(draw.choice((-1.0, 1.0)) * draw.uniform(1 - VARIED, 1 + VARIED)) * amount
        for direction, amount in AMOUNTS.items()
    }
    path = []
    for t in np.linspace(0.0, 1.0, frames):
        shape = {YAW: math.sin(1.5 * math.pi * t), SMILE: (1 - math.cos(math.pi * t)) / 2, PITCH: math.sin(math.pi * t)}
        path.append({direction: most[direction] * shape[direction] for direction in most})
    return path
