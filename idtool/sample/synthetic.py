"""Making synthetic people: who they are, how they move, and which of their files are bad on purpose.

Each person is a style of the portrait network. A short video is a walk of that style along the directions of yaw
and smile in the coarse layers; every frame comes from the network. Portraits of the same person differ in yaw, smile,
hair, and in light and colours (fine layers of another style). The amounts are measured, not hoped for: a change
that costs too much of the identity, by the face network, is made smaller.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from idtool.errors import RunFailed
from idtool.media.images import encode
from idtool.models.faces import Face, Scrfd
from idtool.models.identity import ArcFaceMobile, align
from idtool.models.portraits import HAIR, PITCH, SMILE, YAW, Latent, MobileStyleGan

Image = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]
Announce = Callable[[str], None]

VERSION = 1
"""Raised whenever the same seed gives other files."""
STREAM = 18
"""Which random people there are; chosen by looking, so that those of seed 0 are adults of several kinds."""
FRAMES, FPS = 12, 10
PSI = 0.6
WALK = (1.6, 1.3, 1.1, 0.9, 0.7)
"""Amounts of yaw that are tried for the video, from its middle to either end."""
VARIANTS: tuple[tuple[dict[int, float], float], ...] = (
    ({YAW: 2.2, SMILE: -1.6}, 0.5),
    ({YAW: -1.8, PITCH: 1.2, SMILE: 1.4}, 0.8),
    ({HAIR: -1.4, PITCH: -1.6}, 0.65),
)
"""Portraits after the first: amounts along directions, and the share of another style in the fine layers."""
AS_THEY_ARE = ("portrait_1.png", "copy_of_portrait_1.png")
"""Files of a person's style without any change; the second is one of the bad ones."""
WALK_SAME, PORTRAIT_SAME = 0.81, 0.5
"""Cosines of ArcFace MobileFaceNet, at least, between the ends of a walk and between the portraits of a person."""
DIFFERENT, CHANGED_DIFFERENT = 0.22, 0.32
"""The same, at most, between people as they are, and between their changed portraits and walks."""
TURNED = 0.15
"""Nose off the middle of the eyes, as a share of their distance, up to which a face can be turned to both sides."""


def settings() -> list[object]:
    """All that the pictures depend on besides the networks, the number of people and the seed."""
    limits = [WALK_SAME, PORTRAIT_SAME, DIFFERENT, CHANGED_DIFFERENT, TURNED]
    return [VERSION, STREAM, FRAMES, FPS, PSI, WALK, str(VARIANTS), *limits]


@dataclass(frozen=True, eq=False)
class _Seen:
    """A portrait with its only face and that face's normalised embedding."""

    image: Image
    face: Face
    embedding: Floats


@dataclass(frozen=True, eq=False)
class _Person:
    style: Floats
    number: int
    first: _Seen


