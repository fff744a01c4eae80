"""A folder as one unit: checksums over it, and its replacement by a new one, as a whole or not at all."""

from __future__ import annotations

import ctypes
import hashlib
import os
import shutil
from pathlib import Path

CHECKSUMS = "checksums.sha256"


def write_checksums(folder: Path) -> None:
    """`checksums.sha256` over every other file, in the format of `sha256sum --check`; all files flushed to disk."""
    lines = []
    for path in sorted(path for path in folder.rglob("*") if path.is_file() and path.name != CHECKSUMS):
        with open(path, "rb") as source:
            lines.append(f"{hashlib.file_digest(source, 'sha256').hexdigest()}  {path.relative_to(folder).as_posix()}")
            os.fsync(source.fileno())
    (folder / CHECKSUMS).write_text("\n".join(lines) + "\n", encoding="utf-8")


def replace_folder(new: Path, target: Path) -> None:
    """Put the folder `new` in the place of `target` so that a kill leaves the one or the other there."""
    if not target.exists():
        new.rename(target)
        return
    if not _exchange(new, target):
        # No atomic exchange on this system: between the two renames only the old folder's other name exists,
        # from which `recover` puts it back.
        aside = _aside(target)
        shutil.rmtree(aside, ignore_errors=True)
        target.rename(aside)
        new.rename(target)
        new = aside
    shutil.rmtree(new, ignore_errors=True)


def recover(target: Path) -> None:
    """Undo what a kill inside `replace_folder` may have left."""
    aside = _aside(target)
    if aside.exists():
        if target.exists():
            shutil.rmtree(aside, ignore_errors=True)
        else:
            aside.rename(target)


def _aside(target: Path) -> Path:
    return target.with_name(f".{target.name}.old")


def _exchange(one: Path, other: Path) -> bool:
    """Swap two names in one system call (Linux `renameat2` with RENAME_EXCHANGE); False where that is missing."""
    call = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    at_cwd, exchange = -100, 2
    return call is not None and call(at_cwd, os.fsencode(one), at_cwd, os.fsencode(other), exchange) == 0
