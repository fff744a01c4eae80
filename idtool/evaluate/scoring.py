"""From samples to scores: what metrics need is looked at once, then every metric is arithmetic on it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from idtool.engine.fingerprint import fingerprint
from idtool.engine.operator import KEPT, OUTCOME
from idtool.engine.table import KeptRows, Table, write_table
from idtool.errors import UsageError
from idtool.evaluate.features import Cursor, Feature, Runtime, ensure
from idtool.evaluate.measures import MEASURES
from idtool.evaluate.measures.base import Measure, in_order
from idtool.evaluate.metrics import METRICS
from idtool.evaluate.metrics.base import IdentityMetric, Metric, SampleMetric, SetMetric, SetScore, Unscored
from idtool.evaluate.samples import Sample, key_of
from idtool.evaluate.statistics.derived import known

VERSION = 1
"""Of the schema of scores."""
SCHEMA = pa.schema(
    [
        pa.field("suite", pa.string(), metadata={"doc": "name of the suite"}),
        pa.field("profile", pa.string(), metadata={"doc": "whose networks judged"}),
        pa.field("method", pa.string(), metadata={"doc": "who made the images"}),
        pa.field("metric", pa.string(), metadata={"doc": "family/network@variant"}),
        pa.field("sample", pa.string(), metadata={"doc": "id of the request; null: a number of the whole identity"}),
        pa.field("identity", pa.string(), metadata={"doc": "the cluster of all statistics"}),
        pa.field("value", pa.float64(), metadata={"doc": "null: not scored"}),
        pa.field("missing", pa.string(), metadata={"doc": "why it is not scored; null where it is"}),
        pa.field("prompt", pa.string()),
        pa.field("seed", pa.int64()),
        pa.field("slices", pa.string(), metadata={"doc": "slice -> value, a JSON object"}),
    ],
    metadata={"idtool.scores": str(VERSION)},
)


@dataclass(frozen=True)
class Chosen:
    """The metrics of a run under a profile, and the families that it cannot have."""

    metrics: tuple[Metric, ...]
    skipped: Mapping[str, str] = field(default_factory=dict)
    """Family -> why."""

    def measures(self, of: str) -> list[type[Measure]]:
        """Measure classes that the metrics need of `image`, `reference` or `prompt`, with what those read, in order."""
        names = [name for metric in self.metrics for name in getattr(metric, of)]
        return with_needs(dict.fromkeys(names))


def choose(families: Iterable[str], env: Any) -> Chosen:
    """Metrics of the families. UsageError for an unknown one; one that the profile has no network for is skipped, with
    the reason."""
    metrics: list[Metric] = []
    skipped: dict[str, str] = {}
    for family in dict.fromkeys(families):
        cls = METRICS.get(family)
        try:
            found = list(cls.instances(env))
        except Unscored as reason:
            skipped[family] = str(reason)
            continue
        for metric in found:
            needs = (*metric.image, *metric.reference, *metric.prompt)
            why = next((why for name in needs if (why := MEASURES.get(name).why_not(env))), None)
            if why is None:
                metrics.append(metric)
            else:
                skipped[family if len(found) == 1 else f"{family}/{metric.network}{metric.variant}"] = why
    return Chosen(tuple(metrics), skipped)


def with_needs(names: Iterable[str]) -> list[type[Measure]]:
    """Measures and those whose columns they read, ordered so that each comes after what it reads."""
    writer = {column: cls for _, cls in MEASURES.items() for column in cls.writes.names}
    found: dict[str, type[Measure]] = {}

    def add(cls: type[Measure]) -> None:
        if cls.name not in found:
            found[cls.name] = cls
            for column in cls.reads:
                if column in writer:
                    add(writer[column])

    for name in names:
        add(MEASURES.get(name))
    return in_order(list(found.values()))


@dataclass(frozen=True)
class Seen:
    """Features of references or of prompts, by id, in memory: there are far fewer of them than of samples."""

    features: Mapping[str, Feature]
    rows: Mapping[str, Mapping[str, Any]]
    why: Mapping[str, Mapping[str, str]]
    """Id -> measure -> why it could not be made."""


def look_at(
    folder: Path, column: str, values: Iterable[str], measures: Sequence[type[Measure]], runtime: Runtime
) -> Seen:
    """Measures of references (`column` `media`) or prompts (`text`)."""
    schema = pa.schema([pa.field("id", pa.string()), pa.field(column, pa.string()), *OUTCOME])
    rows = sorted(({"id": key_of(one), column: one, "status": KEPT} for one in set(values)), key=lambda row: row["id"])
    table = KeptRows(write_table(folder / "rows", iter([pa.Table.from_pylist(rows, schema)]), schema).path)
    what = "references" if column == "media" else "prompts"
    features = ensure(folder, table, measures, runtime, what)
    found: dict[str, dict[str, Any]] = {row["id"]: {} for row in rows}
    why: dict[str, dict[str, str]] = {row["id"]: {} for row in rows}
    for name, feature in features.items():
        for batch in feature.table.batches():
            for row in batch.to_pylist():
                if row["id"] not in found:
                    continue
                if row["status"] == KEPT:
                    found[row["id"]].update({key: row[key] for key in feature.measure.writes.names})
                else:
                    why[row["id"]][name] = f"{name}: {row['message'] or row['reason']}"
    return Seen(features, found, why)


def images_of(folder: Path, samples: Table) -> Table:
    """The samples that have an image, as the table that measures are made of."""
    names = ["id", "media", "references", "prompt", "targets", "slices"]
    schema = pa.schema([*(samples.schema.field(name) for name in names), *OUTCOME])

    def rows() -> Iterator[pa.Table]:
        for batch in samples.batches(names):
            made = batch.filter(pc.is_valid(batch["media"]))
            status = pa.array([KEPT] * made.num_rows, pa.string())
            for column in OUTCOME:
                made = made.append_column(
                    column, status if column.name == "status" else pa.nulls(made.num_rows, column.type)
                )
            yield made.cast(schema)

    return KeptRows(write_table(folder, rows(), schema).path)


class Scorer:
    """Scores the samples of one method."""

    def __init__(self, chosen: Chosen, references: Seen, prompts: Seen, features: Mapping[str, Feature]) -> None:
        self.chosen, self.references, self.prompts, self.features = chosen, references, prompts, features
        known = {**prompts.features, **references.features, **features}
        self.labels = _labels(known)
        self.named = {metric.name(self.labels): metric for metric in chosen.metrics}

    def samples(self, table: Table) -> Iterator[Sample]:
        """The samples with all that was seen of them, in the order of the table."""
        cursors = {
            name: Cursor(one.table, ["id", *one.measure.writes.names, "status", "reason", "message"])
            for name, one in self.features.items()
        }
        for batch in table.batches(rows=512):
            ids = batch["id"].to_pylist()
            seen = {name: cursor.take(ids).to_pylist() for name, cursor in cursors.items()}
            for k, row in enumerate(batch.to_pylist()):
                yield self._sample(row, {name: rows[k] for name, rows in seen.items()})

    def _sample(self, row: Mapping[str, Any], seen: Mapping[str, Mapping[str, Any]]) -> Sample:
        image: dict[str, Any] = {}
        why: dict[str, str] = {}
        for name, one in self.features.items():
            columns = seen[name]
            if columns["status"] == KEPT:
                image.update({key: columns[key] for key in one.measure.writes.names})
            elif columns["status"]:
                why[name] = f"{name}: {columns['message'] or columns['reason']}"
            else:
                why[name] = f"{name}: not made"
        keys = [key_of(uri) for uri in row["references"]]
        for key in keys:
            why |= {
                f"reference {name}": f"reference, {text}" for name, text in self.references.why.get(key, {}).items()
            }
        prompt = key_of(row["prompt"])
        why |= {f"prompt {name}": f"prompt, {text}" for name, text in self.prompts.why.get(prompt, {}).items()}
        return Sample(
            row, image, tuple(self.references.rows.get(key, {}) for key in keys), self.prompts.rows.get(prompt, {}), why
        )

    def scores(self, table: Table, suite: str, profile: str, method: str) -> Iterator[pa.Table]:
        """Batches of `SCHEMA`: every metric of every sample, then those of whole identities."""
        fixed = {"suite": suite, "profile": profile, "method": method}
        whole = {name: one.fresh() for name, one in self.named.items() if isinstance(one, IdentityMetric)}
        single = {name: one for name, one in self.named.items() if isinstance(one, SampleMetric)}
        rows: list[dict[str, Any]] = []
        for sample in self.samples(table):
            told = {key: sample.row[key] for key in ("identity", "prompt", "seed", "slices")}
            told |= {"sample": sample.row["id"], **fixed}
            for name, metric in single.items():
                value, missing = score(metric, sample)
                rows.append({**told, "metric": name, "value": value, "missing": missing})
            for metric_ in whole.values():
                if why_not(metric_, sample) is None:
                    metric_.add(sample)
            if len(rows) >= 8192:
                yield pa.Table.from_pylist(rows, SCHEMA)
                rows = []
        for name, one in whole.items():
            for identity, number in one.finish():
                lost = str(number) if isinstance(number, Unscored) else None
                value = None if isinstance(number, Unscored) else float(number)
                told = {"metric": name, "identity": identity, "value": value, "missing": lost, "slices": "{}"}
                rows.append({**fixed, **told})
        yield pa.Table.from_pylist(rows, SCHEMA)

    def set_scores(
        self, table: Table, real: Iterable[Mapping[str, Any]], *, force: bool = False
    ) -> dict[str, SetScore]:
        """Numbers of all images at once, against the columns of real ones."""
        sets = {name: one.fresh() for name, one in self.named.items() if isinstance(one, SetMetric)}
        if not sets:
            return {}
        for columns in real:
            for one in sets.values():
                if all(field in columns for name in one.reference for field in MEASURES.get(name).writes.names):
                    one.add_real(columns)
        for sample in self.samples(table):
            for one in sets.values():
                if why_not(one, sample) is None:
                    one.add(sample)
        return {name: one.finish(force=force) for name, one in sets.items()}

    def describe(self) -> dict[str, dict[str, Any]]:
        """Metric -> what it is and what its number depends on, for manifests and reports."""
        return {name: self._describe(metric) for name, metric in self.named.items()}

    def _describe(self, metric: Metric) -> dict[str, Any]:
        used: dict[str, Any] = {}
        models: dict[str, Any] = {}
        for of, seen in (
            ("image", self.features),
            ("reference", self.references.features),
            ("prompt", self.prompts.features),
        ):
            for name in getattr(metric, of):
                if name in seen:
                    used[name] = {"fingerprint": seen[name].fingerprint, **seen[name].facts}
                    models |= {model["model"]: model for model in seen[name].models}
        return {
            "family": metric.family,
            "summary": metric.summary,
            "paper": metric.paper,
            "unit": metric.unit,
            "bounds": list(metric.bounds),
            "better": metric.better,
            "axis": metric.axis,
            "per": metric.per,
            "settings": metric.settings(),
            "measures": used,
            "models": list(models.values()),
            "fingerprint": fingerprint(metric.family, metric.version, metric.settings(), used),
        }


def score(metric: SampleMetric, sample: Sample) -> tuple[float | None, str | None]:
    """The number, or why there is none."""
    import math

    reason = why_not(metric, sample)
    if reason is not None:
        return None, reason
    try:
        value = float(metric(sample))
    except Unscored as why:
        return None, str(why)
    if not math.isfinite(value):
        return None, f"the value is {value}"
    return value, None


def why_not(metric: Metric, sample: Sample) -> str | None:
    """Why a metric cannot be made of a sample: no image, or a measure that failed."""
    if not sample.made:
        return f"no image: {sample.row['why']}" if metric.axis != "cost" else "no image"
    for name in metric.image:
        if name in sample.why:
            return sample.why[name]
    for of in ("reference", "prompt"):
        for name in getattr(metric, of):
            if f"{of} {name}" in sample.why:
                return sample.why[f"{of} {name}"]
    return None


def _labels(features: Mapping[str, Feature]) -> dict[str, str]:
    """Measure -> short name of its network; networks of one name in one role are told apart by their rank."""
    labels: dict[str, str] = {}
    taken: dict[tuple[str | None, str], str] = {}
    for name, one in features.items():
        label, role = one.label, one.measure.role
        model = str(one.models[0]["model"]) if one.models else ""
        if taken.setdefault((role, label), model) != model:
            label = f"{label}-{one.measure.rank + 1}"
        labels[name] = label
    return labels


def parse_families(text: Sequence[str] | None, default: Sequence[str]) -> list[str]:
    """`--metrics a,b` as names; the default where nothing is given, and all there are for `all`. UsageError for
    unknown ones."""
    names = [part.strip() for one in text or () for part in one.split(",") if part.strip()]
    if names == ["all"]:
        return list(METRICS)
    for name in names:
        METRICS.get(name)
    # The number of a whole set follows from the means of its parts, which must then be there.
    derived = known()
    parts = ((*(derived[name].families if name in derived else ()), name) for name in names)
    names = list(dict.fromkeys(one for families in parts for one in families))
    if text and not names:
        raise UsageError("--metrics names nothing.", f"Available: {', '.join(METRICS)}.")
    return names or list(default)
