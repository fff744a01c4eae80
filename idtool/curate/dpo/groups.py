"""Requests by group photos: everybody in the photo is recognised by the portraits of the table, and is shown to the
generator by one of these."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from idtool.curate.dpo.columns import TERMS
from idtool.curate.dpo.requests import Asked, Portrait, photo_row, turned_down
from idtool.curate.made import MEDIA
from idtool.engine.step import TableContext
from idtool.engine.table import Table

if TYPE_CHECKING:
    from idtool.curate.dpo.requests import RequestsSettings

Floats = npt.NDArray[np.float32]
BODY = (1.0, 0.6)
"""How far a person reaches beyond the box of the face, in its widths to both sides and in its heights above; below, to
the edge of the picture."""


@dataclass
class _Known:
    """A person with portraits."""

    total: Floats
    best: Portrait
    rank: tuple[float, str]
    """Of the best portrait: face quality, then the lowest id."""
    count: int = 1


@dataclass(frozen=True)
class _People:
    names: list[str]
    means: Floats
    """(people, D), of length 1."""
    best: list[Portrait] = field(default_factory=list)


def groups(
    table: Table, settings: RequestsSettings, threshold: float, context: TableContext
) -> Iterator[Asked | dict[str, Any]]:
    """Of each photo of `settings.people` faces whose people are all known, the request and the photo's own row. Photos
    of one person serve as portraits: they are not in the table that comes out, and are no rejects. Two passes over the
    table; in memory are one mean embedding and one portrait of each person."""
    known = _known(table)
    photos = made = 0
    names = [name for name in (*TERMS.names, *MEDIA.names) if name in table.schema.names and name != "media"]
    columns = ["id", "kind", "media", "identity", "faces", settings.prompt]
    columns += ["people_boxes", "people_embeddings", "image_size", *names]
    for batch in table.batches(list(dict.fromkeys(columns)), rows=512, kept_only=True):
        for row in batch.to_pylist():
            number = len(row["people_boxes"] or ())
            if row["kind"] != "image" or row["faces"] == 1:
                continue
            photos += 1
            if number not in settings.people:
                wanted = " or ".join(map(str, settings.people))
                yield turned_down(row, "people", f"{number} faces are found in it", float(number), f"{wanted} faces")
                continue
            found = _of_photo(row, settings, threshold, known)
            yield found
            if isinstance(found, Asked):
                made += 1
                yield photo_row(row, found)
    context.statistics.update(
        requests=made, group_photos=photos, people=len(known.names), seeds=settings.seeds, threshold=threshold
    )


def _known(table: Table) -> _People:
    people: dict[str, _Known] = {}
    names = [name for name in (*TERMS.names, "face_quality") if name in table.schema.names]
    for batch in table.batches(["id", "kind", "media", "identity", "faces", "embedding", *names], kept_only=True):
        for row in batch.to_pylist():
            if row["kind"] != "image" or row["faces"] != 1 or row["embedding"] is None or row["identity"] is None:
                continue
            vector = np.asarray(row["embedding"], np.float32)
            rank = (-float(row.get("face_quality") or 0.0), row["id"])
            portrait = Portrait(row["id"], row["media"], {name: row.get(name) for name in TERMS.names})
            if (one := people.get(row["identity"])) is None:
                people[row["identity"]] = _Known(vector, portrait, rank)
                continue
            one.total = one.total + vector
            one.count += 1
            if rank < one.rank:
                one.rank, one.best = rank, portrait
    order = sorted(people)
    means = np.stack([people[name].total for name in order]) if order else np.zeros((0, 1), np.float32)
    norms = np.linalg.norm(means, axis=1, keepdims=True)
    return _People(order, means / np.maximum(norms, 1e-12), [people[name].best for name in order])


def _of_photo(
    row: Mapping[str, Any], settings: RequestsSettings, threshold: float, known: _People
) -> Asked | dict[str, Any]:
    from scipy.optimize import linear_sum_assignment

    if not row[settings.prompt]:
        return turned_down(row, "no_prompt", f"column {settings.prompt!r} is empty")
    boxes = row["people_boxes"]
    order = sorted(range(len(boxes)), key=lambda k: boxes[k][0] + boxes[k][2])
    faces = np.asarray([row["people_embeddings"][k] for k in order], np.float32)
    if not known.names:
        return turned_down(row, "stranger", "there are no portraits to know anybody by")
    cosines = faces @ known.means.T
    twice = _twice(cosines, threshold, known.names)
    if twice is not None:
        return turned_down(row, "twice", f"two of its faces look like {twice!r}")
    rows, columns = linear_sum_assignment(-cosines)
    least = float(cosines[rows, columns].min()) if len(rows) == len(faces) else -1.0
    if least < threshold:
        told = f"of one of its people no portrait is known: the nearest has cosine {least:.3f}"
        return turned_down(row, "stranger", told, least, f">= {threshold:g}")
    chosen = [int(columns[list(rows).index(k)]) for k in range(len(faces))]
    height, width = row["image_size"]
    return Asked(
        row[settings.prompt],
        tuple(known.best[k] for k in chosen),
        tuple(known.names[k] for k in chosen),
        row["id"],
        {name: row.get(name) for name in TERMS.names},
        [_body(boxes[k], width, height) for k in order],
    )


def _twice(cosines: Floats, threshold: float, names: Sequence[str]) -> str | None:
    """Who two faces look like most, or None."""
    best = cosines.argmax(axis=1)
    sure = [int(k) for k, row in zip(best, cosines, strict=True) if row[k] >= threshold]
    return next((names[k] for k in sure if sure.count(k) > 1), None)


def _body(box: Sequence[float], width: int, height: int) -> list[float]:
    """Where the person of a face box stands, as shares of the frame."""
    left, top, right, bottom = box
    aside, above = BODY[0] * (right - left), BODY[1] * (bottom - top)
    found = ((left - aside) / width, (top - above) / height, (right + aside) / width, 1.0)
    return [min(max(float(value), 0.0), 1.0) for value in found]
