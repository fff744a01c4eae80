"""The `pair` step: a new table of image pairs, each of one person.

Default bounds are the paper's for frames of one video (ArcFace above 0.8, DMID App. A.4) and, for different photos,
the network's calibrated `same_person`: 0.8 would lose nearly every true pair there. Measured on ArcFace
MobileFaceNet: different photos of one person .34 to .86; a re-encoded, blurred, shrunk, mirrored or slightly cropped
copy .92 to .99; near-identical frames above .95.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
from pydantic import Field

from idtool.curate.grouped import by_identity, lengths
from idtool.curate.identify import same_person
from idtool.curate.pair_rows import VECTORS, Bucket, carried, describe, schema
from idtool.curate.pairing import CANDIDATE, REASONS, Limits, Rules, pair
from idtool.engine.step import Binding, Env, Settings, TableContext, TableStep
from idtool.engine.table import Table
from idtool.errors import UsageError

OUT_ROWS = 4096
REJECTS_IN_ALL = 20_000
"""Examples of rejected pairs in one table; with many identities each keeps fewer."""


class Window(Settings):
    min: float | None = Field(default=None, ge=-1, le=1)
    """null: the network's calibrated `same_person`."""
    max: float | None = Field(default=None, ge=-1, le=1)
    """null: no upper bound."""


class AtMost(Settings):
    max: float | None = Field(default=None, ge=-1, le=1)
    """null switches the test off."""


class Copy(Settings):
    """When two images are taken for one picture."""

    face_correlation: AtMost = AtMost(max=0.95)
    """Correlation of the aligned grey faces at 32 px, either of them mirrored or not. Measured: copies .96 or more
    (mirrored .86, cropped .63); in different photos of one person the 95 % quantile is .89."""
    copy_similarity: AtMost = AtMost(max=0.85)
    """Cosine of the copy-detection descriptors (SSCD); judged only where measure `copy` ran. Measured: copies .86 or
    more, cropped by a third .69; photos of one sitting up to .84."""
    above: float = Field(default=0.75, ge=-1, le=1)
    """Only pairs of at least this identity similarity are judged. A copy keeps its embedding (.78 for the strongest
    recolouring measured); two expressions in one studio shot correlate .97 but have similarity .5."""


class Difference(Settings):
    """At least one of these must be reached; null leaves one out. A copy's pose differs by 2.5 degrees at most."""

    yaw: float | None = Field(default=6.0, ge=0)
    """Degrees."""
    pitch: float | None = Field(default=6.0, ge=0)
    """Degrees."""
    expression: float | None = Field(default=0.4, ge=0, le=1)
    """Half L1 distance of the expression probabilities; between an image and its copies up to .35."""
    time_ms: float | None = Field(default=800.0, ge=0)
    """For frames of one video."""


class Branch(Settings):
    similarity: Window = Window()
    similarity2: Window | None = None
    """The second identity network's window; absent: recorded, not judged. Only `min` counts."""
    copy_: Copy | None = Field(default=None, alias="copy")
    """In place of the step's."""
    difference: Difference | None = None
    """In place of the step's."""


class Branches(Settings):
    frames: Branch = Branch(similarity=Window(min=0.8, max=0.95), copy=Copy(above=0.88))
    """Frames of one video; edits of one picture. Aligned frames correlate even when the expression differs, so that
    only those of high similarity are judged as copies."""
    photos: Branch = Branch(similarity=Window(max=0.9))
    """Different photos, frames of different videos, and a photo with a frame."""


class PairSettings(Settings):
    branches: Branches = Branches()
    copy_: Copy = Field(default=Copy(), alias="copy")
    difference: Difference = Difference()
    per_identity: int = Field(default=20, ge=1)
    keep_rejects: int = Field(default=50, ge=0)
    """Examples of rejected pairs kept per identity, spread over the reasons; all are counted."""


