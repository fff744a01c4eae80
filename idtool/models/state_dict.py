"""Tensors of PyTorch checkpoints (`.pth`) as numpy arrays, without PyTorch and without unpickling.

A checkpoint is a pickle: a program for a stack machine that may call any function. Here the program is only read,
opcode by opcode, and a small subset of it is interpreted: containers, numbers, strings, and the three "calls" that
describe a tensor, an ordered dict and a parameter. Nothing is imported by name and nothing is ever called; any other
opcode or name is refused. Both file formats are read: the zip of PyTorch 1.6 and later, and the stream before it.
"""

from __future__ import annotations

import io
import math
import pickletools
import struct
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from idtool.errors import UsageError

Array = npt.NDArray[Any]

_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_LEGACY_PROTOCOL = 1001
_STORAGES: dict[str, np.dtype[Any]] = {
    "torch FloatStorage": np.dtype("<f4"),
    "torch DoubleStorage": np.dtype("<f8"),
    "torch HalfStorage": np.dtype("<f2"),
    "torch BFloat16Storage": np.dtype("<u2"),
    "torch LongStorage": np.dtype("<i8"),
    "torch IntStorage": np.dtype("<i4"),
    "torch ShortStorage": np.dtype("<i2"),
    "torch CharStorage": np.dtype("i1"),
    "torch ByteStorage": np.dtype("u1"),
    "torch BoolStorage": np.dtype("?"),
}
_ORDERED_DICT, _TENSOR, _PARAMETER = (
    *("collections OrderedDict", "torch._utils _rebuild_tensor_v2", "torch._utils _rebuild_parameter"),
)
_NAMES = {*_STORAGES, _ORDERED_DICT, _TENSOR, _PARAMETER}
_BFLOAT = "torch BFloat16Storage"


class _Refused(ValueError):
    """What the file asks for is not among what is read."""


@dataclass(frozen=True)
class _Name:
    """A global that the pickle mentions. It stays a text."""

    text: str


@dataclass(frozen=True)
class _Storage:
    kind: str
    key: str
    numel: int


@dataclass(frozen=True)
class _Tensor:
    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class _Mark:
    pass


def read_state_dict(path: Path) -> dict[str, Array]:
    """The tensors of a checkpoint that is a dict of names to tensors, as copies; bfloat16 becomes float32.

    Raises UsageError when the file is damaged, is not such a dict, or contains anything that is not read here.
    """
    try:
        data = path.read_bytes()
        tree, storage = _read_zip(data) if data[:4] == b"PK\x03\x04" else _read_legacy(data)
        if not isinstance(tree, dict) or not all(isinstance(key, str) for key in tree):
            raise _Refused("it is not a dict of names to tensors")
        tensors = {key: value for key, value in tree.items() if isinstance(value, _Tensor)}
        if len(tensors) != len(tree) or not tensors:
            raise _Refused("it has values that are not tensors")
        return {key: _array(value, storage) for key, value in tensors.items()}
    except (ValueError, KeyError, IndexError, TypeError, struct.error, zipfile.BadZipFile, EOFError) as error:
        raise UsageError(f"{path} is not a checkpoint that can be read without PyTorch: {error}.") from error


def _read_zip(data: bytes) -> tuple[Any, Callable[[_Storage], Array]]:
    archive = zipfile.ZipFile(io.BytesIO(data))
    programs = [name for name in archive.namelist() if name.count("/") == 1 and name.endswith("/data.pkl")]
    if len(programs) != 1:
        raise _Refused("it has no data.pkl")
    root = programs[0].removesuffix("data.pkl")
    if f"{root}byteorder" in archive.namelist() and _member(archive, f"{root}byteorder") != b"little":
        raise _Refused("it is not little-endian")

    def storage(wanted: _Storage) -> Array:
        return np.frombuffer(_member(archive, f"{root}data/{wanted.key}"), _STORAGES[wanted.kind])

    return _interpret(io.BytesIO(_member(archive, programs[0]))), storage


def _member(archive: zipfile.ZipFile, name: str) -> bytes:
    """A stored member; PyTorch never compresses, so a compressed one could only be a bomb."""
    if archive.getinfo(name).compress_type != zipfile.ZIP_STORED:
        raise _Refused(f"{name} is compressed")
    return archive.read(name)


def _read_legacy(data: bytes) -> tuple[Any, Callable[[_Storage], Array]]:
    file = io.BytesIO(data)
    if _interpret(file) != _LEGACY_MAGIC or _interpret(file) != _LEGACY_PROTOCOL:
        raise _Refused("it does not begin like a checkpoint")
    system = _interpret(file)
    if not isinstance(system, dict) or system.get("little_endian") is not True:
        raise _Refused("it is not little-endian")
    kinds: dict[str, str] = {}
    tree = _interpret(file, kinds)
    found: dict[str, Array] = {}
    for key in _interpret(file):
        dtype = _STORAGES[kinds[key]]
        (numel,) = struct.unpack("<q", file.read(8))
        if not 0 <= numel * dtype.itemsize <= len(data):
            raise _Refused("a tensor is larger than the file")
        found[key] = np.frombuffer(file.read(numel * dtype.itemsize), dtype, numel)
    return tree, lambda wanted: found[wanted.key]


