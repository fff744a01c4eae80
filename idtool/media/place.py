"""An input as the user gives it: a folder or file, local or on an fsspec file system."""

from __future__ import annotations

import os
import posixpath
from dataclasses import dataclass
from typing import IO, Any

from idtool.errors import MissingError, UsageError
from idtool.media.paths import is_url, printable, to_uri


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

        try:
            filesystem, path = fsspec.core.url_to_fs(given)
            if not filesystem.exists(path):
                raise UsageError(f"input {given} does not exist.", "Check the URL given with --input.")
            return cls(path, filesystem.isdir(path), filesystem)
        except ImportError as error:
            raise MissingError(f"cannot read {given}: {error}.", "Install the package that it names.") from error
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