class Maker:
    """Makes the people of one sample."""

    def __init__(self, seed: int, say: Announce) -> None:
        self.seed, self.say = seed, say
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        say(f"Making the built-in sample of synthetic people on {min(cores, 8)} cores; this is done once.")
        self.network = MobileStyleGan(threads=min(cores, 8))
        self.detector, self.embedder = Scrfd(), ArcFaceMobile()

    def make(self, folder: Path, count: int) -> list[tuple[str, str, str]]:
        """Write everything below `folder`; (relative path, identity, latent) of each file. The latent is that of people
        as they are, empty for all other pictures: what was moved once is at the edge of what the network draws well."""
        rows: list[tuple[str, str, str]] = []
        everyone = self._people(count)
        known = {person.number: [person.first] for person in everyone}
        for index, person in enumerate(everyone):
            label = f"person_{index + 1:02d}"
            self.say(f"Sample: {label} of {count}, {FRAMES} frames and {1 + len(VARIANTS)} portraits.")
            home = folder / "people" / label
            home.mkdir(parents=True)
            others = [seen for number, views in known.items() if number != person.number for seen in views]
            frames, ends = self._walk(person, others)
            write_mp4(home / "walk.mp4", frames, FPS)
            portraits = self._portraits(person, others)
            known[person.number] = portraits + ends
            for position, seen in enumerate(portraits):
                _write(home / f"portrait_{position + 1}.png", seen.image)
            self._spoil(index, home, portraits)
            latent = str(self._latent(person.number))
            rows += [
                (file.relative_to(folder).as_posix(), label, latent if file.name in AS_THEY_ARE else "")
                for file in sorted(home.iterdir())
            ]
        (folder / "mixed").mkdir()
        pair = np.concatenate([person.first.image for person in everyone[:2]], axis=1)
        _write(folder / "mixed" / "two_people.png", pair)
        return [*rows, ("mixed/two_people.png", "", "")]

    def _people(self, count: int) -> list[_Person]:
        """People whose faces the face network tells apart, in the order of their numbers."""
        found: list[_Person] = []
        for start in range(0, 20 * count, count):
            styles = [self._style(number) for number in range(start, start + count)]
            for number, image in enumerate(self.network.render([self.network.layered(s) for s in styles]), start):
                seen = self._look(image)
                if seen is None or _turned(seen.face) > TURNED:
                    continue
                if any(_cosine(seen, person.first) > DIFFERENT for person in found):
                    continue
                found.append(_Person(styles[number - start], number, seen))
                if len(found) == count:
                    return found
        raise RunFailed(f"Only {len(found)} of {count} synthetic people could be told apart.", "Ask for fewer people.")

    def _walk(self, person: _Person, others: Sequence[_Seen]) -> tuple[list[Image], list[_Seen]]:
        """Frames of a head that turns from one side to the other and smiles on the way; and its two ends."""
        times = np.linspace(0.0, 1.0, FRAMES)
        for amount in WALK:
            moves = [{YAW: -amount * np.cos(np.pi * t), SMILE: -0.8 * amount * np.sin(np.pi * t)} for t in times]
            path = [self.network.moved(person.style, move) for move in moves]
            images = self.network.render([path[0], path[-1]])
            ends = [seen for seen in map(self._look, images) if seen is not None]
            if len(ends) == 2 and _cosine(*ends) >= WALK_SAME and _apart(ends, others):
                break
        return [images[0], *self.network.render(path[1:-1]), images[1]], ends

    def _portraits(self, person: _Person, others: Sequence[_Seen]) -> list[_Seen]:
        """The person as they are, then each variant as strong as the identity bears."""
        portraits = [person.first]
        for position, (moves, mix) in enumerate(VARIANTS):
            other = self._style(person.number, 1 + position)
            for strength in (1.0, 0.8, 0.6, 0.4):
                layered = self.network.moved(person.style, {k: strength * v for k, v in moves.items()})
                fine = layered[self.network.FINE]
                layered[self.network.FINE] = fine + strength * mix * (other - fine)
                seen = self._look(self.network.render([layered])[0])
                if seen is None or not _apart([seen], others):
                    continue
                if all(_cosine(seen, earlier) >= PORTRAIT_SAME for earlier in portraits):
                    portraits.append(seen)
                    break
        return portraits

    def _spoil(self, index: int, home: Path, portraits: Sequence[_Seen]) -> None:
        """One kind of bad file per person, made of their portraits; people after the sixth have none."""
        import cv2

        first, last = portraits[0], portraits[-1]
        height, width = first.image.shape[:2]
        if index == 0:
            _write(home / "blurred.png", cv2.GaussianBlur(last.image, (0, 0), width / 100))
            shutil.copyfile(home / AS_THEY_ARE[0], home / AS_THEY_ARE[1])
        elif index == 1:
            _write(home / "small.png", cv2.resize(last.image, (width // 2, height // 2), interpolation=cv2.INTER_AREA))
            _write(home / "portrait_1_saved_again.jpg", first.image)
        elif index == 2:
            _write(home / "sunglasses.png", _sunglasses(last))
        elif index == 3:
            _write(home / "dark.png", (last.image * 0.08).astype(np.uint8))

    def _style(self, number: int, variant: int = 0) -> Floats:
        """The truncated style of a person, or of the stranger who lends a variant its colours."""
        return self.network.drawn(self._latent(number, variant))

    def _latent(self, number: int, variant: int = 0) -> Latent:
        return Latent((self.seed, number, variant, STREAM), PSI)

    def _look(self, image: Image) -> _Seen | None:
        """None unless there is exactly one face."""
        (faces,) = self.detector.detect([image])
        if len(faces) != 1:
            return None
        embedding = self.embedder.embed(align(image, faces[0].kps))[0]
        return _Seen(image, faces[0], embedding / np.linalg.norm(embedding))


def _turned(face: Face) -> float:
    """How far the nose is off the middle of the eyes along their line, as a share of their distance."""
    left, right, nose = face.kps[0], face.kps[1], face.kps[2]
    line = right - left
    return abs(float((nose - (left + right) / 2) @ line / (line @ line)))


def _cosine(a: _Seen, b: _Seen) -> float:
    return float(a.embedding @ b.embedding)


def _apart(views: Sequence[_Seen], others: Sequence[_Seen]) -> bool:
    """Whether the face network takes none of the views for one of the others."""
    return all(_cosine(view, other) <= CHANGED_DIFFERENT for view in views for other in others)


def _sunglasses(seen: _Seen) -> Image:
    """The portrait with both eyes behind dark glasses."""
    import cv2

    image = seen.image.copy()
    left, right = seen.face.kps[0].astype(float), seen.face.kps[1].astype(float)
    apart = float(np.linalg.norm(right - left))
    tilt = float(np.degrees(np.arctan2(right[1] - left[1], right[0] - left[0])))
    axes, dark = (round(0.43 * apart), round(0.34 * apart)), (18, 18, 20)
    for eye in (left, right):
        cv2.ellipse(image, (round(eye[0]), round(eye[1])), axes, tilt, 0, 360, dark, -1, cv2.LINE_AA)
    ends = [(round(eye[0]), round(eye[1] - 0.1 * apart)) for eye in (left, right)]
    cv2.line(image, ends[0], ends[1], dark, max(2, round(0.06 * apart)), cv2.LINE_AA)
    return image


def _write(path: Path, image: Image) -> None:
    """PNG, or JPEG by the suffix; without metadata, so that the bytes depend on the pixels alone."""
    path.write_bytes(encode(image, "jpeg", 80) if path.suffix == ".jpg" else encode(image, "png"))


def write_mp4(path: Path, frames: Sequence[Image], fps: int) -> None:
    """RGB uint8 frames of one size (H, W, 3), even sides, to an H.264 video whose bytes depend on them alone."""
    import av

    height, width = frames[0].shape[:2]
    with av.open(str(path), "w", format="mp4", container_options={"fflags": "+bitexact"}) as container:
        options = {"crf": "16", "preset": "medium", "threads": "1", "flags": "+bitexact"}
        stream = container.add_stream("libx264", rate=fps, options=options)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.codec_context.thread_count = 1
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))
