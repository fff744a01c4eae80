"""Measures of every face: the same numbers as curation's measures of the largest one, face by face."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from idtool.engine.operator import Context
from idtool.evaluate.measures.base import Item
from idtool.evaluate.measures.expression import Expression
from idtool.evaluate.measures.faces import Faces
from idtool.evaluate.measures.landmarks import Landmarks
from idtool.evaluate.measures.people import People, PeopleIdentity
from idtool.evaluate.measures.people_expression import EXPRESSION_MEASURES, PeopleExpression, PeopleExpression2
from idtool.evaluate.measures.people_pose import PeopleMesh, PeoplePose
from idtool.evaluate.measures.pose import ANGLES, Pose
from idtool.models.expression import EXPRESSIONS
from tests.evaluate import offline
from tests.evaluate.offline import photo, see
from tests.zoo import Zoo
from tests.zoo.face_pack import drawn_person

BLANK = np.full((96, 128, 3), (60, 110, 90), np.uint8)


@pytest.mark.offline_weights
def test_numbers_of_the_largest_face_are_those_of_curation(fixtures: Path, tmp_path: Path) -> None:
    names = ("groups/lecun_hinton_bengio.png", "hard/expr_surprise.jpg")
    items = [Item({}, photo(fixtures / name)) for name in names] + [Item({}, BLANK)]
    for measure in (Faces, Landmarks, Expression, People, PeopleMesh, PeopleExpression):
        see(measure, offline.env(), items, tmp_path)
    assert [len(item.values["people_mesh_angles"]) for item in items] == [3, 1, 0]
    assert [len(item.values["people_expressions"]) for item in items] == [3, 1, 0]
    for item in items[:2]:
        values = item.values
        assert values["people_mesh_angles"][0] == pytest.approx([values["yaw"], values["pitch"], values["roll"]])
        assert values["people_blendshapes"][0] == pytest.approx(values["blendshapes"])
        assert values["people_expressions"][0] == pytest.approx(values["expressions"])
        assert np.sum(values["people_expressions"], axis=1) == pytest.approx(1, abs=1e-4)
    assert EXPRESSIONS[int(np.argmax(items[1].values["people_expressions"][0]))] == "surprise"


@pytest.mark.offline_weights
def test_each_face_goes_with_its_own_blendshapes(fixtures: Path, tmp_path: Path) -> None:
    """In a picture of three, every face has what it has when the others are not looked at."""
    items = [Item({}, photo(fixtures / "groups/lecun_hinton_bengio.png"))]
    for measure in (People, PeopleMesh, PeopleExpression):
        see(measure, offline.env(), items, tmp_path)
    together = items[0].values
    for face in range(3):
        alone = Item({name: together[name][face : face + 1] for name in People.writes.names[:3]}, items[0].image)
        for measure in (PeopleMesh, PeopleExpression):
            see(measure, offline.env(), [alone], tmp_path)
        for name in ("people_mesh_angles", "people_blendshapes", "people_expressions"):
            assert alone.values[name][0] == pytest.approx(together[name][face], abs=1e-5)
    bare = Item({name: together[name] for name in People.writes.names}, items[0].image)
    see(PeopleExpression, offline.env(), [bare], tmp_path)
    assert not np.allclose(bare.values["people_expressions"], together["people_expressions"], atol=1e-3)


def test_networks_of_other_profiles(tiny: Zoo, tmp_path: Path) -> None:
    """A head pose network of its own, and two expression networks that take no blendshapes."""
    from tests.zoo.profile import ROLES

    for name in ("face-pack", "resemotenet", "hsemotion"):
        tiny(name)
    bound = offline.bound({role: ROLES[role] for role in ("faces", "pose", "expression")})
    image = np.concatenate([drawn_person(0), drawn_person(1)], axis=1)
    items = [Item({}, image), Item({}, BLANK)]
    for measure in (People, Faces, Pose, PeoplePose, *EXPRESSION_MEASURES):
        assert measure.why_not(bound) is None
        see(measure, bound, items, tmp_path)
    faces = len(items[0].values["people_boxes"])
    assert faces >= 2
    rows = items[0].values["people_pose_angles"]
    assert np.shape(rows) == (faces, 3)
    assert rows[0] == pytest.approx([items[0].values[name] for name in ANGLES])
    one, other = (np.array(items[0].values[cls.writes.names[0]]) for cls in (PeopleExpression, PeopleExpression2))
    assert one.shape == other.shape == (faces, 7) and not np.allclose(one, other)
    assert one.sum(axis=1) == pytest.approx(1, abs=1e-4) and other.sum(axis=1) == pytest.approx(1, abs=1e-4)
    with_shapes = Item({**items[0].values, "people_blendshapes": [[0.5] * 52] * faces}, image)
    see(PeopleExpression, bound, [with_shapes], tmp_path)
    assert with_shapes.values["people_expressions"] == items[0].values["people_expressions"]


@pytest.mark.parametrize("measure", [PeopleMesh, PeopleExpression, PeopleIdentity, PeoplePose])
def test_a_profile_without_the_role_says_so(measure: type[PeopleMesh]) -> None:
    assert measure.why_not(offline.env("faces")) == f"needs role {measure.role}; profile offline binds none"


@pytest.mark.offline_weights
def test_a_number_that_is_not_finite_is_the_error_of_its_picture(fixtures: Path, tmp_path: Path) -> None:
    """And of its picture only."""
    picture = photo(fixtures / "hard/expr_surprise.jpg")
    good = Item({}, picture)
    see(People, offline.env(), [good], tmp_path)
    measure = PeopleMesh.made(offline.env())
    measure.load(Context(run_dir=str(tmp_path)))
    network = measure.model

    class Broken:
        """The real network, with one angle lost."""

        def __call__(self, images: list[np.ndarray], faces: list[object]) -> list[object]:
            from dataclasses import replace

            found = network(images, faces)
            return [replace(found[0], pitch=float("nan")), *found[1:]]

    measure.model = Broken()
    broken, fine = measure([Item(good.values, picture), Item(good.values, picture)])
    assert isinstance(broken, ValueError) and "not finite" in str(broken)
    assert len(fine["people_mesh_angles"]) == 1