def _array(tensor: _Tensor, storage: Callable[[_Storage], Array]) -> Array:
    flat = storage(tensor.storage)
    shape, strides, offset = tensor.shape, tensor.strides, tensor.offset
    if len(shape) != len(strides) or min((offset, *shape, *strides)) < 0:
        raise _Refused("a tensor has an impossible shape")
    last = offset + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
    # An expanded tensor (stride 0) would be copied to more memory than the file has.
    if math.prod(shape) and (last >= len(flat) or math.prod(shape) > len(flat)):
        raise _Refused("a tensor reaches beyond its storage")
    steps = tuple(stride * flat.itemsize for stride in strides)
    out = np.lib.stride_tricks.as_strided(flat[offset:], shape, steps, writeable=False).copy()
    return np.asarray((out.astype(np.uint32) << 16).view(np.float32) if tensor.storage.kind == _BFLOAT else out)


def _interpret(file: io.BytesIO, kinds: dict[str, str] | None = None) -> Any:
    """Run one pickle's program up to its STOP; `file` is left behind it. `kinds` collects the storages' types."""
    stack: list[Any] = []
    memo: dict[int, Any] = {}

    def since_mark() -> list[Any]:
        at = max(index for index, value in enumerate(stack) if isinstance(value, _Mark))
        values = stack[at + 1 :]
        del stack[at:]
        return values

    argument: Any
    for opcode, argument, _ in pickletools.genops(file):
        name = opcode.name
        if name in ("PROTO", "FRAME"):
            continue
        if name in _CONSTANTS:
            stack.append(_CONSTANTS[name]())
        elif name in _LITERALS:
            stack.append(argument)
        elif name == "MARK":
            stack.append(_Mark())
        elif name in ("BINPUT", "LONG_BINPUT"):
            memo[argument] = stack[-1]
        elif name == "MEMOIZE":
            memo[len(memo)] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            stack.append(memo[argument])
        elif name == "TUPLE":
            stack.append(tuple(since_mark()))
        elif name in _TUPLES:
            size = _TUPLES[name]
            stack[-size:] = [tuple(stack[-size:])]
        elif name in ("SETITEM", "SETITEMS"):
            items = [stack.pop(-2), stack.pop()] if name == "SETITEM" else since_mark()
            _expect(stack[-1], dict).update(zip(items[::2], items[1::2], strict=True))
        elif name in ("APPEND", "APPENDS"):
            values = [stack.pop()] if name == "APPEND" else since_mark()
            _expect(stack[-1], list).extend(values)
        elif name in ("GLOBAL", "STACK_GLOBAL"):
            text = argument if name == "GLOBAL" else f"{stack.pop(-2)} {stack.pop()}"
            if text not in _NAMES:
                raise _Refused(f"it asks for {text!r}")
            stack.append(_Name(text))
        elif name == "BINPERSID":
            stack.append(_storage(stack.pop(), kinds))
        elif name == "REDUCE":
            arguments = _expect(stack.pop(), tuple)
            stack.append(_describe(_expect(stack.pop(), _Name).text, arguments))
        elif name == "BUILD":
            _expect(stack.pop(), dict)  # the version notes that PyTorch hangs on its ordered dict
            _expect(stack[-1], dict)
        elif name == "STOP":
            return stack.pop()
        else:
            raise _Refused(f"it uses the opcode {name}")
    raise _Refused("it ends early")


_CONSTANTS: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_DICT": dict,
    "EMPTY_LIST": list,
    "EMPTY_TUPLE": tuple,
}
_LITERALS = {"BINUNICODE", "SHORT_BINUNICODE", "BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT"}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


def _storage(identifier: Any, kinds: dict[str, str] | None) -> _Storage:
    """A persistent id: ("storage", type, key, device, number of elements[, view, always None])."""
    tag, kind, key, _, numel, *view = _expect(identifier, tuple)
    if tag != "storage" or any(part is not None for part in view) or _expect(kind, _Name).text not in _STORAGES:
        raise _Refused("it refers to something that is not a storage")
    if kinds is not None:
        kinds[_expect(key, str)] = kind.text
    return _Storage(kind.text, _expect(key, str), _expect(numel, int))


def _describe(name: str, arguments: tuple[Any, ...]) -> Any:
    """What one of the known calls would have built, as a description."""
    if name == _ORDERED_DICT and not arguments:
        return {}
    if name == _PARAMETER and arguments:
        return _expect(arguments[0], _Tensor)
    if name == _TENSOR and len(arguments) >= 4:
        storage, offset, shape, strides = arguments[:4]
        numbers = [offset, *_expect(shape, tuple), *_expect(strides, tuple)]
        if all(type(number) is int for number in numbers):
            return _Tensor(_expect(storage, _Storage), offset, shape, strides)
    raise _Refused(f"it calls {name} in an unknown way")


def _expect(value: Any, kind: type) -> Any:
    if not isinstance(value, kind):
        raise _Refused(f"it has a {type(value).__name__} where a {kind.__name__} belongs")
    return value
