"""Packs against InsightFace's own FaceAnalysis, on a tiny pack and on real networks, and what they refuse."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from idtool.engine.step import Binding
from idtool.errors import MissingError, UsageError
from idtool.models import load, pack_files, weights
from idtool.models.faces import Face
from idtool.models.insightface_pack import PackAttributes, PackFaces, PackIdentity, PackPose
from idtool.models.sources import Weights
from tests.models.test_faces import read
from tests.zoo import Zoo
from tests.zoo.face_pack import drawn_person, landmarks, mean_face, projector

pytest.importorskip("insightface", reason="needs the extra `models`")
# Of insightface's own alignment, which is compared with ours.
pytestmark = pytest.mark.filterwarnings("ignore:`estimate` is deprecated:FutureWarning")

TINY = "insightface:tiny"
IMAGES = [drawn_person(person, person % 2) for person in range(3)]


def bound(role: str, **options: Any) -> Any:
    return load(Binding(role, TINY, options=options))


@pytest.fixture
def pack(tiny: Zoo) -> Path:
    return tiny("face-pack")


@pytest.fixture
def copy(pack: Path, tmp_path: Path) -> Path:
    """The pack, to be changed."""
    return Path(shutil.copytree(pack, tmp_path / "copy"))


@pytest.fixture
def first(pack: Path) -> list[Face]:
    """The largest face of each of `IMAGES`."""
    return [faces[0] for faces in bound("faces").detect(IMAGES)]


def theirs(folder: Path) -> Any:
    from insightface.app import FaceAnalysis

    analysis = FaceAnalysis(name=str(folder), providers=["CPUExecutionProvider"])
    analysis.prepare(ctx_id=-1, det_thresh=0.5, det_size=(640, 640))
    return lambda image: sorted(
        analysis.get(np.ascontiguousarray(image[..., ::-1])),
        key=lambda face: -(face.bbox[2] - face.bbox[0]) * (face.bbox[3] - face.bbox[1]),
    )


def test_parity_with_face_analysis(pack: Path) -> None:
    """Every number of a pack, on drawn faces: boxes, points, embeddings, pose, landmarks, age and gender."""
    reference, pose, attributes = theirs(pack), bound("pose"), bound("attributes")
    identity = bound("identity")
    for image, faces in zip(IMAGES, bound("faces").detect(IMAGES), strict=True):
        expected = reference(image)
        assert len(expected) == len(faces) == 1
        one, their = faces[0], expected[0]
        assert np.abs(one.box - their.bbox).max() < 1e-4
        assert np.abs(one.kps - their.kps).max() < 1e-4
        assert one.score == pytest.approx(float(their.det_score), abs=1e-6)
        assert_same_embedding(identity, image, [one], [their])
        pitch, yaw, roll = their.pose
        assert pose.pose([image], [one])[0] == pytest.approx([yaw, pitch, -roll], abs=1e-4)
        assert np.abs(pose.points68([image], [one])[0] - their.landmark_3d_68).max() < 1e-4
        assert np.abs(pose.points106([image], [one])[0] - their.landmark_2d_106).max() < 1e-4
        [guess] = attributes.attributes([image], [one])
        assert round(guess.age) == their.age
        assert (guess.female < 0.5) == (their.gender == 1)


@pytest.mark.offline_weights
def test_parity_on_photos_with_real_networks(fixtures: Path, tmp_path: Path) -> None:
    for name, file in (("scrfd-500m", "det_500m.onnx"), ("arcface-mbf", "w600k_mbf.onnx")):
        (tmp_path / file).symlink_to(weights.path(name))
    files = ("groups/friends_six.jpg", "groups/three_women_3352px.jpg", "hard/yaw_45.jpg")
    images = [read(fixtures / file) for file in files]
    address, reference = f"local:{tmp_path}", theirs(tmp_path)
    found = load(Binding("faces", address, options={"format": "insightface-faces"})).detect(images)
    identity = load(Binding("identity", address, options={"format": "insightface-identity"}))
    assert [len(faces) for faces in found] == [6, 3, 1]
    for image, faces in zip(images, found, strict=True):
        expected = reference(image)
        assert np.abs(np.array([face.box for face in faces]) - [one.bbox for one in expected]).max() < 1e-4
        assert np.abs(np.array([face.kps for face in faces]) - [one.kps for one in expected]).max() < 1e-4
        assert_same_embedding(identity, image, faces, expected)


def assert_same_embedding(identity: PackIdentity, image: np.ndarray, ours: list[Face], expected: list[Any]) -> None:
    """To 1e-4 on the package's own crops. It finds the same transform in single precision, so a few pixels of its
    crops are a grey level off ours: from the image on, the two embeddings have a cosine of 1 to five digits."""
    from insightface.utils.face_align import norm_crop

    bgr, their = np.ascontiguousarray(image[..., ::-1]), np.array([one.embedding for one in expected])
    crops = np.array([norm_crop(bgr, one.kps)[..., ::-1] for one in expected])
    assert np.abs(identity.embed(crops) - their).max() < 1e-4
    aligned = identity.crops([image] * len(ours), ours)
    assert np.abs(np.array(aligned, int) - crops).mean() < 0.01
    embeddings = identity.embed(aligned)
    lengths = np.linalg.norm(embeddings, axis=1) * np.linalg.norm(their, axis=1)
    assert ((embeddings * their).sum(axis=1) / lengths).min() > 1 - 1e-5


@pytest.mark.offline_weights
def test_faces_that_fill_the_frame_are_found_by_another_look(fixtures: Path) -> None:
    """The small SCRFD at 640 alone misses 102 of our 178 portraits; with `retry` it misses none."""
    network = Weights("local:scrfd", weights.path("scrfd-500m"))
    with_retry, without = PackFaces(network), PackFaces(network, retry=False)
    portraits = [read(path) for path in sorted((fixtures / "identities" / "cb_id0").iterdir())[:4]]
    assert any(not faces for faces in without.detect(portraits))
    assert [len(faces) for faces in with_retry.detect(portraits)] == [1] * len(portraits)
    nobody = [read(fixtures / "hard" / name) for name in ("dog.jpg", "no_face_vector.jpg")]
    assert with_retry.detect(nobody) == [[], []]


def test_a_look_with_a_border_gives_boxes_of_the_image(pack: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, image = PackFaces(Weights(TINY, pack)), drawn_person(1, 0, centre=(200, 200), radius=90)
    [[plain]] = model.detect([image])
    real, looks = model._model.detect, []

    def blind(bgr: np.ndarray, input_size: tuple[int, int]) -> Any:
        looks.append((bgr.shape[:2], input_size))
        return real(bgr, input_size=input_size) if bgr.shape != image.shape else (np.zeros((0, 5)), np.zeros((0, 5, 2)))

    monkeypatch.setattr(model._model, "detect", blind)
    [[found]] = model.detect([image])
    assert looks == [((480, 640), (s, s)) for s in (640, 320, 160)] + [((992, 1152), (640, 640))]
    assert np.abs(found.box - plain.box).max() < 12
    assert np.abs(found.kps - plain.kps).max() < 12


def test_recognition_takes_the_faces_of_many_images_in_one_call(pack: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = PackIdentity(Weights(TINY, pack), batch=4)
    crops = np.random.default_rng(0).integers(0, 256, (6, 112, 112, 3), dtype=np.uint8)
    real, sizes = model._model.get_feat, []
    monkeypatch.setattr(model._model, "get_feat", lambda some: (sizes.append(len(some)), real(some))[1])
    together = model.embed(crops)
    assert sizes == [4, 2]
    assert together.shape == (6, 512)
    assert together.dtype == np.float32
    alone = np.concatenate([model.embed(crops[i : i + 1]) for i in range(6)])
    assert np.abs(together - alone).max() < 1e-4
    assert model.embed([]).shape == (0, 512)


def test_a_file_of_one_row_is_run_row_by_row(copy: Path) -> None:
    crops = np.random.default_rng(0).integers(0, 256, (3, 112, 112, 3), dtype=np.uint8)
    dynamic, fixed = (copy / "w600k_r50.onnx", copy / "r.onnx")
    projector(dynamic, side=112, dim=512, grid=14)
    projector(fixed, side=112, dim=512, grid=14, batch=1)
    many, single = PackIdentity(Weights(TINY, dynamic)), PackIdentity(Weights(TINY, fixed))
    assert (many.batch, single.batch) == (32, 1)
    assert np.abs(many.embed(crops) - single.embed(crops)).max() < 1e-5


@pytest.mark.parametrize(
    ("turned", "expected"),
    [("x", (0.0, 20.0, 0.0)), ("y", (20.0, 0.0, 0.0)), ("z", (0.0, 0.0, 20.0)), (None, (0.0, 0.0, 0.0))],
)
def test_signs_of_the_angles(copy: Path, first: list[Face], turned: str | None, expected: tuple[float, ...]) -> None:
    """A network that sees the mean face turned by 20 degrees. Where its nose goes settles the sign, not a convention:
    to the right of the picture, up (y is smaller), or, for roll, the left eye lower than the right."""
    points, angle = mean_face(), np.radians(20)
    c, s = np.cos(angle), np.sin(angle)
    turns = {
        "x": np.array([[1, 0, 0], [0, c, -s], [0, s, c]]),
        "y": np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]]),
        "z": np.array([[c, s, 0], [-s, c, 0], [0, 0, 1]]),
    }
    moved = points @ turns[turned].T if turned else points
    nose, eyes = 30, ((36, 42), (42, 48))
    if turned in ("x", "y"):
        axis = {"x": 1, "y": 0}[turned]
        centre = points[:17].mean(axis=0), moved[:17].mean(axis=0)
        shift = (moved[nose] - centre[1])[axis] - (points[nose] - centre[0])[axis]
        assert shift < 0 if turned == "x" else shift > 0
    if turned == "z":
        left, right = (moved[slice(*eye)].mean(axis=0) for eye in eyes)
        assert left[1] > right[1]
    landmarks(copy / "1k3d68.onnx", moved)
    [angles] = PackPose(Weights(TINY, copy)).pose(IMAGES[:1], first[:1])
    assert angles == pytest.approx(expected, abs=0.5)


@pytest.mark.offline_weights
@pytest.mark.parametrize(("name", "least"), [("hard/yaw_15.jpg", 8), ("hard/yaw_45.jpg", 25)])
def test_pose_on_photos_by_the_landmarks_of_another_network(
    copy: Path, fixtures: Path, name: str, least: float
) -> None:
    """The real 1k3d68 is not here, so it is played by points of MediaPipe's mesh at the places that the 68 share with
    it: the package's mean face, fitted to them, must turn the way that MediaPipe says."""
    from idtool.models.faces import Scrfd
    from idtool.models.landmarks import FaceLandmarker

    image = read(fixtures / name)
    [face] = Scrfd().detect([image])[0]
    [mesh] = FaceLandmarker()([image], [face])
    centre, side = face.box.reshape(2, 2).mean(axis=0), float(max(face.box[2:] - face.box[:2])) * 1.5
    answer = mean_face()
    answer[list(IBUG), :2] = (mesh.points[list(IBUG.values()), :2] - centre) / (side / 2) / 0.6
    answer[:, :2] = fitted(answer[:, :2], mean_face(), list(IBUG))
    landmarks(copy / "1k3d68.onnx", answer)
    [angles] = PackPose(Weights(TINY, copy)).pose([image], [face])
    assert abs(angles[0]) > least
    assert angles[0] == pytest.approx(mesh.yaw, abs=8)
    assert angles[2] == pytest.approx(mesh.roll, abs=5)


