"""LPIPS: the same numbers as the reference, plausible ones on photos, and weights that are read without being run."""

from __future__ import annotations

import os
import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from idtool.errors import MissingError
from idtool.models import weights
from idtool.models.numpy_pickle import read_arrays
from idtool.models.perceptual import LpipsAlex, lpips_state
from tests.models.test_faces import read


@pytest.fixture(scope="module")
def model() -> LpipsAlex:
    return LpipsAlex()


@pytest.fixture(scope="module")
def photos(fixtures: Path) -> list[np.ndarray]:
    names = ("identities/obama/00_face_recognition.jpg", "singles/lifeifei.jpg", "singles/cc_sunak.jpg")
    return [cv2.resize(read(fixtures / name), (160, 192), interpolation=cv2.INTER_AREA) for name in names]


def jpeg(image: np.ndarray, quality: int) -> np.ndarray:
    return np.asarray(cv2.imdecode(cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])[1], 1))


@pytest.mark.offline_weights
def test_photos(model: LpipsAlex, photos: list[np.ndarray]) -> None:
    same = model.distance(photos, photos)
    packed = model.distance(photos, [jpeg(image, 30) for image in photos])
    blurred = model.distance(photos, [cv2.GaussianBlur(image, (0, 0), 4) for image in photos])
    others = model.distance(photos, photos[1:] + photos[:1])
    assert np.array_equal(same, np.zeros(3, np.float32))
    assert packed.max() < 0.15
    assert (packed < blurred).all()
    assert 0.3 < blurred.min() < blurred.max() < 0.7
    assert others.min() > 0.35
    assert model.distance(photos[:1], photos[1:2]) == pytest.approx(model.distance(photos[1:2], photos[:1]), abs=1e-6)


@pytest.mark.offline_weights
def test_equal_to_torchmetrics(model: LpipsAlex, photos: list[np.ndarray]) -> None:
    torch = pytest.importorskip("torch")
    reference = pytest.importorskip("torchmetrics.functional.image.lpips")
    pytest.importorskip("torchvision")
    state = lpips_state(read_arrays(weights.path("lpips-alex")))
    # The heads are in the package; the trunk would have to be downloaded, so it gets our convolutions.
    theirs = reference._LPIPS(net="alex", pnet_rand=True)
    for k, head in enumerate(theirs.lins):
        [gains] = head.parameters()
        assert np.array_equal(gains.detach().numpy().reshape(-1), state[f"lin{k}"]), f"head {k}"
    convolutions = [layer for layer in theirs.net.modules() if isinstance(layer, torch.nn.Conv2d)]
    assert len(convolutions) == 5
    with torch.no_grad():
        for k, layer in enumerate(convolutions):
            layer.weight.copy_(torch.from_numpy(np.ascontiguousarray(state[f"conv{k}.weight"])))
            layer.bias.copy_(torch.from_numpy(state[f"conv{k}.bias"]))

    def tensor(image: np.ndarray) -> Any:
        return torch.from_numpy(image.copy()).permute(2, 0, 1)[None].float() / 127.5 - 1

    noise = np.random.default_rng(0).integers(0, 256, (2, 47, 31, 3), dtype=np.uint8)
    pairs = [(photos[0], photos[1]), (photos[2], jpeg(photos[2], 40)), (noise[0], noise[1])]
    for a, b in pairs:
        expected = theirs(tensor(a), tensor(b)).item()
        assert model.distance([a], [b])[0] == pytest.approx(expected, abs=1e-5)


@pytest.mark.offline_weights
def test_what_is_no_pair(model: LpipsAlex) -> None:
    image = np.zeros((40, 50, 3), np.uint8)
    assert model.distance([], []).shape == (0,)
    assert np.isfinite(model.distance([image], [image + 255])).all()
    for a, b, says in (
        ([image], [image[:, :49]], "one size"),
        ([image[:30]], [image[:30]], "at least 31 px"),
        ([image[..., 0]], [image[..., 0]], "HxWx3"),
        ([image], [], "shorter"),
    ):
        with pytest.raises(ValueError, match=says):
            model.distance(a, b)
    with pytest.raises(MissingError, match="CPU only"):
        LpipsAlex(device="cuda")
    assert model.fingerprint()["sha256"].startswith("443c5bc35326b81e")


