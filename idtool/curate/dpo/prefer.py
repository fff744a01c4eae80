"""The `prefer` step: preference pairs of the scored candidates, by the rules of `idtool prefer`.

The pairs lie in RUN/preferences, laid out as that command leaves them: `idtool review RUN` and `idtool export RUN
--format diffusers-dpo` read them there. The step's table has them, too, with what was dropped and why.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field, ValidationError, model_validator

from idtool.curate.dpo.score import COPIES, FOLDER, PHOTOS
from idtool.curate.prefer import table as layout
from idtool.curate.prefer.inspecting import ROLE, Inspector, Judge
from idtool.curate.prefer.mine import RULES, Job, Rule, mine
from idtool.engine.commit import conform
from idtool.engine.operator import KEPT, OUTCOME
from idtool.engine.step import Binding, Env, Settings, TableContext, TableStep
from idtool.engine.table import Table
from idtool.evaluate.folder import Bench
from idtool.models import why_not
from idtool.run import Run

ROWS = 1024
WHY = pa.field("why", pa.string(), metadata={"doc": "why they are a pair"})
WRITES = pa.schema([WHY if field.name == "reason" else field for field in layout.SCHEMA])
"""Column `reason` of a table is that of a rejection."""


class PreferSettings(Settings):
    rule: Literal["dmid", "idglow"] = "dmid"
    settings: Mapping[str, Any] = Field(default_factory=dict)
    """Of the rule; see docs/preferences.md."""
    metrics: Mapping[str, str] = Field(default_factory=dict)
    """Part of the reward (id, obj, sem, aes) -> name of a metric or family, where it is not to be chosen."""
    across: bool = False
    """dmid: compare images of different methods, too."""
    crops: Literal["flag", "drop", "ignore"] = "flag"
    """idglow: what is done with pairs whose reference is cut out of the chosen photo."""
    judge: bool = False
    """Ask role `judge` about every pair, and drop those that it does not agree with."""

    @model_validator(mode="after")
    def _of_rule(self) -> PreferSettings:
        try:
            RULES[self.rule].model_validate(dict(self.settings))
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(["settings", *map(str, first["loc"])])
            raise ValueError(f"{where}: {first['msg'].removeprefix('Value error, ')}") from None
        return self


class Prefer(TableStep):
    """Holds the scores of all images in narrow columns (some hundred bytes an image)."""

    kind = "prefer"
    Settings: ClassVar[type[Settings]] = PreferSettings
    summary = "choose the better and the worse image of each request"
    new_table = True
    settings: PreferSettings

    def __init__(self, settings: PreferSettings, env: Env) -> None:
        super().__init__(settings, env)

    def rule(self, methods: Iterable[str]) -> Rule:
        """The rule's settings; photos and worse copies are known by the names that step `score` gives them."""
        told = dict(self.settings.settings)
        if self.settings.rule == "idglow":
            known = set(methods)
            told = {"photos": tuple({PHOTOS} & known), "perturbed": tuple({COPIES} & known), **told}
        return RULES[self.settings.rule].model_validate(told)

    def skip_reason(self) -> str | None:
        if "scores" in self.missing:
            return self.missing["scores"]
        return why_not(self.env, ROLE) if self.settings.judge else None

    def reads(self, available: Mapping[str, pa.Field]) -> tuple[str, ...]:
        return ("id", "scores")

    def writes(self, available: Mapping[str, pa.Field]) -> pa.Schema:
        return WRITES

    def models(self) -> list[Binding]:
        return [self.env.require(ROLE)] if self.settings.judge else []

    def is_in_place(self, run_dir: Path) -> bool:
        return (run_dir / layout.FOLDER / layout.NAME).is_file()

    def run(self, table: Table, context: TableContext) -> Iterable[pa.Table]:
        assert context.progress is not None  # noqa: S101 - the runner gives it
        run_dir = Path(context.run_dir)
        bench = Bench(run_dir / FOLDER)
        job = Job.of(bench, self.rule(bench.methods), self.settings.metrics, across=self.settings.across)
        with Run.create(run_dir / layout.FOLDER) as inner:
            entry = mine(inner, job, Inspector(self.settings.crops, self._judge(context)), context.progress)
            keys = ("groups", "sources", "flags", "margin")
            context.statistics.update({key: entry[key] for key in keys}, folder=layout.FOLDER)
            yield from _rows(inner)

    def _judge(self, context: TableContext) -> Judge | None:
        if not self.settings.judge:
            return None
        from idtool.models import load

        binding = self.env.require(ROLE)
        return Judge(load(binding, device=context.device, threads=context.threads), binding.model)


def _rows(run: Run) -> Iterator[pa.Table]:
    """Pairs and rejects of a mining as rows of this step."""
    schema = pa.schema([*WRITES, *OUTCOME])
    for batch in layout.mined(run).batches(rows=ROWS):
        batch = batch.rename_columns([WHY.name if name == "reason" else name for name in batch.column_names])
        batch = batch.append_column("status", pa.repeat(KEPT, batch.num_rows))
        yield conform(batch, schema)
    with pq.ParquetFile(run.path / "rejects" / "00-prefer.parquet") as file:
        for part in file.iter_batches(ROWS):
            batch = pa.Table.from_batches([part])
            ids = [
                row["id"] or _reject_id(row) for row in batch.select(["id", "group", "reason", "source"]).to_pylist()
            ]
            at = batch.schema.get_field_index("id")
            yield conform(batch.set_column(at, "id", pa.array(ids, pa.string())), schema)


def _reject_id(row: Mapping[str, Any]) -> str:
    """Of a group, or of one kind of pairs of it, that gave no pair."""
    told = "\0".join(str(row[name]) for name in ("group", "source", "reason"))
    return hashlib.sha256(told.encode("utf-8", "surrogatepass")).hexdigest()[:32]