# Index of the 68 points -> vertex of MediaPipe's mesh: brows, nose, eyes, lips.
_BROWS_AND_NOSE = ((17, 70), (19, 105), (21, 107), (22, 336), (24, 334), (26, 300), (27, 168), (30, 4), (33, 2))
_EYES_AND_MOUTH = ((36, 33), (39, 133), (42, 362), (45, 263), (48, 61), (51, 0), (54, 291), (57, 17), (8, 152))
IBUG = dict((*_BROWS_AND_NOSE, *_EYES_AND_MOUTH))


def fitted(points: np.ndarray, shape: np.ndarray, known: list[int]) -> np.ndarray:
    """All points of `shape` in the plane, carried by the affine map that fits the known ones best; those stay."""
    whole = np.column_stack([shape, np.ones(len(shape))])
    out = whole @ np.linalg.lstsq(whole[known], points[known], rcond=None)[0]
    out[known] = points[known]
    return np.asarray(out)


def test_landmarks_and_attributes_of_nobody(pack: Path) -> None:
    assert bound("pose").pose([], []).shape == (0, 3)
    assert bound("pose").points106([], []).shape == (0, 106, 2)
    assert bound("attributes").attributes([], []) == []
    assert bound("faces").detect([]) == []
    assert bound("identity").crops([], []) == []