@pytest.mark.offline_weights
def test_threads_share_it(model: LpipsAlex) -> None:
    rng = np.random.default_rng(1)
    pairs = [rng.integers(0, 256, (2, 40 + 3 * k, 50, 3), dtype=np.uint8) for k in range(4)]
    alone = [model.distance([a], [b])[0] for a, b in pairs]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda pair: model.distance([pair[0]], [pair[1]])[0], pairs))
    assert together == pytest.approx(alone, abs=1e-6)


# The reader of the weights.


def dump(path: Path, value: Any, protocol: int = 3) -> Path:
    path.write_bytes(pickle.dumps(value, protocol))
    return path


@pytest.mark.parametrize("protocol", [3, 4])
def test_arrays_are_read(tmp_path: Path, protocol: int) -> None:
    tree = {
        "net": {"kernel": np.arange(24, dtype=np.float32).reshape(2, 3, 4), "bias": np.array([1.5, -2])},
        "columns": np.asfortranarray(np.arange(6, dtype=np.int64).reshape(2, 3)),
        "one": np.array(7, np.uint8),
    }
    tree["again"] = tree["net"]["kernel"]  # from the memo
    found = read_arrays(dump(tmp_path / "a.ckpt", tree, protocol))
    assert list(found) == ["net/kernel", "net/bias", "columns", "one", "again"]
    assert np.array_equal(found["net/kernel"], tree["net"]["kernel"])
    assert found["net/bias"].dtype == np.float64
    assert np.array_equal(found["columns"], tree["columns"])
    assert found["one"].shape == ()
    assert found["again"].flags.writeable


class Evil:
    """Unpickling this would create a folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("protocol", [0, 2, 3, 4, 5])
def test_code_is_never_run(tmp_path: Path, protocol: int) -> None:
    trap = tmp_path / "sprung"
    path = dump(tmp_path / "evil.ckpt", {"a": Evil(trap)}, protocol)
    with pytest.raises(MissingError, match="cannot be read as arrays"):
        read_arrays(path)
    assert not trap.exists()
    pickle.loads(path.read_bytes())  # noqa: S301 - shows that the trap works
    assert trap.exists()


def test_other_files_are_refused(tmp_path: Path) -> None:
    good = pickle.dumps({"a": np.arange(6, dtype=np.float32)}, 3)
    bad = [
        *(b"", b"\x80\x03", good[:60], good[:-1], os.urandom(80)),
        good.replace((24).to_bytes(1, "little") + np.arange(1, dtype=np.float32).tobytes(), b"\x10\0\0\0\0", 1),
        good.replace(b"f4", b"O8"),
        good.replace(b"K\x06\x85", b"K\x07\x85"),  # a shape that its data does not fill
        *(pickle.dumps(value, 3) for value in ([1], np.arange(3), {"a": 3}, {1: np.arange(3)}, {"a": [np.arange(3)]})),
        pickle.dumps({"a": np.array(["x"], object)}, 3),
        pickle.dumps({"a": np.array([(1, 2.0)], [("x", "i4"), ("y", "f4")])}, 3),
        pickle.dumps({"a": np.arange(3, dtype=">f4")}, 3),
        b"\x80\x03(cos\nsystem\no.",
        b"\x80\x03cnumpy\nndarray\nX\x01\x00\x00\x00a\x85R.",
        b"\x80\x03cnumpy\nndarray\n.",
    ]
    for number, content in enumerate(bad):
        path = tmp_path / f"{number}.ckpt"
        path.write_bytes(content)
        assert content != good
        with pytest.raises(MissingError, match="cannot be read as arrays"):
            read_arrays(path)
    with pytest.raises(MissingError, match=r"lack .*Conv_0/kernel"):
        lpips_state({"a": np.zeros(3)})
