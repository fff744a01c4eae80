"""OpenCV's networks: YuNet on drawings and on real photos, SFace against `cv2.FaceRecognizerSF`."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from idtool.engine.step import Binding
from idtool.errors import MissingError, UsageError
from idtool.models import load
from idtool.models.faces import Face
from idtool.models.sources import Weights
from idtool.models.yunet import SFace, YuNet
from tests.models.test_faces import read
from tests.zoo import Zoo
from tests.zoo.face_pack import POINTS, drawn_person

pytest.importorskip("onnx", reason="needs the extra `models`")

FACES = Binding("faces", "hf:tiny/yunet", options={"format": "yunet", "file": "model.onnx"})
IDENTITY = Binding("identity", "hf:tiny/sface", options={"format": "sface", "file": "model.onnx"})


@pytest.fixture
def yunet(tiny: Zoo) -> Any:
    tiny("yunet")
    return load(FACES)


@pytest.fixture
def sface(tiny: Zoo) -> Any:
    tiny("sface")
    return load(IDENTITY)


@pytest.fixture(scope="module", params=["yunet_n_640_640.onnx", "yunet_n_dynamic.onnx"])
def real(request: pytest.FixtureRequest, fixtures: Path) -> YuNet:
    """The public weights, with a fixed and with a free input size."""
    file = fixtures / "weights" / "detect" / request.param
    model: YuNet = load(Binding("faces", f"local:{file}", options={"format": "yunet"}))
    return model


@pytest.mark.parametrize("scale", [1, 3])
def test_points_lie_where_they_were_drawn(yunet: Any, scale: int) -> None:
    """In pixels of the image, also where it is fitted into the network's input."""
    image = drawn_person(1, 0, centre=(200 * scale, 150 * scale), radius=80 * scale, size=(640 * scale, 480 * scale))
    [[face]] = yunet.detect([image])
    expected = np.array(POINTS) * 80 * scale + (200 * scale, 150 * scale)
    assert np.abs(face.kps - expected).max() < 16 * scale
    assert face.kps[0, 0] < face.kps[1, 0]
    assert face.box.dtype == face.kps.dtype == np.float32
    assert 0.7 < face.score <= 1


def test_largest_face_comes_first_and_nothing_is_nobody(yunet: Any) -> None:
    people = ((1, 60), (2, 95))
    halves = [drawn_person(person, 0, centre=(160, 240), radius=radius, size=(320, 480)) for person, radius in people]
    both = np.concatenate(halves, axis=1)
    [faces] = yunet.detect([both])
    assert [face.box[0] > 300 for face in faces] == [True, False]
    odd = [np.zeros(shape, np.uint8) for shape in ((1, 1, 3), (1, 3000, 3), (3000, 2, 3))]
    assert yunet.detect(odd) == [[], [], []]
    assert yunet.detect([]) == []
    with pytest.raises(ValueError, match="HxWx3"):
        yunet.detect([np.zeros((4, 4), np.uint8)])


def test_threads_get_the_same_answer(yunet: Any) -> None:
    image = drawn_person(1)
    [[expected]] = yunet.detect([image])
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: yunet.detect([image])[0][0], range(8)))
    assert all(np.array_equal(face.box, expected.box) and face.score == expected.score for face in found)


def test_every_portrait_has_its_face(real: YuNet, fixtures: Path) -> None:
    files = sorted((fixtures / "identities").glob("*/*"))[::10] + sorted((fixtures / "singles").iterdir())[::4]
    assert len(files) > 20
    assert [file.name for file in files if not real.detect([read(file)])[0]] == []


def test_boxes_and_points_agree_with_scrfd(real: YuNet, fixtures: Path) -> None:
    from idtool.models.faces import Scrfd

    image = read(fixtures / "groups" / "three_women_3352px.jpg")
    ours, theirs = real.detect([image])[0], Scrfd().detect([image])[0]
    assert len(ours) == len(theirs) == 3
    for face, other in zip(*(sorted(f, key=lambda face: float(face.box[0])) for f in (ours, theirs)), strict=True):
        assert np.linalg.norm(face.kps - other.kps, axis=1).mean() < 0.08 * (other.box[2] - other.box[0])


