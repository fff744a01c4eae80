"""The folder that a data set is written in, as its writers see it: they say which files they are done with."""

from __future__ import annotations

from pathlib import Path


class Spool:
    """Files stay where they are written, until all are."""

    def closed(self, path: Path) -> None:
        """`path` will be neither written to nor read by its writer again: it may be taken away."""

    def renamed(self, path: Path, new: Path) -> None:
        """A file that is closed is called `new` from now on."""
        path.rename(new)
