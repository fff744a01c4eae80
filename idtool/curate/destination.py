"""Where a data set goes: it is written into a folder, read back, and put in its place as a whole or not at all."""

from __future__ import annotations

import shutil
from abc import abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path

from idtool.curate import folders
from idtool.curate.formats import Format, Found
from idtool.curate.layout import Layout
from idtool.curate.spool import Spool
from idtool.errors import UsageError
from idtool.manifest_folder import local_only


class Destination(Spool, AbstractContextManager["Destination"]):
    """Entered before anything is written; left with everything in its place, or with nothing changed there."""

    shown: str
    """The place, for messages and results."""
    work: Path
    """The folder on this machine that the data set is written in."""
    failure: Path
    """File on this machine for what a proof found that does not hold."""

    @abstractmethod
    def begin(self) -> None:
        """Make `work` an empty folder; whatever was written before is dropped."""

    @abstractmethod
    def read_back(self, form: type[Format], layout: Layout, *, whole: bool) -> Iterator[Found]:
        """When all rows are written: what `form.read` finds of them."""

    @abstractmethod
    def commit(self) -> None:
        """Put what is in `work`, and what was taken away from it, in its place."""


class LocalFolder(Destination):
    """A folder on this machine, replaced in one step."""

    def __init__(self, target: Path) -> None:
        self.target, self.shown = target, str(target)
        self.failure = target.with_name(f"{target.name}.removal.json")
        self.work = target.with_name(f".{target.name}.writing")

    def __enter__(self) -> LocalFolder:
        self.target.parent.mkdir(parents=True, exist_ok=True)
        folders.recover(self.target)
        return self

    def begin(self) -> None:
        shutil.rmtree(self.work, ignore_errors=True)
        self.work.mkdir()

    def read_back(self, form: type[Format], layout: Layout, *, whole: bool) -> Iterator[Found]:
        return form.read(self.work, layout, whole=whole)

    def commit(self) -> None:
        folders.write_checksums(self.work)
        folders.replace_folder(self.work, self.target)

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self.work, ignore_errors=True)


def destination_of(output: Path | str | None, run: Path) -> Destination:
    """What a user calls `output`: a folder or a URL; None: `RUN/dataset`. UsageError for a folder that holds something
    else; what `StoreFolder` raises."""
    if output is None:
        return LocalFolder(run / "dataset")
    if "://" in str(output) and not str(output).startswith("file://"):
        from idtool.curate.store_folder import StoreFolder

        # Beside the run, which has the room: a folder for temporary files may be memory.
        return StoreFolder(str(output), run / ".export.sending", run / "export.removal.json")
    local_only(str(output).removeprefix("file://"))
    target = Path(str(output).removeprefix("file://")).absolute()
    if target.exists() and any(target.iterdir()) and not (target / folders.CHECKSUMS).exists():
        raise UsageError(f"{output} is not empty and holds no data set of this tool.", "Choose another --output.")
    return LocalFolder(target)
