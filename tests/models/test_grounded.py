"""Text to masks: the two models together, and what is dropped from what they find."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from idtool.engine.step import Binding
from idtool.errors import UsageError
from idtool.models import load
from idtool.models.grounded import Grounded, Region
from idtool.models.grounder import Found
from idtool.models.segmenter import Masks
from tests.zoo import Zoo


class Boxes:
    """Finds the same boxes in every image."""

    def __init__(self, *found: tuple[str, float, tuple[float, ...]]) -> None:
        self.found = found

    def detect(self, images: Sequence[Any], phrases: Sequence[Sequence[str]]) -> list[list[Found]]:
        return [[Found(label, score, np.array(box, np.float32)) for label, score, box in self.found] for _ in images]


class Fills:
    """Masks that fill their boxes."""

    def segment(self, images: Sequence[Any], boxes: Sequence[Any]) -> list[Masks]:
        out = []
        for image, some in zip(images, boxes, strict=True):
            masks = np.zeros((len(some), *image.shape[:2]), bool)
            for mask, (left, top, right, bottom) in zip(masks, np.asarray(some, int), strict=True):
                mask[top:bottom, left:right] = True
            out.append(Masks(masks, np.ones(len(some), np.float32)))
        return out


IMAGE = np.zeros((100, 100, 3), np.uint8)


def labels(found: list[Region]) -> list[tuple[str, float]]:
    return [(one.label, one.score) for one in found]


def test_overlapping_boxes_of_one_label_are_one_object() -> None:
    boxes = Boxes(
        ("hat", 0.5, (0, 0, 40, 40)),
        ("hat", 0.9, (2, 2, 42, 42)),  # the same hat, surer
        ("hat", 0.4, (60, 60, 90, 90)),
        ("hair", 0.3, (0, 0, 40, 40)),  # another label may lie there
    )
    found = Grounded(boxes, Fills()).regions([IMAGE], [["hat", "hair"]])[0]
    assert labels(found) == [("hat", 0.9), ("hat", 0.4), ("hair", 0.3)]
    assert found[0].mask.sum() == 1600
    assert found[0].box.tolist() == [2, 2, 42, 42]
    assert len(Grounded(boxes, Fills(), overlap=1.0).regions([IMAGE], [["hat", "hair"]])[0]) == 4


def test_small_masks_and_boxes_cut_to_nothing_are_dropped() -> None:
    boxes = Boxes(("a", 0.9, (0, 0, 7, 7)), ("b", 0.8, (0, 0, 8, 8)), ("c", 0.7, (100, 0, 100, 50)))
    assert labels(Grounded(boxes, Fills()).regions([IMAGE], [["a", "b", "c"]])[0]) == [("b", 0.8)]
    assert labels(Grounded(boxes, Fills(), min_area=0).regions([IMAGE], [["a"]])[0]) == [("a", 0.9), ("b", 0.8)]


def test_masks_are_cut_to_the_subject() -> None:
    boxes = Boxes(("in", 0.9, (0, 0, 50, 50)), ("half", 0.8, (10, 40, 50, 60)), ("out", 0.7, (50, 50, 99, 99)))
    subject = np.zeros((100, 100), bool)
    subject[:50, :50] = True
    limited, free = Grounded(boxes, Fills()).regions([IMAGE, IMAGE], [["in"], ["in"]], [subject, None])
    assert [(one.label, int(one.mask.sum())) for one in limited] == [("in", 2500), ("half", 400)]
    assert [one.label for one in free] == ["in", "half", "out"]
    # A share of the subject's area, not of the image's.
    assert labels(Grounded(boxes, Fills(), min_area=0.2).regions([IMAGE], [["in"]], [subject])[0]) == [("in", 0.9)]
    with pytest.raises(ValueError, match="subject's mask"):
        Grounded(boxes, Fills()).regions([IMAGE], [["in"]], [subject[:10]])
    with pytest.raises(ValueError):
        Grounded(boxes, Fills()).regions([IMAGE], [["in"]], [])


def test_settings() -> None:
    with pytest.raises(UsageError, match="role grounder"):
        Grounded(None, Fills())
    with pytest.raises(UsageError, match="min_area"):
        Grounded(Boxes(), Fills(), min_area=50)
    assert Grounded(Boxes(), Fills()).regions([IMAGE], [["a"]]) == [[]]


@pytest.mark.parametrize("segmenter", ["sam", "sam2"])
def test_two_networks_together(tiny: Zoo, segmenter: str) -> None:
    tiny("grounding-dino"), tiny(segmenter)
    options = {"format": "grounding-dino", "threshold": 0.0, "text_threshold": 0.0}
    grounder = load(Binding("grounder", "hf:tiny/grounding-dino", options=options))
    both = Grounded(grounder, load(Binding("segmenter", f"hf:tiny/{segmenter}", options={"format": "sam"})))
    images = [np.random.default_rng(n).integers(0, 256, (90, 120, 3)).astype(np.uint8) for n in (1, 2)]
    found = both.regions(images, [["red hat", "face"], []])
    assert found[1] == []
    assert 0 < len(found[0]) <= 10
    assert all(one.mask.shape == (90, 120) and one.mask.mean() >= 0.005 for one in found[0])
    facts = both.fingerprint()
    assert facts["grounder"]["model"] == "hf:tiny/grounding-dino"
    assert facts["overlap"] == 0.5


def test_sam3_needs_no_grounder(tiny: Zoo) -> None:
    tiny("sam3")
    options = {"format": "sam3", "threshold": 0.0}
    both = Grounded(None, load(Binding("segmenter", "hf:tiny/sam3", options=options)))
    image = np.random.default_rng(1).integers(0, 256, (90, 120, 3)).astype(np.uint8)
    found = both.regions([image], [["red hat", "face"]])[0]
    assert {one.label for one in found} == {"red hat", "face"}
    assert "grounder" not in both.fingerprint()
