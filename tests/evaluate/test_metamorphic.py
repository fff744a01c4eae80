"""Metrics move the way their definitions say, and stay where nothing of theirs changed: real photos, real networks.

docs/metrics_seen.md has the figures of more photos (`perf/metamorphic.py`); the bounds here leave room.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.evaluate import offline
from tests.evaluate.metamorphic import EDITS, FAMILIES, SWAPS, Seen, changed, see

pytestmark = [pytest.mark.offline_weights, pytest.mark.fixtures]
PEOPLE = ("bengio", "cb_id1", "yangmi")
COPIES = ("blur", "noise", "colour", "jpeg", "crop", "flip")
NETWORKS = ("facesim/arcface-mbf", "facesim/edgeface-s")
PARTS = (
    "copy_paste_pose/face-landmarker",
    "copy_paste_expression/facex",
    "copy_paste_framing",
    "copy_paste_background/sscd",
)


@pytest.fixture(scope="module")
def seen(fixtures: Path, tmp_path_factory: pytest.TempPathFactory) -> Seen:
    folder = tmp_path_factory.mktemp("metamorphic")
    return see(folder / "seen", changed(folder, fixtures, PEOPLE), FAMILIES, offline.env())


def mean(seen: Seen, metric: str, change: str) -> float:
    changes = seen.changes(metric, change)
    assert len(changes) == (5 if change == "other expression" else len(PEOPLE)), (metric, change)
    return float(changes.mean())


def test_an_unchanged_copy_has_what_a_copy_has(seen: Seen) -> None:
    for metric in (*NETWORKS, *PARTS, "copy_paste/sscd", "face_found", "pose/face-landmarker"):
        assert seen.pairs(metric, "unchanged")[:, 0] == pytest.approx(1, abs=1e-3), metric


@pytest.mark.parametrize("metric", NETWORKS)
def test_facesim_minds_who_it_is_and_little_else(seen: Seen, metric: str) -> None:
    other = seen.changes(metric, "other person")
    assert other.max() < -0.7  # measured: -.83 at most, -1.0 in the middle
    for change in COPIES:
        assert seen.changes(metric, change).min() > -0.35, change
    assert mean(seen, metric, "colour") > -0.08
    assert mean(seen, metric, "flip") > -0.08
    # Another occasion costs more than a bad camera's colours, and less than another person.
    assert other.mean() + 0.4 < mean(seen, metric, "other photo") < mean(seen, metric, "colour")
    assert other.mean() + 0.3 < mean(seen, metric, "other expression") < -0.2


def test_copy_paste_falls_for_another_photo_and_hardly_for_an_edit(seen: Seen) -> None:
    for change in ("colour", "jpeg", "noise"):
        assert mean(seen, "copy_paste/sscd", change) > -0.2, change
    for change in ("other photo", "other person"):
        assert mean(seen, "copy_paste/sscd", change) < -0.25, change
        assert seen.changes("copy_paste_background/sscd", change).max() < -0.35, change
    assert mean(seen, "copy_paste_background/sscd", "flip") > -0.15  # a mirror image is a copy


def test_each_part_of_copy_paste_sees_its_own(seen: Seen) -> None:
    assert mean(seen, "copy_paste_framing", "crop") < -0.35
    assert mean(seen, "copy_paste_pose/face-landmarker", "crop") > -0.1
    assert mean(seen, "copy_paste_framing", "jpeg") > -0.05
    # She pulls faces where she stands: the expression is another one, the place stays.
    assert mean(seen, "copy_paste_expression/facex", "other expression") < -0.8
    background = "copy_paste_background/sscd"
    assert mean(seen, background, "other expression") > mean(seen, background, "other photo") + 0.15


def test_expr_and_pose_see_what_was_asked_for(seen: Seen) -> None:
    assert mean(seen, "expr/facex", "other expression") < -0.8
    assert mean(seen, "expr/facex", "colour") > -0.2
    for change in (*COPIES, "other expression"):
        assert mean(seen, "pose/face-landmarker", change) == 0, change


def test_quality_and_sharpness_see_blur(seen: Seen) -> None:
    assert seen.changes("quality/qualityface", "blur").max() < -0.15
    for change in ("colour", "jpeg", "flip"):
        assert abs(mean(seen, "quality/qualityface", change)) < 0.1, change
    blurred = seen.pairs("sharpness", "blur")
    assert (blurred[:, 0] < 0.4 * blurred[:, 1]).all()
    mirrored = seen.pairs("sharpness", "flip")
    assert mirrored[:, 0] == pytest.approx(mirrored[:, 1], rel=1e-3)


def test_no_change_hides_the_face(seen: Seen) -> None:
    for change in (*EDITS, *SWAPS):
        assert (seen.pairs("face_found", change)[:, 0] == 1).all(), change
