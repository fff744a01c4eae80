"""References of requests: decoded and looked at once each, however many requests name them."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from idtool.engine.operator import Rejected
from idtool.generate.method import Image, Person
from idtool.media import images, store
from idtool.media.paths import from_uri, printable
from idtool.models.faces import Face

T = TypeVar("T")
KEPT = 32
"""Decoded references that a worker holds."""


@dataclass(frozen=True)
class FaceRule:
    """What a reference's face must be like."""

    several: str = "refuse"
    """A reference with more than one face: `refuse`, or `largest`."""
    smallest: int = 48
    """Shorter side of the face box in pixels, at least."""
    second: float = 0.25
    """Another face counts from this share of the largest one's area on: strangers far behind are no second person."""


class References:
    """Turns uris into people. Safe for several threads."""

    def __init__(self, detector: Any = None, rule: FaceRule | None = None) -> None:
        self._detector, self.rule = detector, rule or FaceRule()
        self._images: _Recent[Image] = _Recent()
        self._faces: _Recent[list[Face]] = _Recent()

    def person(
        self, uri: str, label: str | None = None, box: tuple[float, ...] | None = None, *, face: bool = False
    ) -> Person:
        """A reference with its picture and, when `face` is asked for, its face.

        Raises Rejected: `missing_file`, `unreadable` and the like for the picture; `reference.no_face`,
        `reference.several_faces`, `reference.small_face`.
        """
        image = self._images.get(uri, lambda: images.decode(store.open_bytes(uri)))
        found = self._face(uri, image) if face else None
        place = None if box is None else (box[0], box[1], box[2], box[3])
        return Person(uri, image, found, label, place)

    def _face(self, uri: str, image: Image) -> Face:
        if self._detector is None:
            raise ValueError("this method needs faces, and no detector was loaded")
        faces = self._faces.get(uri, lambda: self._detector.detect([image])[0])
        name = printable(from_uri(uri)).rpartition("/")[2]
        if not faces:
            raise Rejected("reference.no_face", f"no face was found in the reference {name}", value=0.0, threshold="1")
        large = [face for face in faces if face.area >= self.rule.second * faces[0].area]
        if len(large) > 1 and self.rule.several == "refuse":
            raise Rejected(
                "reference.several_faces",
                f"the reference {name} shows {len(large)} faces; crop it, or set references.several=largest",
                value=float(len(large)),
                threshold="1",
            )
        box = faces[0].box
        side = float(min(box[2] - box[0], box[3] - box[1]))
        if side < self.rule.smallest:
            raise Rejected(
                "reference.small_face",
                f"the face in the reference {name} is {side:.0f} pixels wide",
                value=side,
                threshold=f">= {self.rule.smallest}",
            )
        return faces[0]


class _Recent(Generic[T]):
    """The values of the last `KEPT` keys."""

    def __init__(self) -> None:
        self._values: OrderedDict[str, T] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: str, make: Callable[[], T]) -> T:
        with self._lock:
            if key in self._values:
                self._values.move_to_end(key)
                return self._values[key]
        value = make()
        with self._lock:
            self._values[key] = value
            while len(self._values) > KEPT:
                self._values.popitem(last=False)
        return value
