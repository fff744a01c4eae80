"""The `dedup` step: near-copies of one picture (re-encoded, resized, mirrored) are rejected but for the best of them.

Two images are near-copies when their 64-bit DCT hashes (measure `pixels`) differ in at most `max_distance` bits, or
when the hash of one and that of the other's mirror image do. All pairs are looked at, exactly (see `hamming`).
Images are taken best first (largest short side, then sharpest, then id); one that is a near-copy of an image already
kept is rejected. So every rejected image is itself close to the one that stands for it: no chain of small steps can
swallow a picture that is unlike the one kept.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from idtool.curate.exact import mark_exact
from idtool.curate.hamming import MAX_DISTANCE, close_pairs
from idtool.engine.operator import KEPT, OUTCOME, REJECTED, with_column
from idtool.engine.step import Env, Settings, TableContext, TableStep
from idtool.engine.table import Table

HASHES = ("phash", "phash_mirror")


class Perceptual(Settings):
    max_distance: int = Field(default=3, ge=0, le=MAX_DISTANCE)
    """Bits of 64 that may differ."""
    origins: tuple[str, ...] = ("photo",)
    """Only rows of these origins are compared; the frames of one video are alike by nature."""
    mirrored: bool = True
    """Whether a mirror image counts as a near-copy."""


class DedupSettings(Settings):
    exact: bool = True
    """Reject rows whose content is the same byte for byte. Ingest does so too; this holds for tables from elsewhere."""
    perceptual: Perceptual | None = Perceptual()
    """null switches it off."""


@dataclass(frozen=True)
class Copy:
    """Why a row goes: the row that stands for it and how far the two hashes are apart."""

    of: str
    distance: int
    mirrored: bool


class Dedup(TableStep):
    """Streams the table; in memory are 16 bytes of hashes, the id and 8 bytes of quality per compared row."""

    kind = "dedup"
    Settings: ClassVar[type[Settings]] = DedupSettings
    summary = "reject copies and near-copies of an image, but for the best one"
    selects_only = True

    settings: DedupSettings

    def __init__(self, settings: DedupSettings, env: Env) -> None:
        super().__init__(settings, env)

    def reads(self, available: Mapping[str, pa.Field]) -> tuple[str, ...]:
        names = ["id", "uri", "name"]
        if self.settings.perceptual:
            names += ["origin", "short_side", "sharpness", *HASHES[: 1 + self.settings.perceptual.mirrored]]
        return tuple(names)

    def run(self, table: Table, context: TableContext) -> Iterable[pa.Table]:
        perceptual = self.settings.perceptual
        copies = near_copies(table, perceptual) if perceptual else {}
        context.statistics["perceptual"] = len(copies)
        names = _names(table, {copy.of for copy in copies.values()})
        batches: Iterator[pa.Table] = (_keep_all(batch) for batch in table.batches(kept_only=True))
        if self.settings.exact:
            batches = mark_exact(table, batches)
        for batch in batches:
            yield _mark(batch, copies, names, perceptual.max_distance) if perceptual else batch


def near_copies(table: Table, settings: Perceptual) -> dict[str, Copy]:
    """Id -> why, for every row that is to be rejected as a near-copy of one that stays."""
    columns = ["id", "origin", "short_side", "sharpness", *HASHES[: 1 + settings.mirrored]]
    parts, found = [], []
    for batch in table.batches(columns, rows=65_536, kept_only=True):
        wanted = pc.and_(
            pc.is_in(batch["origin"], pa.array(settings.origins, pa.string())), pc.is_valid(batch["phash"])
        )
        batch = batch.filter(wanted)
        found.append(np.stack([_numbers(batch[name]) for name in HASHES[: 1 + settings.mirrored]], axis=1))
        parts.append(batch.select(["id", "short_side", "sharpness"]))
    rows = pa.concat_tables(parts) if parts else None
    if rows is None or rows.num_rows < 2:
        return {}
    # Best first, so that the lower of two positions is the better image.
    best_first = [("short_side", "descending"), ("sharpness", "descending"), ("id", "ascending")]
    order = pc.sort_indices(rows, sort_keys=best_first).to_numpy()
    hashes = np.concatenate(found)[order]
    found.clear()

    def named(position: int) -> str:
        return str(rows["id"][int(order[position])].as_py())

    # Images with equal hashes have the same near-copies: only the best of them is compared with others, so that a
    # million copies of one picture cost no million squared.
    distinct, first, kind = np.unique(hashes, axis=0, return_index=True, return_inverse=True)
    gone: dict[int, Copy] = {}
    for better, worse, distance, mirrored in _close(distinct, first, settings.max_distance):
        # Comes in order of `worse`: whether `better` stays was decided before. The nearest that stays is named.
        if better not in gone and worse not in gone:
            gone[worse] = Copy(named(better), distance, mirrored)
    copies: dict[str, Copy] = {}
    best = first[kind.reshape(-1)]
    concerned = np.flatnonzero((best != np.arange(len(best))) | np.isin(best, list(gone)))
    for position in concerned.tolist():
        copy = gone.get(int(best[position])) or Copy(named(best[position]), 0, False)
        # Rows that share an id are exact copies, which is for `exact` to say.
        if copy.of != named(position):
            copies[named(position)] = copy
    return copies


def _close(
    hashes: npt.NDArray[np.uint64], position: npt.NDArray[np.intp], limit: int
) -> Iterator[tuple[int, int, int, bool]]:
    """(better, worse, distance, mirrored) for the close pairs among images given by `hashes` (n, 1 or 2: the image's
    and its mirror image's) and `position` (n,), the rank; sorted by worse, then distance."""
    count = len(hashes)
    # Entries from `count` on are mirror images. Two mirror images tell nothing that their originals do not.
    a, b, distance = close_pairs(hashes.T.reshape(-1), limit)
    mirrored = b >= count
    useful = (a < count) & (a != b % count)
    a, b, distance, mirrored = position[a[useful]], position[b[useful] % count], distance[useful], mirrored[useful]
    better, worse = np.minimum(a, b), np.maximum(a, b)
    order = np.lexsort((better, mirrored, distance, worse))
    found = zip(
        better[order].tolist(), worse[order].tolist(), distance[order].tolist(), mirrored[order].tolist(), strict=True
    )
    yield from found


def _numbers(column: pa.ChunkedArray) -> npt.NDArray[np.uint64]:
    """16 hexadecimal digits each -> uint64."""
    return np.frombuffer(bytes.fromhex("".join(column.to_pylist())), dtype=">u8").astype(np.uint64)


def _names(table: Table, ids: set[str]) -> dict[str, str]:
    """File names of some rows."""
    names: dict[str, str] = {}
    if ids:
        wanted = pa.array(sorted(ids))
        for batch in table.batches(["id", "name", "uri"], rows=65_536, kept_only=True):
            found = batch.filter(pc.is_in(batch["id"], wanted))
            shown = pc.coalesce(found["name"], found["uri"])
            names.update(zip(found["id"].to_pylist(), shown.to_pylist(), strict=True))
    return names


def _keep_all(batch: pa.Table) -> pa.Table:
    for field in OUTCOME:
        values = pa.repeat(KEPT, batch.num_rows) if field.name == "status" else pa.nulls(batch.num_rows, field.type)
        batch = batch.append_column(field, values)
    return batch


def _mark(batch: pa.Table, copies: Mapping[str, Copy], names: Mapping[str, str], limit: int) -> pa.Table:
    outcome: dict[str, list[Any]] = {name: batch[name].to_pylist() for name in OUTCOME.names}
    for k, row in enumerate(batch["id"].to_pylist()):
        copy = copies.get(row)
        if copy is None or outcome["status"][k] != KEPT:
            continue
        how = "mirror image" if copy.mirrored else "near-copy"
        outcome["status"][k], outcome["reason"][k] = REJECTED, "duplicate.perceptual"
        outcome["value"][k], outcome["threshold"][k] = float(copy.distance), f"> {limit}"
        name = names.get(copy.of, copy.of)
        outcome["message"][k] = f"{how} of {name} (id {copy.of}), {copy.distance} of 64 hash bits differ"
    for field in OUTCOME:
        batch = with_column(batch, field, pa.array(outcome[field.name], field.type))
    return batch