def test_attributes_in_one_call(pack: Path, first: list[Face]) -> None:
    single, many = PackAttributes(Weights(TINY, pack), batch=1), bound("attributes")
    one, all_ = single.attributes(IMAGES, first), many.attributes(IMAGES, first)
    assert [a.age for a in one] == pytest.approx([a.age for a in all_], abs=1e-4)
    assert all(0 < a.female < 1 and 15 < a.age < 60 for a in all_)


def test_odd_images_have_no_face_or_are_refused(pack: Path) -> None:
    model = bound("faces")
    odd = [np.zeros(shape, np.uint8) for shape in ((1, 1, 3), (1, 3000, 3), (3000, 2, 3))]
    assert model.detect(odd) == [[], [], []]
    with pytest.raises(ValueError, match="HxWx3"):
        model.detect([np.zeros((4, 4), np.uint8)])
    flat = Face(np.array([5, 5, 5, 9], np.float32), 1.0, np.zeros((5, 2), np.float32))
    for call in (bound("pose").pose, bound("attributes").attributes):
        with pytest.raises(ValueError, match="no area"):
            call(IMAGES[:1], [flat])
        with pytest.raises(ValueError, match="argument"):
            call(IMAGES[:2], model.detect(IMAGES)[0])
    with pytest.raises(ValueError, match="112"):
        bound("identity").embed(np.zeros((2, 64, 64, 3), np.uint8))


