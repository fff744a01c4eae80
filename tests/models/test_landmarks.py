"""Signs and sizes of the head pose, blendshapes, and how well the occlusion cue tells covered faces."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from idtool.models.face_geometry import CanonicalFace, euler
from idtool.models.faces import Face, Scrfd
from idtool.models.landmarks import BLENDSHAPES, FaceLandmarker, Landmarks
from idtool.models.occlusion import EYES

pytestmark = pytest.mark.offline_weights
See = Callable[[np.ndarray], tuple[Face, Landmarks]]


@pytest.fixture(scope="module")
def landmarker() -> FaceLandmarker:
    return FaceLandmarker()


@pytest.fixture(scope="module")
def see(landmarker: FaceLandmarker) -> See:
    detector = Scrfd()

    def look(image: np.ndarray) -> tuple[Face, Landmarks]:
        (faces,) = detector.detect([image])
        return faces[0], landmarker([image], faces[:1])[0]

    return look


def photo(path: Path, side: int = 900) -> np.ndarray:
    image = cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)
    scale = side / max(image.shape[:2])
    return cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA) if scale < 1 else image


@pytest.mark.parametrize(("name", "low", "high"), [("yaw_15.jpg", -18, -8), ("yaw_45.jpg", -48, -33)])
def test_yaw_is_negative_to_the_left_and_mirrors(fixtures: Path, see: See, name: str, low: float, high: float) -> None:
    image = photo(fixtures / "hard" / name)
    _, found = see(image)
    _, mirrored = see(np.ascontiguousarray(image[:, ::-1]))
    assert low < found.yaw < high
    assert mirrored.yaw == pytest.approx(-found.yaw, abs=4)
    assert mirrored.pitch == pytest.approx(found.pitch, abs=4)


def test_pitch_is_positive_for_a_face_that_looks_up(fixtures: Path, see: See) -> None:
    assert see(photo(fixtures / "hard" / "laugh_profile.png"))[1].pitch > 12
    assert see(photo(fixtures / "singles" / "xverse_15_woman.jpg"))[1].pitch < -12


@pytest.mark.parametrize("turn", [-25, 20])
def test_roll_is_counter_clockwise(fixtures: Path, see: See, turn: int) -> None:
    image = photo(fixtures / "singles" / "xverse_10_man.jpg")
    centre = (image.shape[1] / 2, image.shape[0] / 2)
    turned = cv2.warpAffine(image, cv2.getRotationMatrix2D(centre, turn, 0.8), image.shape[1::-1])
    _, before = see(image)
    _, after = see(turned)
    assert after.roll - before.roll == pytest.approx(turn, abs=3)
    assert after.yaw == pytest.approx(before.yaw, abs=5)


def test_points_lie_on_the_face_and_agree_with_the_detector(fixtures: Path, see: See) -> None:
    face, found = see(photo(fixtures / "singles" / "cc_sunak.jpg"))
    assert found.points.shape == (478, 3)
    assert 0.99 < found.presence <= 1
    for eye, point in zip(EYES, face.kps[:2], strict=True):
        distance = np.linalg.norm(found.points[list(eye), :2].mean(axis=0) - point)
        assert distance < 0.05 * np.linalg.norm(face.kps[1] - face.kps[0]) * 2


def test_blendshapes_tell_expressions(fixtures: Path, see: See) -> None:
    surprised = see(photo(fixtures / "hard" / "expr_surprise.jpg"))[1]
    laughing = see(photo(fixtures / "singles" / "xverse_12_woman.jpg"))[1]
    calm = see(photo(fixtures / "singles" / "xverse_10_man.jpg"))[1]
    assert len(BLENDSHAPES) == len(set(BLENDSHAPES)) == 52
    assert surprised.mouth_open > 0.7 > 0.1 > calm.mouth_open
    assert laughing.shape("mouthSmileLeft") > 0.8 > 0.2 > calm.shape("mouthSmileLeft")
    assert calm.eyes_open > 0.7


def test_lowered_eyes_are_less_open(fixtures: Path, see: See) -> None:
    lowered = see(photo(fixtures / "identities" / "stock_emotions_a" / "00_human.jpg"))[1].eyes_open
    wide = see(photo(fixtures / "identities" / "stock_emotions_a" / "05_human.jpg"))[1].eyes_open
    assert lowered < wide - 0.1


def test_same_result_in_threads_and_in_batches(fixtures: Path, see: See, landmarker: FaceLandmarker) -> None:
    images = [photo(fixtures / "singles" / name) for name in ("cc_sunak.jpg", "freeman.jpg", "lifeifei.jpg")]
    faces = [see(image)[0] for image in images]
    together = landmarker(images, faces)
    with ThreadPoolExecutor(3) as pool:
        apart = list(pool.map(lambda pair: landmarker([pair[0]], [pair[1]])[0], zip(images, faces, strict=True)))
    for a, b in zip(together, apart, strict=True):
        assert np.array_equal(a.points, b.points)
        assert np.array_equal(a.blendshapes, b.blendshapes)
        assert a.occlusion == b.occlusion
    with pytest.raises(ValueError, match="uint8"):
        landmarker([images[0].astype(np.float32)], faces[:1])
    with pytest.raises(ValueError):
        landmarker(images, faces[:1])


def sunglasses(image: np.ndarray, points: np.ndarray) -> np.ndarray:
    out = image.copy()
    for eye in EYES:
        outline = points[list(eye), :2]
        centre, half = outline.mean(axis=0), np.ptp(outline, axis=0).max() * 0.9
        cv2.ellipse(out, tuple(int(v) for v in centre), (int(half), int(0.85 * half)), 0, 0, 360, (25, 22, 20), -1)
    return out


def mask(image: np.ndarray, points: np.ndarray, colour: tuple[int, int, int]) -> np.ndarray:
    outline = [234, 93, 132, 58, 172, 136, 150, 149, 176, 148, 152, 377, 400, 378, 379, 365, 397, 288, 361, 323, 454, 5]
    out = image.copy()
    cv2.fillPoly(out, [points[outline, :2].round().astype(np.int32)], colour)
    return cv2.GaussianBlur(out, (0, 0), 1)


def test_occlusion_separates_covered_faces(fixtures: Path, see: See) -> None:
    """A tenth of the calibration in `occlusion`: masks and sunglasses painted on portraits."""
    photos = [fixtures / "identities" / f"cb_id{i}" / f"0{j}_celebbasis.jpg" for i in range(0, 10, 2) for j in (0, 3)]
    photos += sorted((fixtures / "singles").glob("xverse_1*.jpg"))
    clean, covered = [], []
    for index, path in enumerate(photos):
        image = photo(path, 600)
        _, found = see(image)
        clean.append(found.occlusion.value)
        colour = [(190, 210, 225), (35, 35, 40), (235, 235, 235)][index % 3]
        for spoiled in (sunglasses(image, found.points), mask(image, found.points, colour)):
            covered.append(see(spoiled)[1].occlusion.value)
    a, b = np.array(covered), np.array(clean)
    assert (a[:, None] > b).mean() > 0.97
    assert (a > 0.5).mean() > 0.9
    assert (b > 0.5).mean() < 0.1


def test_dark_skin_is_not_an_occluder(fixtures: Path, see: See) -> None:
    for name in ("xverse_02_man.jpg", "xverse_12_woman.jpg", "freeman.jpg"):
        assert see(photo(fixtures / "singles" / name))[1].occlusion.value < 0.5


def test_euler_of_a_known_rotation() -> None:
    yaw = np.radians(30)
    turned = np.array([[np.cos(yaw), 0, np.sin(yaw)], [0, 1, 0], [-np.sin(yaw), 0, np.cos(yaw)]])
    assert euler(turned) == pytest.approx((30, 0, 0))
    assert turned[0, 2] > 0, "the face's forward axis points to the right of the picture"


def test_pose_is_recovered_from_the_canonical_face(landmarker: FaceLandmarker) -> None:
    canonical: CanonicalFace = landmarker._canonical
    angle = np.radians(20)
    up = np.array([[1, 0, 0], [0, np.cos(angle), np.sin(angle)], [0, -np.sin(angle), np.cos(angle)]])
    assert (up @ [0, 0, 1])[1] > 0, "the nose goes up"
    points = 7 * (canonical.vertices @ up.T) * [1, -1, -1] + [300, 200, 0]
    assert euler(canonical.rotation(points)) == pytest.approx((0, 20, 0), abs=1e-6)


@pytest.mark.parametrize("damage", [b"", b"\x0a\x05ab", b"\x0b", b"\x0a\x00", b"\x80"])
def test_damaged_geometry_is_refused(damage: bytes) -> None:
    with pytest.raises(ValueError):
        CanonicalFace.parse(damage)


def test_scale_does_not_matter(fixtures: Path, see: See, landmarker: FaceLandmarker) -> None:
    """A face of 1,500 px is averaged down, not sampled: pose and blendshapes stay those of the small picture."""
    image = photo(fixtures / "singles" / "cc_sunak.jpg")
    face, small = see(image)
    factor = 4.0
    large = cv2.resize(image, None, fx=factor, fy=factor, interpolation=cv2.INTER_CUBIC)
    same = replace(face, box=face.box * np.float32(factor), kps=face.kps * np.float32(factor))
    (found,) = landmarker([large], [same])
    assert found.yaw == pytest.approx(small.yaw, abs=1.5)
    assert np.abs(found.blendshapes - small.blendshapes).max() < 0.12
