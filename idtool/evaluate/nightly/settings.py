"""The file that a nightly job is described by."""

from __future__ import annotations

import datetime
import re
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from idtool.media.paths import without_login
from idtool.yaml_model import read_model

DATE = re.compile(r"\d{4}-\d{2}-\d{2}")


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class Expect(_Model):
    """What a night must come to: else it is no good night, and the job exits 3."""

    methods: tuple[str, ...] = ()
    """Methods that must be scored."""
    requests: int | None = Field(default=None, ge=0)
    """Exactly so many requests per method."""
    made: float = Field(default=1.0, ge=0, le=1)
    """At least this share of a method's requests has an image. Of baselines, those in `methods` alone."""
    metrics: tuple[str, ...] = ()
    """Families that must have been made."""
    missing: float = Field(default=1.0, ge=0, le=1)
    """At most this share of the samples of those metrics is not scored."""


class Keep(_Model):
    """What is thrown away after a night. The baseline and the last good night always stay."""

    days: int | None = Field(default=None, ge=1)
    """Nights in the store; null: all."""
    work: int = Field(default=2, ge=1)
    """Working folders, with images, of so many finished nights."""
    broken: int = Field(default=7, ge=1)
    """A night that broke off is tried again for so many days, then given up."""


class Notify(_Model):
    """Who is told how a night went. A hook that fails is a warning; it changes no exit code."""

    command: tuple[str, ...] = ()
    """A program with its arguments, no shell; it gets the summary as JSON on its standard input."""
    url: str | None = Field(default=None, pattern=r"^https?://")
    """The summary is posted there as JSON. A URL that is a secret is better kept in the environment of a command."""
    on: Literal["always", "trouble"] = "always"
    timeout: float = Field(default=60.0, gt=0)
    """Seconds."""

    @model_validator(mode="after")
    def _somebody(self) -> Notify:
        if not self.command and not self.url:
            raise ValueError("give command or url")
        return self

    @property
    def host(self) -> str | None:
        """Of the URL, whose path may be a secret."""
        return urlsplit(self.url).hostname if self.url else None


class Nightly(_Model):
    """A nightly job."""

    version: Literal[1]
    store: str
    """Folder or fsspec URL of the dated results: `<store>/suite=<name>/date=<YYYY-MM-DD>/`."""
    work: str = "idtool-runs/nightly"
    """Local folder of images and features; a broken night goes on from it."""
    suite: str = "smoke"
    identities: str | None = None
    methods: Annotated[tuple[str, ...], Field(min_length=1)] = ("all",)
    metrics: tuple[str, ...] = ()
    profile: str = "auto"
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    engine: Literal["auto", "local", "ray"] = "auto"
    address: str | None = None
    workers: int | None = Field(default=None, ge=1)
    batch: int = Field(default=4, ge=1)
    seed: int = Field(default=0, ge=0)
    limit: int | None = Field(default=None, ge=1)
    """Identities, at most."""
    skip_bad_references: bool = False
    models_dir: str | None = None
    regression: str | None = None
    """Rules of `idtool compare --fail-on`, against the last good night and against the baseline."""
    baseline: str | None = None
    """A date of the store, or the folder of a benchmark, that every night is compared with as well."""
    expect: Expect = Expect()
    keep: Keep = Keep()
    notify: Notify | None = None
    stale_lock_hours: float = Field(default=1.0, gt=0)
    """A lock in the store that has not been renewed for so long was left by a machine that died."""

    @field_validator("baseline", mode="before")
    @classmethod
    def _written_out(cls, value: Any) -> Any:
        return value.isoformat() if isinstance(value, datetime.date) else value  # which YAML makes of 2026-11-01


def read(path: Path) -> Nightly:
    """The job in a YAML file; paths in it are relative to the file. UsageError with file and line of everything that
    does not fit."""
    job = read_model(path, Nightly, "Give the YAML file of the nightly job; see deploy/nightly/nightly.yaml.")
    # Absolute: under `ray job submit` the working directory may be made anew while the job runs.
    return _beside(job, path.absolute().parent)


def _beside(job: Nightly, folder: Path) -> Nightly:
    """The job with its local paths taken from where its file stands."""
    changes: dict[str, Any] = {}
    for name in ("store", "work", "suite", "identities", "models_dir", "regression", "baseline"):
        value = getattr(job, name)
        if value and not _is_name(name, value) and "://" not in value and not Path(value).is_absolute():
            changes[name] = str(folder / value)
    return job.model_copy(update=changes)


def _is_name(setting: str, value: str) -> bool:
    """Whether a value is no path: the name of a suite, the built-in people, a night's date."""
    return {
        "suite": not value.endswith((".yaml", ".yml")),
        "identities": value == "sample",
        "baseline": DATE.fullmatch(value) is not None,
    }.get(setting, False)


def recorded(job: Nightly) -> dict[str, Any]:
    """The job as a night's record holds it: without logins, and without what a hook is called with."""
    found: dict[str, Any] = job.model_dump(mode="json", exclude_defaults=True, exclude={"notify"})
    return {name: without_login(value) if isinstance(value, str) else value for name, value in found.items()}
