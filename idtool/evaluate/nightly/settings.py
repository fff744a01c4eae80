"""The file that a nightly job is described by."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from idtool.config_errors import findings
from idtool.errors import UsageError
from idtool.yaml_source import parse


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class Expect(_Model):
    """What a night must come to: else it is no good night, and the job exits 3."""

    methods: tuple[str, ...] = ()
    """Methods that must be scored."""
    requests: int | None = Field(default=None, ge=0)
    """Exactly so many requests per method."""
    made: float = Field(default=1.0, ge=0, le=1)
    """At least this share of a method's requests has an image; baselines that do not fit the suite aside."""
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


class Notify(_Model):
    """Who is told how a night went. A hook that fails is a warning; it changes no exit code."""

    command: tuple[str, ...] = ()
    """A program with its arguments, no shell; it gets the summary as JSON on its standard input."""
    url: str | None = None
    """The summary is posted there as JSON."""
    on: Literal["always", "trouble"] = "always"
    timeout: float = Field(default=60.0, gt=0)
    """Seconds."""

    @model_validator(mode="after")
    def _somebody(self) -> Notify:
        if not self.command and not self.url:
            raise ValueError("give command or url")
        return self


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
    stale_lock_hours: float = Field(default=24.0, gt=0)
    """A lock in the store that is older was left by a machine that died."""


def read(path: Path) -> Nightly:
    """The job in a YAML file; paths in it are relative to the file. UsageError with file and line for what does not
    fit."""
    try:
        text = path.read_text("utf-8")
    except OSError as error:
        raise UsageError(f"Cannot read {path}: {error.strerror}.", "Give the YAML file of the nightly job.") from error
    source = parse(text, str(path))
    if source.problems or not isinstance(source.data, dict):
        shown = "\n".join(map(str, source.problems)) or f"{path} holds no settings."
        raise UsageError(shown, "See deploy/nightly/nightly.yaml.")
    try:
        found = Nightly.model_validate(source.data)
    except ValidationError as error:
        lines = [
            f"{source.where((*one, key) if key is not None else one)}: {'.'.join(map(str, one))}: {text}"
            for one, text, key in findings(error, Nightly, source.data)
        ]
        raise UsageError("\n".join(lines)) from error
    return _beside(found, path.parent)


def _beside(job: Nightly, folder: Path) -> Nightly:
    """The job with its local paths taken from where its file stands."""
    changes: dict[str, Any] = {}
    for name in ("store", "work", "identities", "regression", "models_dir"):
        value = getattr(job, name)
        if value and "://" not in value and value != "sample" and not Path(value).is_absolute():
            changes[name] = str(folder / value)
    if (folder / job.suite).is_file():
        changes["suite"] = str(folder / job.suite)
    return job.model_copy(update=changes)


def to_yaml(job: Nightly) -> str:
    """The job as YAML, for the record of a night."""
    text: str = yaml.safe_dump(job.model_dump(mode="json", exclude_defaults=True), sort_keys=False, allow_unicode=True)
    return text