def test_nan_is_an_error_of_the_row(copy: Path) -> None:
    projector(copy / "w600k_r50.onnx", side=112, dim=512, grid=14, bias=np.nan)
    with pytest.raises(ValueError, match="not finite"):
        PackIdentity(Weights(TINY, copy)).embed(np.zeros((1, 112, 112, 3), np.uint8))


def test_a_pack_without_the_network_says_what_it_has(copy: Path, first: list[Face]) -> None:
    for name in ("1k3d68", "2d106det"):
        (copy / f"{name}.onnx").unlink()
    with pytest.raises(MissingError, match=r"no network for landmark_3d_68.*det_10g.onnx \(detection\)"):
        PackPose(Weights(TINY, copy))
    landmarks(copy / "1k3d68.onnx", mean_face())
    with pytest.raises(MissingError, match="landmark_2d_106"):
        PackPose(Weights(TINY, copy)).points106(IMAGES[:1], first[:1])
    (copy / "empty").mkdir()
    with pytest.raises(MissingError, match="no ONNX file"):
        PackFaces(Weights(TINY, copy / "empty"))


@pytest.mark.parametrize("cut", [lambda data: data[: len(data) // 2], lambda data: b"", lambda data: b"not a network"])
def test_a_damaged_file_is_named(copy: Path, cut: Callable[[bytes], bytes]) -> None:
    file = copy / "det_10g.onnx"
    file.write_bytes(cut(file.read_bytes()))
    with pytest.raises(MissingError, match=r"det_10g\.onnx"):
        PackFaces(Weights(TINY, copy))


@pytest.mark.parametrize("device", ["mps", "cuda", "cuda:3"])
@pytest.mark.parametrize("role", ["faces", "identity", "pose", "attributes"])
def test_a_device_that_is_not_here_is_refused(pack: Path, role: str, device: str) -> None:
    import onnxruntime

    if device != "mps" and "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this machine has CUDA")
    with pytest.raises(MissingError, match=device):
        load(Binding(role, TINY), device=device)


@pytest.mark.parametrize("size", [0, 100, [640], [640, 100], "640"])
def test_sizes_that_do_not_fit_the_strides(pack: Path, size: Any) -> None:
    with pytest.raises(UsageError, match="multiple of 32"):
        bound("faces", det_size=size)


def test_other_options(pack: Path) -> None:
    assert bound("faces", det_size=[320, 256]).sizes == [(320, 256), (160, 128), (64, 64)]
    assert bound("faces", retry=False).fingerprint()["retry"] is None
    for role, option in (("faces", {"threshold": 1.5}), ("identity", {"batch": 0}), ("pose", {"batch": 4})):
        with pytest.raises(UsageError):
            bound(role, **option)


def test_fingerprint_is_of_the_file_that_is_used(copy: Path) -> None:
    before = PackIdentity(Weights(TINY, copy)).fingerprint()
    assert before["file"] == "w600k_r50.onnx"
    (copy / "genderage.onnx").unlink()
    assert PackIdentity(Weights(TINY, copy)).fingerprint() == before
    projector(copy / "w600k_r50.onnx", side=112, dim=512, grid=14, scale=0.5)
    assert PackIdentity(Weights(TINY, copy)).fingerprint()["sha256"] != before["sha256"]


def test_packs_of_version_two_say_how_they_are_fed(copy: Path) -> None:
    manifest = {
        "manifest_version": 2,
        "model_id": "tiny",
        "license": "MODEL.LICENSE",
        "tasks": {
            "detection": {"file": "det_10g.onnx"},
            "recognition": {"file": "w600k_r50.onnx", "preprocessing": {"mean": 127.5, "std": 255.0}},
        },
    }
    crops = np.random.default_rng(0).integers(0, 256, (1, 112, 112, 3), dtype=np.uint8)
    projector(copy / "w600k_r50.onnx", side=112, dim=512, grid=14)
    plain = PackIdentity(Weights(TINY, copy)).embed(crops)
    (copy / "MODEL.LICENSE").write_text("none")
    (copy / "manifest.json").write_text(json.dumps(manifest))
    assert set(pack_files.tasks(copy).values()) == {"detection", "recognition"}
    assert len(PackFaces(Weights(TINY, copy)).detect(IMAGES)[0]) == 1
    assert np.abs(PackIdentity(Weights(TINY, copy)).embed(crops) * 2 - plain).max() < 1e-4
    with pytest.raises(MissingError, match="landmark_3d_68"):
        PackPose(Weights(TINY, copy))


def test_threads_get_the_same_answer(pack: Path) -> None:
    model, pose = bound("faces"), bound("pose")
    expected = model.detect(IMAGES)[1][0]
    angles = pose.pose(IMAGES[1:2], [expected])

    def work(_: int) -> bool:
        [[face]] = model.detect(IMAGES[1:2])
        return np.array_equal(face.box, expected.box) and np.array_equal(pose.pose(IMAGES[1:2], [face]), angles)

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(work, range(8)))
