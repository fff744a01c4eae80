"""The detector on drawings and on real photos, where the number of faces is known."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from idtool.models import weights
from idtool.models.drawn import EYES, drawn_face
from idtool.models.faces import Scrfd, letterbox, suppress

pytestmark = pytest.mark.offline_weights


def read(path: Path) -> np.ndarray:
    return np.asarray(ImageOps.exif_transpose(Image.open(path)).convert("RGB"))


@pytest.fixture(scope="module")
def detector() -> Scrfd:
    return Scrfd()


def test_letterbox_keeps_the_shape_and_the_corner() -> None:
    image = np.full((100, 50, 3), 200, np.uint8)
    canvas, scale = letterbox(image, 20)
    assert canvas.shape == (20, 20, 3)
    assert scale.tolist() == pytest.approx([0.2, 0.2])
    assert (canvas[:, :10] == 200).all()
    assert (canvas[:, 10:] == 0).all()
    thin, scale = letterbox(np.zeros((1, 5000, 3), np.uint8), 64)
    assert thin.shape == (64, 64, 3)
    assert scale.tolist() == pytest.approx([0.0128, 1.0])


def test_suppress_drops_overlap_and_parts_but_not_neighbours() -> None:
    boxes = np.array([[0, 0, 10, 10], [1, 0, 11, 10], [20, 0, 30, 10], [2, 2, 5, 5]], np.float32)
    ranks = np.array([0.8, 0.9, 0.5, 0.95], np.float32)
    assert suppress(boxes, ranks, 0.4).tolist() == [3, 1, 2]
    assert suppress(boxes[:3], ranks[:3], 0.4, 0.7).tolist() == [1, 2]
    assert suppress(boxes, np.array([1, 0.5, 0.4, 0.3], np.float32), 0.4, 0.7).tolist() == [0, 2]
    assert suppress(boxes[:0], ranks[:0], 0.4).tolist() == []


@pytest.mark.parametrize("size", [128, 256, 777])
def test_eyes_are_found_where_they_were_drawn(detector: Scrfd, size: int) -> None:
    [[face]] = detector.detect([drawn_face(size)])
    assert np.abs(face.kps[:2] / size - np.array(EYES)).max() < 0.02
    assert 0.5 <= face.score <= 1
    assert face.kps.dtype == face.box.dtype == np.float32


def test_no_face_in_noise_or_in_one_pixel(detector: Scrfd) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (200, 300, 3), dtype=np.uint8)
    assert detector.detect([noise, np.zeros((1, 1, 3), np.uint8)]) == [[], []]
    assert detector.detect([]) == []
    with pytest.raises(ValueError, match="float64"):
        detector.detect([np.zeros((8, 8, 3))])


def test_largest_face_comes_first(detector: Scrfd) -> None:
    canvas = np.full((400, 700, 3), (120, 140, 160), np.uint8)
    canvas[100:228, :128] = drawn_face(128)
    canvas[:400, 300:] = drawn_face(400)
    [faces] = detector.detect([canvas])
    assert len(faces) == 2
    assert faces[0].area > faces[1].area
    assert faces[0].box[0] > 300


def test_a_face_that_fills_the_frame_is_found_once(detector: Scrfd) -> None:
    face = drawn_face(512)[120:400, 150:362]
    assert [len(faces) for faces in detector.detect([face])] == [1]


def test_threads_get_the_same_answer(detector: Scrfd) -> None:
    image = drawn_face(300)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: detector.detect([image])[0][0], range(8)))
    assert all(np.array_equal(face.box, found[0].box) and face.score == found[0].score for face in found)


@pytest.mark.parametrize(
    ("file", "faces"),
    [
        ("groups/two_people_obama_biden.jpg", 2),
        ("groups/kit_rose.jpg", 2),
        ("groups/debate_two.jpg", 2),
        ("groups/obama_biden.jpg", 3),  # a child stands behind the two
        ("groups/lecun_hinton_bengio.png", 3),
        ("groups/three_women_3352px.jpg", 3),
        ("groups/multi_face_five.jpg", 5),
        ("groups/friends_six.jpg", 6),
        ("groups/solvay1927_29_faces.jpg", 29),
        ("hard/dog.jpg", 0),
        ("hard/no_face_vector.jpg", 0),
        ("hard/crop_of_lecun.jpg", 1),
        ("hard/yaw_45.jpg", 1),
    ],
)
def test_counts_on_photos(detector: Scrfd, fixtures: Path, file: str, faces: int) -> None:
    assert len(detector.detect([read(fixtures / file)])[0]) == faces


def test_every_portrait_has_its_face(detector: Scrfd, fixtures: Path) -> None:
    files = sorted((fixtures / "identities").glob("*/*"))[::3] + sorted((fixtures / "singles").iterdir())
    counts = {file.name: len(detector.detect([read(file)])[0]) for file in files}
    assert [name for name, count in counts.items() if count == 0] == []
    assert sum(count > 1 for count in counts.values()) <= 3  # bystanders at the edge


def test_parity_with_insightface(detector: Scrfd, fixtures: Path) -> None:
    scrfd = pytest.importorskip("insightface.model_zoo.scrfd")
    reference = scrfd.SCRFD(str(weights.path("scrfd-500m")))
    reference.prepare(-1, det_thresh=0.5)
    for file in ("groups/multi_face_five.jpg", "groups/friends_six.jpg"):
        image = read(fixtures / file)
        boxes, scores, kps = detector._look(image, 640)
        kept = suppress(boxes, scores, 0.4)
        theirs, their_kps = reference.detect(np.ascontiguousarray(image[..., ::-1]), input_size=(640, 640))
        assert len(theirs) == len(kept)
        order = np.argsort(boxes[kept][:, 0]), np.argsort(theirs[:, 0])
        # They divide both axes by the scale of one; on the canvas itself the two agree.
        ours, scale = letterbox(image, 640)[1], int(640 * image.shape[0] / image.shape[1]) / image.shape[0]
        assert np.abs(boxes[kept][order[0]] * np.tile(ours, 2) - theirs[order[1], :4] * scale).max() < 0.02
        assert np.abs(kps[kept][order[0]] * ours - their_kps[order[1]] * scale).max() < 0.02
        assert np.abs(scores[kept][order[0]] - theirs[order[1], 4]).max() < 1e-3
