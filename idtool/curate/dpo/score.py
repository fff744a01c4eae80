"""The `score` step: every candidate image is scored by the metrics of `idtool evaluate`, against its references and its
prompt. What comes out is also a benchmark folder, RUN/scores, with the report of `idtool bench`: methods side by side,
photos and worse copies as methods of their own.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pydantic import Field

from idtool.curate.dpo.columns import PERTURBED, PHOTO
from idtool.engine.executor import Borrowed
from idtool.engine.operator import KEPT, OUTCOME, REJECTED, with_column
from idtool.engine.step import Binding, Env, Settings, TableContext, TableStep
from idtool.engine.table import Table
from idtool.evaluate.features import Runtime
from idtool.evaluate.folder import Bench, images_entry, images_suite
from idtool.evaluate.report import write_reports
from idtool.evaluate.samples import MADE
from idtool.evaluate.score_methods import score_methods
from idtool.evaluate.scoring import Chosen, choose
from idtool.media.store import SCHEME, MediaStore

FOLDER = "scores"
PHOTOS, COPIES = "photos", "perturbed"
"""Names of photos and worse copies among the methods of the folder."""
SCORE = pa.struct([pa.field("metric", pa.string()), pa.field("value", pa.float64()), pa.field("missing", pa.string())])
WRITES = pa.schema(
    [
        pa.field(
            "scores", pa.list_(SCORE), metadata={"doc": "every metric of the image; a null has its reason beside it"}
        )
    ]
)
READS = ("id", "kind", "origin", "media", "group", "references", "people", "identity", "prompt", "parent")


class ScoreSettings(Settings):
    metrics: tuple[str, ...] = Field(default=("facesim", "clip_t"), min_length=1)
    """Families, as for `idtool evaluate --metrics`. One that the profile has no network for is left out, and said."""
    batch: int = Field(default=16, ge=1)
    """Images per model call."""


class Score(TableStep):
    """Holds what was seen of references and prompts, not of images. A score that cannot be made is null, with its
    reason; rejected are requests that no image was made of (`score.no_image`)."""

    kind = "score"
    Settings: ClassVar[type[Settings]] = ScoreSettings
    summary = "score every candidate against its references and its prompt"

    settings: ScoreSettings

    def __init__(self, settings: ScoreSettings, env: Env) -> None:
        super().__init__(settings, env)

    @cached_property
    def chosen(self) -> Chosen:
        """The metrics that can be made here, and the families that cannot. UsageError for an unknown one."""
        return choose(self.settings.metrics, self.env)

    def skip_reason(self) -> str | None:
        return None if self.chosen.metrics else "; ".join(self.notes())

    def notes(self) -> list[str]:
        return [f"metric {family} is left out: {why}" for family, why in self.chosen.skipped.items()]

    def provides_none(self) -> Mapping[str, str]:
        why = self.skip_reason()
        return dict.fromkeys(WRITES.names, why) if why else {}

    def reads(self, available: Mapping[str, pa.Field]) -> tuple[str, ...]:
        return READS

    def writes(self, available: Mapping[str, pa.Field]) -> pa.Schema:
        return WRITES

    def config(self) -> dict[str, Any]:
        measures = {cls.name: cls.made(self.env).config() for cls in self._measures()}
        return {
            "metrics": [[one.family, one.version, one.settings()] for one in self.chosen.metrics],
            "looks": measures,
        }

    def models(self) -> list[Binding]:
        found = [binding for cls in self._measures() for binding in cls.made(self.env).bindings()]
        return list({(one.role, one.model): one for one in found}.values())

    def _measures(self) -> list[Any]:
        return [cls for of in ("reference", "prompt", "image") for cls in self.chosen.measures(of)]

    def is_in_place(self, run_dir: Path) -> bool:
        return (run_dir / FOLDER / "scores.parquet").is_file()

    def run(self, table: Table, context: TableContext) -> Iterable[pa.Table]:
        assert context.executor is not None and context.progress is not None  # noqa: S101 - the runner gives both
        borrowed = Borrowed(context.executor)
        runtime = Runtime(self.env, lambda _: borrowed, context.progress, batch=self.settings.batch)
        names = _methods(table)
        with Bench.create(Path(context.run_dir) / FOLDER) as bench:
            bench.save(
                suite=images_suite(
                    "candidates",
                    "candidates for preference pairs",
                    context.step_dir.name,
                    max((entry["people"] for entry in names.values()), default=0),
                ),
                profile=self.env.profile,
                profile_reason="that of the recipe",
                device=context.device,
                seed=context.seed,
                methods={name: _entry(name, entry, self.env) for name, entry in names.items()},
            )
            rows = {name: _samples(table, name, Path(context.run_dir) / "media") for name in names}
            score_methods(bench, rows, self.chosen, runtime)
            write_reports(bench.path, seed=context.seed)
            context.statistics.update(
                metrics=sorted(bench.manifest["metrics"]),
                images={name: entry["count"] for name, entry in names.items()},
                report=f"{FOLDER}/report.html",
            )
            yield from _with_scores(table, bench.path, self.missing.get("method", "no step has made it"))


def method_of(row: Mapping[str, Any]) -> str:
    """Under which name an image is compared."""
    return {PHOTO: PHOTOS, PERTURBED: COPIES}.get(row["origin"]) or row.get("method") or "made"


def _columns(table: Table) -> list[str]:
    known = table.schema.names
    return [name for name in (*READS, "method", "generator_seed", "seconds", "peak_memory", "nsfw") if name in known]


def _methods(table: Table) -> dict[str, dict[str, Any]]:
    """Name -> how many images, and how many people are in one at most."""
    found: dict[str, dict[str, Any]] = {}
    names = [name for name in ("kind", "origin", "method", "references") if name in table.schema.names]
    for batch in table.batches(names, kept_only=True):
        for row in batch.to_pylist():
            if row["kind"] != "image":
                continue
            entry = found.setdefault(method_of(row), {"count": 0, "people": 0})
            entry["count"] += 1
            entry["people"] = max(entry["people"], len(row["references"] or ()))
    return dict(sorted(found.items()))


def _entry(name: str, told: Mapping[str, Any], env: Env) -> dict[str, Any]:
    config = env.methods.get(name)
    summary = {PHOTOS: "authentic photos", COPIES: "worse copies of the others"}.get(name)
    return images_entry(
        summary or getattr(config, "summary", None) or "images of the recipe",
        told["count"],
        licence=getattr(config, "licence", None),
        conditions_on=getattr(config, "conditions_on", None),
    )


def _samples(table: Table, method: str, media: Path) -> Iterator[dict[str, Any]]:
    """The images of a method as rows of `samples.SCHEMA`."""
    store = MediaStore(media)
    for batch in table.batches(_columns(table), kept_only=True):
        for row in batch.to_pylist():
            if row["kind"] == "image" and method_of(row) == method:
                yield _sample(row, store)


def _sample(row: Mapping[str, Any], store: MediaStore) -> dict[str, Any]:
    references = row["references"] or []
    slices = {"parent": row["parent"]} if row["origin"] == PERTURBED else {}
    return {
        "id": row["id"],
        "media": _place(row["media"], store),
        "references": [_place(one, store) for one in references],
        "people": row["people"] or [None] * len(references),
        "identity": row["identity"] or "nobody",
        "prompt": row["prompt"] or "",
        "seed": row.get("generator_seed"),
        "slices": json.dumps(slices),
        "targets": "{}",
        "outcome": MADE,
        "why": None,
        **{name: row.get(name) for name in ("seconds", "peak_memory", "nsfw")},
    }


def _place(media: str, store: MediaStore) -> str:
    """A `media` reference as it reads outside of the run."""
    return str(store.path(media)) if media.startswith(SCHEME) else media


def _with_scores(table: Table, bench: Path, why: str) -> Iterator[pa.Table]:
    """The rows again, with the scores of each. scores.parquet has them method by method, in order of ids. `why`: there
    are requests without an image."""
    held: dict[str, Iterator[tuple[str, list[dict[str, Any]]]]] = {}
    scored = WRITES.field("scores")
    for batch in table.batches(kept_only=True):
        found: list[list[dict[str, Any]] | None] = []
        outcomes: list[dict[str, Any]] = []
        names = [name for name in ("id", "kind", "origin", "method") if name in batch.column_names]
        for row in batch.select(names).to_pylist():
            if row["kind"] != "image":
                found.append(None)
                outcomes.append(
                    {"status": REJECTED, "reason": "score.no_image", "message": f"there is no image: {why}"}
                )
                continue
            name = method_of(row)
            sample, scores = next(held.setdefault(name, _scores_of(bench, name)))
            if sample != row["id"]:
                raise AssertionError(f"scores of {name} are out of step at {row['id']}")
            found.append(scores)
            outcomes.append({"status": KEPT})
        batch = batch.append_column(scored, pa.array(found, scored.type))
        for field in OUTCOME:
            batch = with_column(batch, field, pa.array([one.get(field.name) for one in outcomes], field.type))
        yield batch


def _scores_of(bench: Path, method: str) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    sample: str | None = None
    held: list[dict[str, Any]] = []
    with pq.ParquetFile(bench / "scores.parquet") as file:
        for batch in file.iter_batches(8192, columns=["method", "metric", "sample", "value", "missing"]):
            mine = pc.and_(pc.equal(batch["method"], method), pc.is_valid(batch["sample"]))
            for row in batch.filter(mine).to_pylist():
                if row["sample"] != sample:
                    if sample is not None:
                        yield sample, held
                    sample, held = row["sample"], []
                held.append({name: row[name] for name in ("metric", "value", "missing")})
    if sample is not None:
        yield sample, held
