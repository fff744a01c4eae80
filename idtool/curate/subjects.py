"""The `subjects` step: who or what character sheets are to show, a row each (Instruct Identity, stage I: "a shared
identity descriptor"). No picture goes in: subjects are drawn from lists of words, listed in the recipe, read from a
file, or come as rows of the run's input.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import pyarrow as pa
from pydantic import Field, ValidationError, model_validator

from idtool.curate.subject_words import CLASSES, SCENES, SubjectClass, descriptor
from idtool.engine.fingerprint import fingerprint
from idtool.engine.operator import KEPT, OUTCOME, REJECTED, Row, build
from idtool.engine.step import Env, Settings, TableContext, TableStep
from idtool.engine.table import KeptRows, Table
from idtool.errors import UsageError
from idtool.evaluate.measures.base import column
from idtool.media.manifest import MANIFEST_EXTENSIONS, records
from idtool.media.place import Place
from idtool.media.sources import SCHEMA as SOURCES

SUBJECT = pa.schema(
    [
        column("kind", pa.string(), "subject, until there is a picture"),
        column("subject_class", pa.string(), "human, animal, anthropomorphic or object"),
        column("descriptor", pa.string(), "the subject in words: what is the same in all of its pictures"),
        column("scenes", pa.list_(pa.string()), "what it may be shown doing, and where"),
    ]
)
KEYS = {
    **dict.fromkeys(("id", "identity", "identity_label", "name"), "id"),
    **dict.fromkeys(("descriptor", "subject", "description"), "descriptor"),
    **dict.fromkeys(("class", "subject_class"), "class"),
    **dict.fromkeys(("scenes", "prompts"), "scenes"),
}
"""Accepted names of columns of a file of subjects -> field of `Subject`."""


class Subject(Settings):
    """One subject."""

    id: str | None = None
    """Its name in tables; null: a hash of the descriptor."""
    descriptor: str = Field(min_length=1)
    subject_class: SubjectClass = Field(default="human", alias="class")
    scenes: tuple[str, ...] = ()
    """Empty: those of the step for its class."""

    @property
    def label(self) -> str:
        return self.id or f"{self.subject_class}-{fingerprint(self.descriptor)[:12]}"


class SubjectsSettings(Settings):
    by: Literal["drawn", "list", "file", "input"] = "drawn"
    """`drawn`: put together from lists of words (`idtool.curate.subject_words`), by class and number. `list`: those in
    `subjects`. `file`: a CSV, TSV, JSON-lines or Parquet file with a column `descriptor` and optionally `id`, `class`,
    `scenes` (a list, or parted by `;`). `input`: rows of such a file given as --input, whose column `path` is empty."""
    count: Mapping[SubjectClass, int] = Field(default_factory=lambda: dict.fromkeys(CLASSES, 5))
    """`drawn`: how many of each class. The first n of a class stay the same when more are asked for."""
    first: int = Field(default=0, ge=0)
    """`drawn`: the number of the first of each class, so that a second stage has other subjects than the first."""
    subjects: tuple[Subject, ...] = ()
    file: str | None = None
    scenes: Mapping[SubjectClass, tuple[str, ...]] = Field(default_factory=dict)
    """In place of ours, for subjects that bring none."""

    @model_validator(mode="after")
    def _given(self) -> SubjectsSettings:
        if (self.by == "list") != bool(self.subjects) or (self.by == "file") != (self.file is not None):
            raise ValueError("`subjects` goes with `by: list`, and `file` with `by: file`")
        if self.by == "drawn" and (min(self.count.values(), default=0) < 0 or not sum(self.count.values())):
            raise ValueError("`count` asks for no subject")
        return self


class Subjects(TableStep):
    """Its table has rows of subjects alone. Rejects rows of the input: `subjects.descriptor`, `subjects.class`,
    `subjects.repeated`."""

    kind = "subjects"
    Settings: ClassVar[type[Settings]] = SubjectsSettings
    summary = "say who or what the pictures are to show"
    new_table = True

    settings: SubjectsSettings

    def __init__(self, settings: SubjectsSettings, env: Env) -> None:
        super().__init__(settings, env)
        self._listed = [] if settings.by == "input" else self._known()

    @property
    def rows_from(self) -> Literal["table", "sources", "settings"]:
        return "sources" if self.settings.by == "input" else "settings"

    def writes(self, available: Mapping[str, pa.Field]) -> pa.Schema:
        return pa.schema([*(field.with_nullable(True) for field in SOURCES), *SUBJECT])

    def config(self) -> dict[str, Any]:
        told = [one.model_dump(mode="json", by_alias=True) for one in self._listed]
        # What is in the file counts, not where it lies.
        return {"settings": self.settings.model_dump(mode="json", exclude={"file"}), "subjects": fingerprint(told)}

    def run(self, table: Table, context: TableContext) -> Iterable[pa.Table]:
        if self.settings.by == "input":
            # Also where the step comes a second time, after steps whose rows are something else.
            rows = list(self._of_input(KeptRows(Path(context.run_dir) / "steps" / "00-sources" / "table")))
        else:
            rows = [self._row(one) for one in self._listed]
        kept = [row for row in rows if row["status"] == KEPT]
        counts = {name: sum(row["subject_class"] == name for row in kept) for name in CLASSES}
        context.statistics.update(subjects=len(kept), classes=counts)
        schema = pa.schema([*self.writes({}), *OUTCOME])
        yield build(sorted(rows, key=lambda row: str(row["id"])), schema)

    def _known(self) -> list[Subject]:
        settings = self.settings
        if settings.by == "file":
            found = read(str(settings.file))
        elif settings.by == "list":
            found = list(settings.subjects)
        else:
            found = [
                Subject.model_validate(
                    {"id": f"{name}-{k:05d}", "descriptor": descriptor(name, k, self.env.seed), "class": name}
                )
                for name, count in settings.count.items()
                for k in range(settings.first, settings.first + count)
            ]
        for label, times in Counter(one.label for one in found).items():
            if times > 1:
                raise UsageError(f"{times} subjects are called {label!r}.", "Give each an `id` of its own.")
        return found

    def _row(self, one: Subject, source: Row | None = None) -> Row:
        scenes = one.scenes or self.settings.scenes.get(one.subject_class) or SCENES[one.subject_class]
        own = {"uri": f"subject:{one.label}", "name": one.label, "group": "", "source": "a subject in words"}
        return {
            **dict.fromkeys(SOURCES.names),
            **own,
            **{name: value for name, value in (source or {}).items() if value is not None},
            "id": fingerprint("subject", one.label, one.descriptor, one.subject_class, list(scenes)),
            "identity_label": one.label,
            "kind": "subject",
            "subject_class": one.subject_class,
            "descriptor": one.descriptor,
            "scenes": list(scenes),
            "status": KEPT,
        }

    def _of_input(self, sources: Table) -> Iterator[Row]:
        seen: set[str] = set()
        for batch in sources.batches():
            for source in batch.to_pylist():
                told = json.loads(source["extra"]) if source["extra"] else {}
                values = {**told, "id": source["identity_label"]}
                row: Row
                try:
                    row = self._row(_subject(values), {name: source[name] for name in SOURCES.names})
                except ValueError as error:
                    reason = "subjects.descriptor" if "descriptor" not in _fields(values) else "subjects.class"
                    row = {**source, "status": REJECTED, "reason": reason, "message": str(error)}
                if row["status"] == KEPT and row["identity_label"] in seen:
                    said = f"another row is called {row['identity_label']!r}"
                    row |= {"status": REJECTED, "reason": "subjects.repeated", "message": said}
                seen.add(row["identity_label"] or "")
                yield row


def read(file: str) -> list[Subject]:
    """The subjects of a file. UsageError that names the row which is none."""
    place = Place.of(file)
    if place.is_folder or not place.name.lower().endswith(MANIFEST_EXTENSIONS):
        raise UsageError(f"{place.shown} is no table of subjects.", f"Give one of {', '.join(MANIFEST_EXTENSIONS)}.")
    found = []
    for number, values in enumerate(records(place), start=1):
        try:
            found.append(_subject(values))
        except ValueError as error:
            raise UsageError(f"{place.shown}, row {number}: {error}.", "Correct the row.") from error
    if not found:
        raise UsageError(f"{place.shown} has no rows.", "Give it one row for each subject.")
    return found


def _subject(values: Mapping[str, Any]) -> Subject:
    """ValueError, in one sentence, for what is no subject."""
    told = _fields(values)
    if "descriptor" not in told:
        raise ValueError("no descriptor: nothing says what the subject is")
    scenes = told.get("scenes", ())
    told["scenes"] = _parts(scenes) if isinstance(scenes, str) else tuple(scenes)
    try:
        return Subject.model_validate(told)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise ValueError(f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from error


def _fields(values: Mapping[str, Any]) -> dict[str, Any]:
    named = ((KEYS.get(str(key).strip().lower()), value) for key, value in values.items())
    return {name: value for name, value in named if name is not None and value not in (None, "")}


def _parts(text: str) -> Sequence[str]:
    return tuple(part.strip() for part in text.split(";") if part.strip())
