"""Finding media files below a folder, sorted by path, without following a loop."""

from __future__ import annotations

import os
import posixpath
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from idtool.media.formats import MEDIA_EXTENSIONS
from idtool.media.paths import printable
from idtool.media.place import Place


@dataclass(frozen=True)
class Found:
    uri: str
    name: str
    """File name as table text."""
    group: str
    """Folder below the root of the source, `/` between its parts; empty at the root."""


class Seen:
    """Which real files were listed already. Folders are remembered whole, so that a tree of a million files costs
    the memory of its folders."""

    def __init__(self) -> None:
        self._folders: set[str] = set()
        self._files: set[str] = set()

    def new_folder(self, path: str) -> bool:
        """Whether a folder is visited for the first time, by whatever name."""
        real = os.path.realpath(path)
        if real in self._folders:
            return False
        self._folders.add(real)
        return True

    def new_file(self, path: str | os.PathLike[str]) -> bool:
        """Whether a file named on its own (by a link, a manifest, the user) is listed for the first time."""
        real = os.path.realpath(path)
        folder, name = os.path.split(real)
        # A folder once visited lists such a file itself, if not yet then later in its turn.
        if real in self._files or (folder in self._folders and is_listed(name) and os.path.exists(real)):  # noqa: PTH110
            return False
        self._files.add(real)
        return True

    def new_entry(self, folder: str, name: str) -> bool:
        """Whether a plain file met in a folder was not named on its own before."""
        return not self._files or os.path.join(os.path.realpath(folder), name) not in self._files  # noqa: PTH118

    def new_url(self, url: str) -> bool:
        known = url in self._files
        self._files.add(url)
        return not known


def is_listed(name: str) -> bool:
    """Whether a file of this name is taken from a folder: not hidden, and of a known extension."""
    return not name.startswith(".") and posixpath.splitext(name)[1].lower() in MEDIA_EXTENSIONS


def _why_skipped(name: str) -> str:
    if name.startswith("."):
        return "hidden"
    extension = posixpath.splitext(name)[1].lower()
    return f"extension {printable(extension)}" if extension else "no extension"


def walk_local(root: Place, seen: Seen, skipped: Counter[str]) -> Iterator[Found]:
    """Media files below a local folder. Symbolic links are followed; each real folder and file comes once."""
    waiting = [iter([("", True, False)])]
    groups = [""]
    while waiting:
        entry = next(waiting[-1], None)
        if entry is None:
            waiting.pop()
            groups.pop()
            continue
        name, is_folder, is_link = entry
        group = groups[-1]
        inside = f"{group}/{name}" if group and name else name or group
        path = posixpath.join(root.path, inside)
        if is_folder:
            if name.startswith("."):
                skipped["hidden"] += 1
            elif seen.new_folder(path):
                waiting.append(iter(_scan(path, skipped)))
                groups.append(inside)
            else:
                skipped["repeated folder"] += 1
        elif not is_listed(name):
            skipped[_why_skipped(name)] += 1
        elif seen.new_file(path) if is_link else seen.new_entry(posixpath.dirname(path), name):
            yield Found(root.uri_of(path), printable(name), printable(group))
        else:
            skipped["repeated"] += 1


def _scan(folder: str, skipped: Counter[str]) -> list[tuple[str, bool, bool]]:
    """Name, is a folder, is a link: of each entry, sorted so that the whole listing is in order of path."""
    try:
        with os.scandir(folder) as entries:
            found = [(entry.name, _is_folder(entry), entry.is_symlink()) for entry in entries]
    except OSError:
        skipped["unreadable folder"] += 1
        return []
    return sorted(found, key=lambda entry: f"{entry[0]}/" if entry[1] else entry[0])


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def walk_remote(root: Place, seen: Seen, skipped: Counter[str]) -> Iterator[Found]:
    """Media files below a folder of an fsspec file system."""
    for path, name, group in _walk_remote(root.filesystem, root.path.rstrip("/"), "", skipped):
        url = root.uri_of(path)
        if seen.new_url(url):
            yield Found(url, name, group)
        else:
            skipped["repeated"] += 1


def _walk_remote(filesystem: Any, folder: str, group: str, skipped: Counter[str]) -> Iterator[tuple[str, str, str]]:
    entries: dict[str, str] = {}
    try:
        found = filesystem.ls(folder, detail=True)
    except PermissionError:
        skipped["unreadable folder"] += 1
        return
    for entry in found:
        path = str(entry["name"]).rstrip("/")
        if path != folder:  # object stores list a folder's own marker
            entries[posixpath.basename(path) + ("/" if entry["type"] == "directory" else "")] = path
    for name, path in sorted(entries.items()):
        if name.startswith("."):
            skipped["hidden"] += 1
        elif name.endswith("/"):
            yield from _walk_remote(filesystem, path, f"{group}/{name[:-1]}" if group else name[:-1], skipped)
        elif is_listed(name):
            yield path, name, group
        else:
            skipped[_why_skipped(name)] += 1