def test_a_large_photo_has_one_face(real: YuNet, fixtures: Path) -> None:
    """At 4000 px the network itself sees many faces in the parts of one."""
    photo = read(sorted((fixtures / "identities").glob("*/*"))[0])
    large = cv2.resize(photo, (4000, 4000))
    [[face]] = real.detect([large])
    assert face.score > 0.8
    assert face.box[2] - face.box[0] > 1000


def test_sface_is_fed_as_opencv_feeds_it(sface: Any, tiny: Zoo, fixtures: Path, real: YuNet) -> None:
    reference = cv2.FaceRecognizerSF.create(str(tiny("sface") / "model.onnx"), "")
    image = read(fixtures / "hard" / "yaw_15.jpg")
    [face] = real.detect([image])[0]
    [crop] = sface.crops([image], [face])
    [embedding] = sface.embed([crop])
    assert np.abs(reference.feature(np.ascontiguousarray(crop[..., ::-1]))[0] - embedding).max() < 1e-4
    # Their alignment: the same least squares.
    row = np.concatenate([face.box[:2], face.box[2:] - face.box[:2], face.kps.ravel(), [face.score]])
    theirs = reference.alignCrop(np.ascontiguousarray(image[..., ::-1]), row.astype(np.float32))[..., ::-1]
    difference = np.abs(theirs.astype(int) - crop)
    assert difference.max() <= 2
    assert difference.mean() < 0.01


def test_sface_takes_a_crop_at_a_time(sface: Any) -> None:
    crops = np.random.default_rng(0).integers(0, 256, (3, 112, 112, 3), dtype=np.uint8)
    assert (sface.dim, sface.batch, sface.alignment) == (128, 1, "arcface-112")
    together = sface.embed(crops)
    assert together.shape == (3, 128)
    assert np.array_equal(together[1:2], sface.embed(crops[1:2]))
    assert sface.embed([]).shape == (0, 128)
    with pytest.raises(ValueError, match="112"):
        sface.embed(crops[:, :50])
    flat = Face(np.zeros(4, np.float32), 1.0, np.zeros((5, 2), np.float32))
    with pytest.raises(ValueError, match="coincide"):
        sface.crops([crops[0]], [flat])


@pytest.mark.parametrize("wrapper", [YuNet, SFace])
@pytest.mark.parametrize("content", [b"", b"not a network"])
def test_a_damaged_file_is_named(wrapper: Any, content: bytes, tmp_path: Path) -> None:
    (tmp_path / "bad.onnx").write_bytes(content)
    with pytest.raises(MissingError, match=r"bad\.onnx"):
        wrapper(Weights("local:bad", tmp_path / "bad.onnx"))
    with pytest.raises(MissingError, match="is a folder"):
        wrapper(Weights("local:bad", tmp_path))


def test_networks_for_other_things_are_refused(tiny: Zoo) -> None:
    with pytest.raises(MissingError, match="cannot be loaded"):
        YuNet(Weights("local:x", tiny("sface") / "model.onnx"))
    with pytest.raises(MissingError, match="no network for face crops"):
        SFace(Weights("local:x", tiny("yunet") / "model.onnx"))


def test_devices_and_options(yunet: Any, tiny: Zoo) -> None:
    tiny("sface")
    for device in ("cuda", "mps"):
        with pytest.raises(MissingError, match="runs on the CPU only"):
            load(FACES, device=device)
    with pytest.raises(MissingError, match="mps"):
        load(IDENTITY, device="mps")
    for options in ({"size": 100}, {"threshold": 1.0}, {"sise": 640}):
        with pytest.raises(UsageError):
            load(Binding("faces", FACES.model, options={**FACES.options, **options}))
    facts = yunet.fingerprint()
    assert facts["threshold"] == 0.7
    assert facts["opencv-python-headless"]
