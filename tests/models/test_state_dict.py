"""Checkpoints are read without PyTorch, and nothing in them is ever run."""

from __future__ import annotations

import os
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest

from idtool.errors import UsageError
from idtool.models.state_dict import read_state_dict


def text(value: str) -> bytes:
    data = value.encode()
    return b"X" + len(data).to_bytes(4, "little") + data


def tensor(kind: str, key: str, numel: int, offset: int, shape: tuple[int, ...], strides: tuple[int, ...]) -> bytes:
    """The opcodes that PyTorch writes for a tensor."""
    numbers = lambda values: b"(" + b"".join(b"J" + v.to_bytes(4, "little", signed=True) for v in values) + b"t"  # noqa: E731
    storage = b"(" + text("storage") + f"ctorch\n{kind}\n".encode() + text(key) + text("cpu")
    storage += b"J" + numel.to_bytes(4, "little", signed=True) + b"tQ"
    body = storage + b"J" + offset.to_bytes(4, "little", signed=True) + numbers(shape) + numbers(strides)
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + body + b"\x89ccollections\nOrderedDict\n)RtR"


def program(**tensors: bytes) -> bytes:
    items = b"".join(text(name) + value for name, value in tensors.items())
    return b"\x80\x02ccollections\nOrderedDict\n)Rq\x00(" + items + b"u}" + text("_metadata") + b"}sb."


def archive(path: Path, code: bytes, compress: bool = False, **storages: bytes) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED if compress else zipfile.ZIP_STORED) as file:
        file.writestr("net/data.pkl", code)
        for key, data in storages.items():
            file.writestr(f"net/data/{key.removeprefix('s')}", data)
    return path


VALUES = np.arange(6, dtype=np.float32)


def test_zip(tmp_path: Path) -> None:
    whole = tensor("FloatStorage", "0", 6, 0, (2, 3), (3, 1))
    turned = tensor("FloatStorage", "0", 6, 0, (3, 2), (1, 3))
    part = tensor("FloatStorage", "0", 6, 4, (2,), (1,))
    half = tensor("BFloat16Storage", "1", 2, 0, (2,), (1,))
    count = tensor("LongStorage", "2", 1, 0, (), ())
    bfloat = (np.array([1.5, -2], np.float32).view(np.uint32) >> 16).astype("<u2").tobytes()
    code = program(whole=whole, turned=turned, part=part, half=half, count=count)
    path = archive(tmp_path / "a.pth", code, s0=VALUES.tobytes(), s1=bfloat, s2=np.int64(7).tobytes())
    found = read_state_dict(path)
    assert list(found) == ["whole", "turned", "part", "half", "count"]
    assert np.array_equal(found["whole"], VALUES.reshape(2, 3))
    assert np.array_equal(found["turned"], VALUES.reshape(2, 3).T)
    assert np.array_equal(found["part"], [4, 5])
    assert found["half"].dtype == np.float32
    assert np.array_equal(found["half"], [1.5, -2])
    assert found["count"].shape == ()
    assert found["count"] == 7
    assert all(array.flags.owndata or array.base is not None for array in found.values())
    found["part"][0] = 9
    assert found["whole"][1, 1] == 4, "arrays do not share memory"


def test_legacy(tmp_path: Path) -> None:
    head = pickle.dumps(0x1950A86A20F9469CFC6C, 2) + pickle.dumps(1001, 2)
    head += pickle.dumps({"protocol_version": 1001, "little_endian": True, "type_sizes": {"int": 4}}, 2)
    code = program(w=tensor("FloatStorage", "abc", 6, 0, (6,), (1,)))
    path = tmp_path / "old.pth"
    path.write_bytes(head + code + pickle.dumps(["abc"], 2) + (6).to_bytes(8, "little") + VALUES.tobytes())
    assert np.array_equal(read_state_dict(path)["w"], VALUES)


