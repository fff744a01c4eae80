"""An input as the user gives it: a folder or file, local or on an fsspec file system."""

from __future__ import annotations

import os
import posixpath
from dataclasses import dataclass
from typing import IO, Any

from idtool.errors import MissingError, UsageError
from idtool.media.paths import holds_login, is_url, package_hint, printable, to_uri, without_login


def _leads_back(filesystem: Any, path: str) -> bool:
    """Whether the URL of a path opens the same file system again. It does not where the host or the archive stands
    elsewhere in the URL that was given (`zip://inside::archive`, `sftp://host/…`)."""
    import fsspec

    try:
        again, _ = fsspec.core.url_to_fs(str(filesystem.unstrip_protocol(path)))
    except (OSError, ValueError, TypeError, ImportError):
        return False
    return bool(again == filesystem)


@dataclass(frozen=True)
class Place:
    path: str
    """Absolute local path, or path inside `filesystem`."""
    is_folder: bool
    filesystem: Any = None
    """The fsspec file system; None for local paths."""

    @classmethod
    def of(cls, given: str) -> Place:
        """Raises UsageError when there is nothing at `given`."""
        if is_url(given) and not given.startswith("file://"):
            return cls._remote(given)
        text = os.path.expanduser(given.removeprefix("file://"))  # noqa: PTH111 - as text: `//` and odd bytes stay
        path = os.path.abspath(text)  # noqa: PTH100
        if not os.path.exists(path):  # noqa: PTH110
            raise UsageError(f"input {printable(given)} does not exist.", "Check the path given with --input.")
        return cls(path, os.path.isdir(path))  # noqa: PTH112

    @classmethod
    def _remote(cls, given: str) -> Place:
        import fsspec

        if holds_login(given):  # the URL of every file goes into tables, reports and the data set
            raise UsageError(
                f"input {without_login(given)} was given with a password in its URL, which the run would keep.",
                "Give the login to the file system instead: in its own variables or files, or in fsspec's "
                "(~/.config/fsspec/*.json, FSSPEC_<PROTOCOL>_<OPTION>).",
            )
        try:
            filesystem, path = fsspec.core.url_to_fs(given)
            if not filesystem.exists(path):
                raise UsageError(f"input {given} does not exist.", "Check the URL given with --input.")
            if not _leads_back(filesystem, path):
                raise UsageError(
                    f"input {given}: URLs of its files would not say where they are (they would begin "
                    f"{filesystem.unstrip_protocol(path)}).",
                    "Unpack the archive or mount the server and give the folder, or name its host in fsspec's "
                    "configuration instead of the URL.",
                )
            return cls(path, filesystem.isdir(path), filesystem)
        except ImportError as error:
            raise MissingError(f"cannot read {given}: {error}.", package_hint(given)) from error
        except (OSError, ValueError) as error:
            raise UsageError(f"cannot read {given}: {error}.", "Check the URL and its credentials.") from error

    @property
    def uri(self) -> str:
        return self.uri_of(self.path)

    def uri_of(self, path: str) -> str:
        """The table text of a path of the same file system."""
        return to_uri(path) if self.filesystem is None else str(self.filesystem.unstrip_protocol(path))

    @property
    def name(self) -> str:
        return posixpath.basename(self.path)

    @property
    def folder(self) -> str:
        """The folder that a file is in."""
        return posixpath.dirname(self.path)

    @property
    def shown(self) -> str:
        """For messages."""
        return printable(self.path if self.filesystem is None else self.uri)

    def open(self) -> IO[bytes]:
        """Open a file for reading."""
        if self.filesystem is None:
            return open(self.path, "rb")
        file: IO[bytes] = self.filesystem.open(self.path, "rb")
        return file
