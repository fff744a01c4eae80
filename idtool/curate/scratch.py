"""Room for arrays with a row per image: in memory while they are small, else in files, which the system may put off
to the disk whenever memory is short."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]

Room = Callable[[int, int], Floats]
"""(rows, columns) -> zeros of that shape."""
SMALL_BYTES = 16 << 20
BLOCK_ROWS = 4_096


def in_memory(rows: int, columns: int) -> Floats:
    return np.zeros((rows, columns), np.float32)


class OnDisk:
    """Arrays in `folder`. Their files have no name: they are gone with the array, or with the process."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self, rows: int, columns: int) -> Floats:
        if 4 * rows * columns <= SMALL_BYTES:
            return in_memory(rows, columns)
        self.folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=self.folder) as file:
            return np.asarray(np.memmap(file, np.float32, "w+", shape=(rows, columns)))


def gathered(array: Floats, rows: Ints, room: Room) -> Floats:
    """`array[rows]`, block by block."""
    result = room(len(rows), array.shape[1])
    for start in range(0, len(rows), BLOCK_ROWS):
        result[start : start + BLOCK_ROWS] = array[rows[start : start + BLOCK_ROWS]]
    return result
