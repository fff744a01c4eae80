"""Numpy arrays in nested dicts, read from a pickle without unpickling it.

A pickle is a program that may call anything. As in `idtool.models.state_dict`, it is only read here, opcode by opcode:
dicts, tuples, numbers, texts and bytes, and the two "calls" by which numpy describes an array and its type. Nothing is
imported by name and nothing is called; whatever else the program wants is refused.
"""

from __future__ import annotations

import io
import math
import pickletools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from idtool.errors import MissingError

Array = npt.NDArray[Any]

_REBUILD = ("numpy.core.multiarray _reconstruct", "numpy._core.multiarray _reconstruct")
_NDARRAY, _DTYPE = "numpy ndarray", "numpy dtype"
_NAMES = {*_REBUILD, _NDARRAY, _DTYPE}
_TYPES = ("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "b1")


class _Refused(ValueError):
    """What the file asks for is not among what is read."""


@dataclass(frozen=True)
class _Name:
    """A global that the pickle mentions. It stays a text."""

    text: str


@dataclass
class _Type:
    """A data type; little-endian once its state has said so."""

    code: str
    checked: bool = False


@dataclass
class _Array:
    """An array; empty until its state is known."""

    value: Array | None = None


class _Mark:
    pass


def read_arrays(path: Path) -> dict[str, Array]:
    """All arrays of nested dicts, as copies, by their keys joined with `/`.

    MissingError when the file is damaged, or holds anything but arrays in dicts with texts as keys.
    """
    try:
        tree = _interpret(io.BytesIO(path.read_bytes()))
        return dict(_flattened(tree, ""))
    except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
        raise MissingError(
            f"{path} cannot be read as arrays (is it complete?): {error}.", "Replace it, or fetch it again."
        ) from error


def _flattened(tree: Any, above: str) -> list[tuple[str, Array]]:
    if isinstance(tree, _Array) and tree.value is not None and above:
        return [(above, tree.value)]
    found = []
    for key, value in _expect(tree, dict).items():
        found += _flattened(value, f"{above}/{_expect(key, str)}" if above else _expect(key, str))
    return found


def _interpret(file: io.BytesIO) -> Any:
    """What the program would leave on its stack, as descriptions."""
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
        if name in _LITERALS:
            stack.append(argument)
        elif name in _CONSTANTS:
            stack.append(_CONSTANTS[name]())
        elif name in ("BINPUT", "LONG_BINPUT"):
            memo[argument] = stack[-1]
        elif name == "MEMOIZE":
            memo[len(memo)] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            stack.append(memo[argument])
        elif name == "TUPLE":
            stack.append(tuple(since_mark()))
        elif name in _TUPLES:
            stack[-_TUPLES[name] :] = [tuple(stack[-_TUPLES[name] :])]
        elif name in ("SETITEM", "SETITEMS"):
            items = [stack.pop(-2), stack.pop()] if name == "SETITEM" else since_mark()
            _expect(stack[-1], dict).update(zip(items[::2], items[1::2], strict=True))
        elif name in ("GLOBAL", "STACK_GLOBAL"):
            text = argument if name == "GLOBAL" else f"{stack.pop(-2)} {stack.pop()}"
            if text not in _NAMES:
                raise _Refused(f"it asks for {text!r}")
            stack.append(_Name(text))
        elif name == "REDUCE":
            arguments = _expect(stack.pop(), tuple)
            stack.append(_described(_expect(stack.pop(), _Name).text, arguments))
        elif name == "BUILD":
            state = _expect(stack.pop(), tuple)
            _complete(stack[-1], state)
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
    "EMPTY_TUPLE": tuple,
    "MARK": _Mark,
}
_LITERALS = (
    *("BININT", "BININT1", "BININT2", "LONG1", "BINUNICODE", "SHORT_BINUNICODE"),
    *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8"),
)
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


def _described(name: str, arguments: tuple[Any, ...]) -> _Array | _Type:
    """What one of the known calls would have made."""
    if name in _REBUILD and len(arguments) == 3 and arguments[0] == _Name(_NDARRAY):
        return _Array()
    if name == _DTYPE and arguments and arguments[0] in _TYPES:
        return _Type(arguments[0])
    raise _Refused(f"it calls {name} in an unknown way")


def _complete(target: Any, state: tuple[Any, ...]) -> None:
    """Give an array or a type the state that follows its call."""
    if isinstance(target, _Type):
        # version, byte order (none for single bytes), and five facts of structured types, which are refused
        _, order, *structure = state
        if order not in ("<", "|") or structure[:3] != [None, None, None]:
            raise _Refused("it has numbers of a kind that is not read here")
        target.checked = True
        return
    _, shape, kind, by_columns, data = state
    if not _expect(kind, _Type).checked:
        raise _Refused("it has numbers of an unknown byte order")
    dtype = np.dtype(f"<{kind.code}")
    if not all(type(size) is int and size >= 0 for size in _expect(shape, tuple)):
        raise _Refused("an array has an impossible shape")
    if math.prod(shape) * dtype.itemsize != len(_expect(data, bytes)):
        raise _Refused("an array does not have the size of its data")
    array = np.frombuffer(data, dtype).reshape(shape, order="F" if by_columns else "C")
    _expect(target, _Array).value = array.copy()


def _expect(value: Any, kind: type) -> Any:
    if not isinstance(value, kind):
        raise _Refused(f"it has a {type(value).__name__} where a {kind.__name__} belongs")
    return value
