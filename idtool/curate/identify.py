"""The `identify` step: whose face each image shows, from a column, folders, video tracks or clustering.

Embeddings are cosine-compared within one network, whose calibrated `same_person` similarity is the default threshold.
Measured on 161 photos of 26 people without labels (ArcFace MobileFaceNet): average linkage gives 26 clusters, purity
and recall 1.000, for thresholds of 0.28 to 0.42; single linkage joins two people below 0.40.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, ClassVar, Literal

import numpy as np
import pyarrow as pa
from pydantic import Field

from idtool.curate.identities import Assigned, Images, assign, read_images
from idtool.curate.scratch import OnDisk
from idtool.engine.operator import KEPT, OUTCOME, REJECTED, with_column
from idtool.engine.step import Binding, Env, Settings, TableContext, TableStep
from idtool.engine.table import Table
from idtool.errors import UsageError
from idtool.models import calibration

By = Literal["auto", "column", "folder", "video", "cluster"]

WRITES = pa.schema(
    [
        pa.field("identity", pa.string(), metadata={"doc": "the person: a label, or id- and a hash"}),
        pa.field("identity_how", pa.string(), metadata={"doc": "column, folder, video or cluster"}),
        pa.field(
            "identity_sim",
            pa.float32(),
            metadata={"doc": "cosine of the embedding and the mean embedding of the identity", "unit": "[-1,1]"},
        ),
    ]
)


class Outliers(Settings):
    """What happens to images that do not fit the label they came with."""

    action: Literal["reject", "keep"] = "reject"
    floor: float | None = Field(default=None, ge=-1, le=1)
    """Least cosine to the mean of the others of the label; null: the threshold of the step. Measured: genuine images
    .54 or more, the closest stranger .39."""


class IdentifySettings(Settings):
    by: By = "auto"
    """`column`: identity_label. `folder`: the folder inside the input. `video`: tracks of one video. `cluster`:
    everything by similarity. `auto`: labels where given; folders that the embeddings confirm; tracks and clusters for
    the rest, which may also join a labelled identity."""
    threshold: float | None = Field(default=None, gt=-1, lt=1)
    """Least mean similarity of one person's images; null: the network's calibrated `same_person`."""
    min_images: int = Field(default=1, ge=1)
    """Identities of fewer images are rejected."""
    outliers: Outliers = Outliers()


def same_person(binding: Binding) -> float:
    """The calibrated threshold of an identity network: the profile's, else what `idtool models calibrate` found on
    this machine. UsageError when there is neither."""
    if "same_person" in binding.thresholds:
        return binding.thresholds["same_person"]
    found = calibration.threshold_of(binding)
    if found is None:
        raise UsageError(
            f"Identity network {binding.model!r} has no calibrated threshold `same_person` in the profile.",
            "Find it with `idtool models calibrate identity --pairs FOLDER`, or set the threshold in the recipe.",
        )
    return found


class Identify(TableStep):
    """Holds ids and labels of all rows, and their embeddings in a file (2 KiB per image); rows themselves are
    streamed."""

    kind = "identify"
    Settings: ClassVar[type[Settings]] = IdentifySettings
    summary = "find out which images show the same person"

    settings: IdentifySettings

    def __init__(self, settings: IdentifySettings, env: Env) -> None:
        super().__init__(settings, env)

    @property
    def threshold(self) -> float:
        stated = self.settings.threshold
        return same_person(self.env.require("identity")) if stated is None else stated

    def reads(self, available: Mapping[str, pa.Field]) -> tuple[str, ...]:
        source = {"column": ("identity_label",), "folder": ("group",), "video": ("parent",)}
        return ("id", "embedding", *source.get(self.settings.by, ()))

    def writes(self, available: Mapping[str, pa.Field]) -> pa.Schema:
        return WRITES

    def config(self) -> dict[str, Any]:
        return {**super().config(), "threshold": self.threshold}

    def models(self) -> list[Binding]:
        return list(self.env.all("identity")[:1])

    def run(self, table: Table, context: TableContext) -> Iterable[pa.Table]:
        images = read_images(table, OnDisk(context.step_dir))
        floor = self.settings.outliers.floor
        result = assign(
            images,
            by=self.settings.by,
            threshold=self.threshold,
            floor=self.threshold if floor is None else floor,
            statistics=context.statistics,
        )
        rejected = self._judge(images, result, context.statistics)
        names = _names(images, result)
        yield from _rewrite(table, images, result, names, rejected)

    def _judge(self, images: Images, result: Assigned, statistics: dict[str, Any]) -> dict[int, dict[str, Any]]:
        """Outcome of the rows that are rejected, by row."""
        # Rows that are rejected for one reason share its outcome.
        faceless = _reject("identity.no_embedding", "no identity embedding: no face was found or measured")
        rejected = dict.fromkeys(np.flatnonzero(~images.usable).tolist(), faceless)
        what = {"column": "no identity_label", "folder": "not in a folder", "video": "not a frame of a video"}
        nobody = _reject("identity.no_label", what.get(self.settings.by, "no label"))
        rejected |= dict.fromkeys(np.flatnonzero(images.usable & (result.group < 0)).tolist(), nobody)
        if self.settings.outliers.action == "reject":
            for row, (value, floor) in sorted(result.outliers.items()):
                rejected[row] = _reject(
                    "identity.outlier",
                    f"similarity {value:.3f} to the others labelled {result.label[result.group[row]]!r}",
                    value,
                    f">= {floor:g}",
                )
        alive = np.ones(len(images.ids), np.bool_)
        alive[list(rejected)] = False
        size = np.bincount(result.group[alive], minlength=len(result.label))
        too_few: dict[int, dict[str, Any]] = {}
        for row in np.flatnonzero(alive).tolist():
            number = int(size[result.group[row]])
            if number < self.settings.min_images:
                message = f"{number} image{'s' if number > 1 else ''} of this person"
                outcome = _reject("identity.too_few", message, number, f">= {self.settings.min_images}")
                rejected[row] = too_few.setdefault(number, outcome)
        size = size[size >= self.settings.min_images]
        statistics |= {
            "identities": int(np.count_nonzero(size)),
            "images": int(size.sum()),
            "outliers": len(result.outliers),
            "sizes": _sizes(size[size > 0]),
        }
        return rejected


def _reject(reason: str, message: str, value: float | None = None, threshold: str | None = None) -> dict[str, Any]:
    return {"status": REJECTED, "reason": reason, "message": message, "value": value, "threshold": threshold}


def _sizes(size: Any) -> dict[str, int]:
    """How many identities have so many images."""
    edges = {"1": (1, 1), "2": (2, 2), "3-5": (3, 5), "6-10": (6, 10), "11-20": (11, 20), "21-50": (21, 50)}
    found = {key: int(np.count_nonzero((size >= low) & (size <= high))) for key, (low, high) in edges.items()}
    return {**found, "51+": int(np.count_nonzero(size > 50))}


def _names(images: Images, result: Assigned) -> list[str]:
    """The label of each group, or `id-` and a hash of its lowest image id: stable whatever the order of rows."""
    names = [label or "" for label in result.label]
    for row in range(len(images.ids) - 1, -1, -1):
        group = int(result.group[row])
        if group >= 0 and not result.label[group]:
            names[group] = images.ids[row]
    return [
        result.label[group] or f"id-{hashlib.sha256(name.encode()).hexdigest()[:16]}"
        for group, name in enumerate(names)
    ]


def _rewrite(
    table: Table, images: Images, result: Assigned, names: list[str], rejected: dict[int, dict[str, Any]]
) -> Iterator[pa.Table]:
    """The table again with identities and outcomes; `images` is in id order, the table in its own."""
    similarity = result.similarity(images)
    start = 0
    for batch in table.batches(kept_only=True):
        rows = images.position[start : start + batch.num_rows]
        start += batch.num_rows
        group = result.group[rows]
        outcomes = [rejected.get(int(row), {"status": KEPT}) for row in rows]
        found = group >= 0
        columns = {
            "identity": [names[g] if ok else None for g, ok in zip(group.tolist(), found, strict=True)],
            "identity_how": [result.how[row] if ok else None for row, ok in zip(rows.tolist(), found, strict=True)],
            "identity_sim": pa.array(similarity[rows], mask=~found),
        }
        for field in WRITES:
            batch = with_column(batch, field, pa.array(columns[field.name], field.type))
        for field in OUTCOME:
            batch = with_column(batch, field, pa.array([outcome.get(field.name) for outcome in outcomes], field.type))
        yield batch
