"""A folder that one process at a time computes into, with a manifest that says how: runs and benchmarks."""

from __future__ import annotations

import fcntl
import json
import os
import re
import socket
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ClassVar, Self

from idtool import __version__
from idtool.errors import UsageError


class ManifestFolder:
    """`Class(path)` opens one to read; `Class.create(path)` makes it, or opens it to go on. As a context, it is locked
    for other processes."""

    file: ClassVar[str]
    """Name of the manifest."""
    format: ClassVar[int] = 1
    noun: ClassVar[str]
    """What it is, in messages."""
    other: ClassVar[str]
    """What is said of a folder of another kind: `is not a run`."""
    writer: ClassVar[str]
    """The command that writes it, in messages."""
    fresh: ClassVar[dict[str, Any]] = {}
    """Content of a new manifest beyond versions and date."""

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path).absolute()
        self._lock: int | None = None
        manifest = self.path / self.file
        if not manifest.is_file():
            raise UsageError(
                f"{path} {self.other}: it has no {self.file}.",
                f"Give the folder that `{self.writer} --output` wrote.",
            )
        try:
            self.manifest: dict[str, Any] = json.loads(manifest.read_text(encoding="utf-8"))
        except ValueError as error:
            raise UsageError(
                f"{manifest} is damaged: {error}.", f"Delete the {self.noun}, or restore the file."
            ) from error
        if self.manifest.get("format", self.format) > self.format:
            raise UsageError(f"{path} was written by a newer idtool.", "Upgrade idtool to read it.")

    @classmethod
    def create(cls, path: Path | str) -> Self:
        """Open the folder for writing, making it if it is not there. Raises UsageError when it holds something else,
        cannot be written, or is a URL."""
        local_only(path)
        folder = Path(path).absolute()
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if not (folder / cls.file).exists():
                strangers = [entry.name for entry in folder.iterdir() if not entry.name.startswith(".")]
                if strangers:
                    raise UsageError(
                        f"{path} is not empty and {cls.other} (it holds {strangers[0]!r}).",
                        "Choose another --output.",
                    )
                told = {"idtool": __version__, "format": cls.format, "created": now(), **cls.fresh}
                write_json(folder / cls.file, told)
        except OSError as error:
            raise UsageError(
                f"Cannot write to {path}: {error.strerror or error}.", "Choose a writable folder with --output."
            ) from error
        return cls(folder)

    def lock(self) -> None:
        """Keep other processes from writing to this folder. The system lets go when the process ends, however."""
        self._lock = lock_folder(self.path)

    def unlock(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def __enter__(self) -> Self:
        self.lock()
        return self

    def __exit__(self, *_: object) -> None:
        self.unlock()

    def save(self, **changes: Any) -> None:
        """Write the manifest, with `changes` at its top level."""
        self.manifest.update(changes)
        self.manifest["updated"] = now()
        write_json(self.path / self.file, self.manifest)


def local_only(path: Path | str) -> None:
    """UsageError for an output that was given as a URL: as a path it would be a folder called `s3:`."""
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]+:/", str(path)):
        raise UsageError(
            f"--output {path}: what is computed lies on a local or mounted disk, not behind a URL.",
            "Give a folder; send what is finished elsewhere.",
        )


def lock_folder(path: Path) -> int:
    """A handle that keeps other processes from locking the folder until it is closed. UsageError when one has."""
    handle = os.open(path / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.read(handle, 200).decode(errors="replace").strip() or "another process"
        os.close(handle)
        raise UsageError(f"{path} is in use by {holder}.", "Wait for it, or choose another --output.") from None
    os.truncate(handle, 0)
    os.pwrite(handle, f"process {os.getpid()} on {socket.gethostname()}".encode(), 0)
    return handle


def write_json(path: Path, content: Any) -> None:
    """Write JSON so that the file is either the old one or the new one, never half of it."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "w", encoding="utf-8") as sink:
            json.dump(content, sink, indent=1, ensure_ascii=False, allow_nan=False, default=str)
            sink.flush()
            os.fsync(sink.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def now() -> str:
    """The time of day as manifests have it: UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")
