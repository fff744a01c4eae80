"""The face swapper: the package's own class draws the same, the rest of the picture stays, other files are refused."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from idtool.engine.step import Binding
from idtool.errors import MissingError, UsageError
from idtool.models import alignment, load
from idtool.models.faces import Face
from tests.zoo import Zoo
from tests.zoo.face_pack import POINTS, Graph, drawn_person
from tests.zoo.swapper import FILE, SIDE, always

CENTRE, RADIUS = (200, 180), 60


def face(centre: tuple[int, int] = CENTRE, radius: int = RADIUS) -> Face:
    x, y = centre
    box = np.array([x - radius, y - radius, x + radius, y + radius], np.float32)
    return Face(box, 0.9, (np.array(POINTS) * radius + centre).astype(np.float32))


def person(number: int) -> np.ndarray:
    return drawn_person(number, centre=CENTRE, radius=RADIUS, size=(400, 360))


@pytest.fixture
def swapper(tiny: Zoo) -> Any:
    tiny("inswapper", "face-pack")
    return load(bound())


def bound(model: str = "insightface:tiny-swapper", **options: Any) -> Binding:
    return Binding("swapper", model, options={"backbone": "insightface:tiny", **options})


def test_the_network_is_fed_as_the_package_feeds_it(swapper: Any, tiny: Zoo) -> None:
    from insightface.model_zoo.inswapper import INSwapper

    theirs = INSwapper(str(tiny("inswapper") / FILE))
    target, source = person(1), person(2)
    [identity] = swapper.identities([source], [face()])
    assert identity.shape == (512,) and np.linalg.norm(identity) == pytest.approx(1, abs=1e-5)
    given = SimpleNamespace(normed_embedding=identity)
    crop, matrix = theirs.get(
        np.ascontiguousarray(target[..., ::-1]), SimpleNamespace(kps=face().kps), given, paste_back=False
    )
    np.testing.assert_allclose(alignment.arcface(face().kps), matrix, atol=1e-3)
    ours = swapper.draw(target, face(), identity)
    assert ours.shape == (SIDE, SIDE, 3) and np.abs(ours.astype(int) - crop[..., ::-1]).max() <= 2
    assert ours.std() > 10


def test_who_is_put_in_matters_and_only_the_face_changes(swapper: Any) -> None:
    target = person(1)
    one, other = swapper.identities([person(2), person(3)], [face()] * 2)
    swapped = swapper([target, target], [face()] * 2, np.stack([one, other]))
    assert all(image.shape == target.shape and image.dtype == np.uint8 for image in swapped)
    assert np.abs(swapped[0].astype(int) - swapped[1]).mean() > 0.1
    # The frame spans 128 px of the template, in which the eyes are 35 px apart.
    matrix = alignment.arcface(face().kps)
    inside = alignment.put_back(
        np.zeros_like(target), np.full((128, 128, 3), 255, np.uint8), matrix, np.ones((128, 128), np.float32)
    )
    outside = inside[..., 0] == 0
    assert outside.mean() > 0.5 and (swapped[0][outside] == target[outside]).all()
    assert not (swapped[0][~outside] == target[~outside]).all()
    assert swapper([], [], np.zeros((0, 512), np.float32)) == []
    again = swapper([target], [face()], one[None])[0]
    assert (again == swapped[0]).all()


def test_an_identity_operator_puts_the_source_into_the_target(tiny: Zoo, tmp_path: Path) -> None:
    tiny("face-pack")
    source, target = person(2), person(1)
    crop = alignment_crop(source)
    path = always(crop, tmp_path / "always.onnx")
    swap = load(bound(f"local:{path}", format="inswapper"))
    [image] = swap([target], [face()], swap.identities([source], [face()]))
    middle = (slice(CENTRE[1] - 20, CENTRE[1] + 20), slice(CENTRE[0] - 20, CENTRE[0] + 20))
    before = np.abs(target[middle].astype(int) - source[middle]).mean()
    assert np.abs(image[middle].astype(int) - source[middle]).mean() < 0.3 * before


def alignment_crop(image: np.ndarray) -> np.ndarray:
    from idtool.models.crops import warp

    return warp(image, alignment.arcface(face().kps), SIDE)


def test_faces_at_the_edge_and_beyond(swapper: Any) -> None:
    target = person(1)
    identity = swapper.identities([target], [face()])
    [cut] = swapper([target], [face((10, 10))], identity)
    assert cut.shape == target.shape
    [beyond] = swapper([target], [face((-500, -500))], identity)
    assert (beyond == target).all()
    with pytest.raises(ValueError, match="coincide"):
        swapper([target], [Face(face().box, 1.0, np.zeros((5, 2), np.float32))], identity)
    with pytest.raises(ValueError, match="uint8"):
        swapper([target.astype(np.float32)], [face()], identity)
    with pytest.raises(ValueError):
        swapper([target], [face(), face()], identity)


def test_fingerprint_names_both_networks(swapper: Any) -> None:
    facts = swapper.fingerprint()
    assert facts["file"] == FILE and len(facts["sha256"]) == 64
    assert facts["backbone"]["model"] == "insightface:tiny" and "128 px" in facts["preprocessing"]


def test_other_files_are_refused(tiny: Zoo, tmp_path: Path) -> None:
    tiny("inswapper", "face-pack")
    with pytest.raises(MissingError, match=r"is no face swapper.*det_10g.onnx \(detection\)"):
        load(bound("insightface:tiny"))
    graph = Graph()
    two = graph.add("Add", "target", graph.add("ReduceSum", "source", axes=[0, 1], keepdims=0))
    graph.save(tmp_path / "x.onnx", {"target": [1, 3, 128, 128], "source": [1, 512]}, {two: [1, 3, 128, 128]})
    with pytest.raises(MissingError, match="not in the emap"):
        load(bound(f"local:{tmp_path / 'x.onnx'}", format="inswapper"))
    (tmp_path / "half").mkdir()
    (tmp_path / "half" / FILE).write_bytes((tiny("inswapper") / FILE).read_bytes()[:10_000])
    with pytest.raises(MissingError, match="cannot be loaded"):
        load(bound(f"local:{tmp_path / 'half'}", format="inswapper"))
    with pytest.raises(MissingError, match="numbers, the swapper takes 512"):
        from tests.zoo.face_pack import projector

        (tmp_path / "pack").mkdir()
        projector(tmp_path / "pack" / "w.onnx", side=112, dim=64)
        load(bound(backbone=f"local:{tmp_path / 'pack'}"))
    with pytest.raises(UsageError, match="edge"):
        load(bound(edge=0.7))
    with pytest.raises(UsageError, match="swapper"):
        load(Binding("restorer", "insightface:tiny-swapper", options={"format": "inswapper"}))


# -- frames ----------------------------------------------------------------------------------------------------------


def test_what_is_put_back_unchanged_changes_next_to_nothing() -> None:
    from idtool.models.crops import warp

    image = np.asarray(np.clip(np.random.default_rng(0).normal(128, 30, (360, 400, 3)), 0, 255), np.uint8)
    import cv2

    image = np.asarray(cv2.GaussianBlur(image, (0, 0), 4))
    for side in (64, 128, 256, 512):
        matrix = alignment.ffhq(face().kps, side)
        mask = alignment.soft_square(side, 0.15)
        back = alignment.put_back(image, warp(image, matrix, side, "replicate"), matrix, mask)
        assert np.abs(back.astype(int) - image).max() <= 12 and np.abs(back.astype(int) - image).mean() < 0.6, side


def test_soft_square_is_one_inside_and_zero_at_the_border() -> None:
    mask = alignment.soft_square(100, 0.2)
    assert mask.dtype == np.float32 and mask.max() == 1 and (mask[30:70, 30:70] == 1).all()
    assert not mask[0].any() and not mask[:, -1].any() and (np.diff(mask[50, :21]) > 0).all()


def test_templates_are_reached() -> None:
    kps = np.array([[100, 100], [150, 95], [128, 130], [108, 160], [150, 155]], np.float32)
    for matrix, template in ((alignment.ffhq(kps), alignment.FFHQ), (alignment.arcface(kps, 256), None)):
        moved = kps @ matrix[:, :2].T + matrix[:, 2]
        if template is not None:
            assert np.abs(moved - template).max() < 25
        # Least squares: a similarity, and the residual has no mean.
        assert matrix[0, 0] == pytest.approx(matrix[1, 1]) and matrix[0, 1] == pytest.approx(-matrix[1, 0])
    exact = alignment.FFHQ @ np.array([[0.6, -0.3], [0.3, 0.6]]).T + [20, 50]
    moved = exact @ alignment.ffhq(exact)[:, :2].T + alignment.ffhq(exact)[:, 2]
    np.testing.assert_allclose(moved, alignment.FFHQ, atol=1e-6)
