"""Reference pictures, judged before a benchmark rests on them: readable, with one face that is large enough."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from idtool.evaluate.identities import Identity
from idtool.evaluate.samples import key_of
from idtool.evaluate.scoring import Seen
from idtool.evaluate.suite_model import Suite
from idtool.generate.references import FaceRule
from idtool.media.paths import from_uri, printable


@dataclass(frozen=True)
class Problem:
    """A reference that does not do, and one sentence why."""

    uri: str
    label: str
    """Whose reference it is."""
    text: str

    def __str__(self) -> str:
        return self.text


def check(identities: Iterable[Identity], features: Seen, suite: Suite | None = None) -> list[Problem]:
    """Everything that is wrong with the references of some people, in their order. `features`: measure `people` of each
    (of any measure, where the suite takes any subjects). A second face counts from a quarter of the largest one's area
    on, as for generators; the smallest face is the suite's. A picture that nobody looked at is a problem too."""
    smallest = suite.identities.smallest_face if suite else FaceRule().smallest
    faces = suite is None or suite.subjects == "faces"
    rule = FaceRule(smallest=smallest)
    return [
        Problem(uri, one.label, why)
        for one in identities
        for uri in one.references
        for why in _problem(uri, features, rule if faces else None)
    ]


def _problem(uri: str, features: Seen, rule: FaceRule | None) -> Iterator[str]:
    """At most one sentence."""
    key, name = key_of(uri), printable(from_uri(uri))
    if why := next(iter(features.why.get(key, {}).values()), None):
        yield f"{name} cannot be used: {why}"
    elif key not in features.rows or (rule and "people_boxes" not in features.rows[key]):
        yield f"{name} was not looked at"
    elif rule:
        yield from _faces(name, features.rows[key], rule)


def _faces(name: str, columns: Mapping[str, Any], rule: FaceRule) -> Iterator[str]:
    boxes = columns["people_boxes"]
    if not boxes:
        yield f"{name} shows no face"
        return
    areas = [_area(box) for box in boxes]
    large = [area for area in areas if area >= rule.second * max(areas)]
    side = min(_sides(boxes[areas.index(max(areas))]))
    if len(large) > 1:
        yield f"{name} shows {len(large)} faces: crop it to one person"
    elif side < rule.smallest:
        yield f"{name}: the face is {side:.0f} pixels wide, less than {rule.smallest}"


def _sides(box: Sequence[float]) -> tuple[float, float]:
    left, top, right, bottom = box
    return right - left, bottom - top


def _area(box: Sequence[float]) -> float:
    width, height = _sides(box)
    return width * height