class Pair(TableStep):
    """Reads identity by identity; memory is a bucket of some 8,000 images, or the largest identity."""

    kind = "pair"
    Settings: ClassVar[type[Settings]] = PairSettings
    summary = "pair images of one person that are alike enough and different enough"
    new_table = True

    settings: PairSettings

    def __init__(self, settings: PairSettings, env: Env) -> None:
        super().__init__(settings, env)

    def rules(self, keep_rejects: int | None = None) -> Rules:
        """The settings with the networks' thresholds filled in."""
        stated = self.settings
        return Rules(
            frames=self._limits(stated.branches.frames, one_video=True),
            photos=self._limits(stated.branches.photos, one_video=False),
            per_identity=stated.per_identity,
            keep_rejects=stated.keep_rejects if keep_rejects is None else keep_rejects,
        )

    def _limits(self, branch: Branch, *, one_video: bool) -> Limits:
        copy, difference = branch.copy_ or self.settings.copy_, branch.difference or self.settings.difference
        low, second = branch.similarity.min, branch.similarity2
        return Limits(
            low=same_person(self.env.require("identity")) if low is None else low,
            high=branch.similarity.max,
            low2=None if second is None else self._second(second),
            face_correlation=copy.face_correlation.max,
            copy_similarity=copy.copy_similarity.max,
            copy_above=copy.above,
            yaw=difference.yaw,
            pitch=difference.pitch,
            expression=difference.expression,
            time_ms=difference.time_ms if one_video else None,
        )

    def _second(self, window: Window) -> float:
        if window.min is not None:
            return window.min
        networks = self.env.all("identity")
        if len(networks) < 2:
            raise UsageError(
                f"similarity2 has no `min`, and profile {self.env.profile!r} binds no second identity network.",
                "Set similarity2.min, or leave similarity2 out.",
            )
        return same_person(networks[1])

    def _needs(self) -> dict[str, str]:
        """Columns that the settings ask for, with the setting."""
        needs: dict[str, str] = {}
        rules = self.rules()
        for limits in (rules.frames, rules.photos):
            for value, column, setting in (
                (limits.yaw, "yaw", "difference.yaw"),
                (limits.pitch, "pitch", "difference.pitch"),
                (limits.expression, "expressions", "difference.expression"),
                (limits.face_correlation, "face_thumb", "copy.face_correlation"),
                (limits.low2, "embedding2", "similarity2"),
            ):
                if value is not None:
                    needs[column] = setting
        return needs

    def reads(self, available: Mapping[str, pa.Field]) -> tuple[str, ...]:
        return ("id", "identity", "embedding", *(column for column in self._needs() if column not in self.missing))

    def writes(self, available: Mapping[str, pa.Field]) -> pa.Schema:
        return schema(available)

    def notes(self) -> list[str]:
        needs = self._needs()
        return [f"{needs[name]} is not judged: {why}" for name, why in self.missing.items() if name in needs]

    def config(self) -> dict[str, Any]:
        rules = self.rules()
        bounds = {"frames": rules.frames, "photos": rules.photos}
        networks = {f"{name}.low": limits.low for name, limits in bounds.items()}
        networks |= {f"{name}.low2": limits.low2 for name, limits in bounds.items() if limits.low2 is not None}
        return {"settings": self.settings.model_dump(mode="json", by_alias=True), "bounds": networks}

    def models(self) -> list[Binding]:
        return list(self.env.all("identity")[: 2 if "embedding2" in self._needs() else 1])

    def run(self, table: Table, context: TableContext) -> Iterable[pa.Table]:
        tally = _Tally()
        columns = carried(table.schema.names)
        identities = _count_identities(table)
        most = max(1, REJECTS_IN_ALL // max(1, identities))
        rules = self.rules(min(self.settings.keep_rejects, most))
        known = lengths(table, [name for name in VECTORS if name in table.schema.names])
        for rows in by_identity(table, context.step_dir / "identities"):
            yield from self._bucket(Bucket(rows, known), columns, rules, tally)
        context.statistics.update(tally.statistics())

    def _bucket(self, bucket: Bucket, columns: list[str], rules: Rules, tally: _Tally) -> Iterator[pa.Table]:
        waiting: list[Any] = []
        for first, end in bucket.spans():
            found = pair(bucket.faces(first, end), rules)
            kept, rejected = describe(bucket, first, end, found, rules)
            tally.add(found, kept.branch)
            waiting += [part for part in (kept, rejected) if len(part)]
            if sum(len(part) for part in waiting) >= OUT_ROWS:
                yield bucket.table(waiting, columns)
                waiting = []
        if waiting:
            yield bucket.table(waiting, columns)


def _count_identities(table: Table) -> int:
    found: set[str] = set()
    for batch in table.batches(["identity"], rows=65_536, kept_only=True):
        found.update(value for value in batch["identity"].unique().to_pylist() if value is not None)
    return len(found)


class _Tally:
    """Exact counts over all identities."""

    def __init__(self) -> None:
        self.images = self.identities = self.with_pairs = self.chosen = 0
        self.counts = np.zeros(CANDIDATE + 1, np.int64)
        self.branches: Counter[str] = Counter()
        self.unpaired: Counter[str] = Counter()

    def add(self, found: Any, branches: list[str]) -> None:
        n = len(found.furthest)
        self.identities += 1
        self.images += n
        self.with_pairs += bool(len(found.a))
        self.chosen += len(found.a)
        self.counts += found.counts
        self.branches.update(branches)
        out = np.ones(n, np.bool_)
        out[found.a] = out[found.b] = False
        words = {-1: "alone", CANDIDATE: "not_chosen", **dict(enumerate(REASONS))}
        for code, number in zip(*np.unique(found.furthest[out], return_counts=True), strict=True):
            self.unpaired[words[int(code)]] += int(number)

    def statistics(self) -> dict[str, Any]:
        """`judged` pairs = those rejected by reason + `allowed`; of these `chosen` are in the table. An image in no
        pair is counted under the furthest test that any of its pairs failed."""
        return {
            "identities": self.identities,
            "identities_with_pairs": self.with_pairs,
            "images": self.images,
            "pairs": {
                "judged": int(self.counts.sum()),
                "allowed": int(self.counts[CANDIDATE]),
                "chosen": self.chosen,
                "rejected": {name: int(number) for name, number in zip(REASONS, self.counts, strict=False) if number},
                "branches": dict(sorted(self.branches.items())),
            },
            "images_in_no_pair": {"count": self.unpaired.total(), "reasons": dict(self.unpaired.most_common())},
        }
