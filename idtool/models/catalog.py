"""The catalogue of weight files that come inside archives of the package index (`catalog.yaml`), as checked records."""

from __future__ import annotations

from functools import cache
from importlib import resources
from pathlib import PurePosixPath
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from idtool.errors import MissingError
from idtool.registry import did_you_mean

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Positive = Annotated[int, Field(gt=0)]


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Archive(_Record):
    """One file of the package index, pinned by name, size and hash."""

    package: str
    version: str
    file: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.+-]+\.(whl|tar\.gz)$")]
    bytes: Positive
    sha256: Sha256
    licence: str

    @property
    def is_wheel(self) -> bool:
        """Whether the file is a wheel (a zip); otherwise it is a source archive (a gzipped tar)."""
        return self.file.endswith(".whl")


class Member(_Record):
    """One weight file inside an archive."""

    path: str
    bytes: Positive
    sha256: Sha256

    @property
    def name(self) -> str:
        """File name without its folders: the only part that is used on disk."""
        return PurePosixPath(self.path).name


class Weight(_Record):
    """A network: one weight file, or several that belong together."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9-]+$")]
    title: str
    roles: tuple[str, ...]
    archive: Archive
    members: Annotated[tuple[Member, ...], Field(min_length=1)]
    upstream: str
    """Terms of those who trained the network, as far as known; the archive states its own."""
    commercial: Literal["yes", "no", "unknown"]
    note: str

    @property
    def bytes(self) -> int:
        """Size of the weight files on disk."""
        return sum(member.bytes for member in self.members)

    @property
    def licence(self) -> str:
        """One line: what the package says, and what the network's authors say."""
        return f"package: {self.archive.licence}; network: {self.upstream}"


class _Catalogue(_Record):
    archives: dict[str, Archive]
    weights: dict[str, Weight]

    @model_validator(mode="before")
    @classmethod
    def _resolve(cls, data: dict[str, dict[str, dict[str, object]]]) -> dict[str, object]:
        archives = {package: {"package": package, **body} for package, body in data["archives"].items()}
        weights = {
            name: {"name": name, **body, "archive": archives[str(body["archive"])]}
            for name, body in data["weights"].items()
        }
        return {"archives": archives, "weights": weights}


@cache
def catalogue() -> dict[str, Weight]:
    """Every entry by name, in the order of the file."""
    import yaml

    text = resources.files("idtool.models").joinpath("catalog.yaml").read_text("utf-8")
    return _Catalogue.model_validate(yaml.safe_load(text)).weights


def entry(name: str) -> Weight:
    """The entry of that name. MissingError with the nearest names when there is none."""
    entries = catalogue()
    if name not in entries:
        raise MissingError(f"No offline weights are called {name!r}.", did_you_mean(name, entries))
    return entries[name]


def same_archive(weight: Weight) -> list[Weight]:
    """All entries whose files come in the same archive, `weight` included: they are unpacked together."""
    return [other for other in catalogue().values() if other.archive.sha256 == weight.archive.sha256]


def names() -> list[str]:
    """Names of all entries."""
    return list(catalogue())