class Evil:
    """Unpickling this would create a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
@pytest.mark.parametrize("wrapped", [True, False])
def test_code_is_never_run(tmp_path: Path, protocol: int, wrapped: bool) -> None:
    trap = tmp_path / "sprung"
    code = pickle.dumps({"w": Evil(trap)}, protocol)
    path = archive(tmp_path / "evil.pth", code) if wrapped else tmp_path / "evil.pkl"
    if not wrapped:
        path.write_bytes(code)
    with pytest.raises(UsageError, match="without PyTorch"):
        read_state_dict(path)
    assert not trap.exists()
    pickle.loads(code)  # noqa: S301 - shows that the trap works
    assert trap.exists()


def test_a_known_name_is_not_called_with_anything(tmp_path: Path) -> None:
    """OrderedDict of something, a tensor of something that is no storage, an opcode that sets attributes."""
    for code in (
        b"\x80\x02ccollections\nOrderedDict\n(]tR.",
        b"\x80\x02}(" + text("w") + b"ctorch._utils\n_rebuild_tensor_v2\n(K\x01K\x00))tRu.",
        b"\x80\x02}(" + text("w") + b"cbuiltins\neval\n(" + text("1") + b"tRu.",
        b"\x80\x02(cos\nsystem\no.",
        b"\x80\x02}(" + text("w") + b"ctorch\nFloatStorage\nu.",
    ):
        with pytest.raises(UsageError):
            read_state_dict(archive(tmp_path / "a.pth", code))


@pytest.mark.parametrize(
    ("offset", "shape", "strides"),
    [(0, (7,), (1,)), (5, (2,), (1,)), (-1, (2,), (1,)), (0, (2,), (-1,)), (0, (100000,), (0,)), (0, (2, 2), (1,))],
)
def test_a_tensor_stays_inside_its_storage(
    tmp_path: Path, offset: int, shape: tuple[int, ...], strides: tuple[int, ...]
) -> None:
    code = program(w=tensor("FloatStorage", "0", 6, offset, shape, strides))
    with pytest.raises(UsageError):
        read_state_dict(archive(tmp_path / "a.pth", code, s0=VALUES.tobytes()))


def test_damaged_files(tmp_path: Path) -> None:
    good = program(w=tensor("FloatStorage", "0", 6, 0, (6,), (1,)))
    compressed = archive(tmp_path / "bomb.pth", good, compress=True, s0=VALUES.tobytes())
    with pytest.raises(UsageError, match="compressed"):
        read_state_dict(compressed)
    for data in (b"", b"PK\x03\x04", b"\x80\x02}.", good[:40], pickle.dumps([1, 2], 2), os.urandom(100)):
        path = tmp_path / "x.pth"
        path.write_bytes(data)
        with pytest.raises(UsageError):
            read_state_dict(path)
    with pytest.raises(UsageError):
        read_state_dict(archive(tmp_path / "missing.pth", good))


FILES = (
    "parsing/celebamask_unet_467k.pth",
    "vae/taef2_encoder.pth",
    "aesthetic/sac_logos_ava1_l14_linearMSE.pth",
    "aesthetic/sa_0_4_vit_l_14_linear.pth",
)


def test_real_checkpoints(fixtures: Path) -> None:
    linear = read_state_dict(fixtures / "weights" / FILES[3])
    assert {key: value.shape for key, value in linear.items()} == {"weight": (1, 768), "bias": (1,)}
    assert read_state_dict(fixtures / "weights" / FILES[1])["0.weight"].dtype == np.float16


@pytest.mark.parametrize("name", FILES)
def test_equal_to_torch(fixtures: Path, name: str) -> None:
    torch = pytest.importorskip("torch")
    ours = read_state_dict(fixtures / "weights" / name)
    theirs = torch.load(fixtures / "weights" / name, weights_only=True, map_location="cpu")
    assert list(ours) == list(theirs)
    for key, value in theirs.items():
        assert ours[key].dtype == value.numpy().dtype
        assert np.array_equal(ours[key], value.numpy())
