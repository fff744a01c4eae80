"""Assigning images to people: labels checked against embeddings, folders tested, tracks and photos clustered.

Embeddings, and what is as large, lie in the `room` that is given."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from idtool.curate.cluster import Bools, Floats, Ints, average_linkage, means, normalise, separation, tracks
from idtool.curate.grouped import numbers, vectors
from idtool.curate.scratch import BLOCK_ROWS, Room, gathered, in_memory
from idtool.engine.table import Table

SAMPLE = 2_000
"""Rows of a label that its main person is sought among."""
SHOWN = 20
"""Names listed in statistics."""


@dataclass
class Images:
    """What identification needs of all rows, in id order."""

    ids: list[str]
    position: Ints
    """(n,) where the rows of the table, in its order, are in here."""
    embedding: Floats
    """(n, d) unit length, zeros where not usable."""
    usable: Bools
    label: list[str | None]
    folder: list[str | None]
    video: Ints
    """(n,) a number per video, -1 for photos."""
    shot: Ints
    time: Ints
    """ms"""
    room: Room = in_memory


@dataclass
class Assigned:
    """Groups of rows: a person each."""

    group: Ints
    """(n,) -1: none."""
    label: list[str | None]
    """Per group; None when it came from similarity."""
    how: list[str | None]
    """Per row."""
    outliers: dict[int, tuple[float, float]]
    """Row -> similarity to the others of its label, and the floor that it is under."""

    def sound(self) -> Ints:
        """`group` without the outliers."""
        return _without(self.group, self.outliers)

    def similarity(self, images: Images) -> Floats:
        """(n,) cosine of each row to the mean of its group's rows that are no outliers; 0 where there is no group."""
        result = np.zeros(len(self.group), np.float32)
        if not len(self.label):
            return result
        centre = means(images.embedding, self.sound(), len(self.label), images.room)
        for start in range(0, len(centre), BLOCK_ROWS):
            centre[start : start + BLOCK_ROWS] = normalise(centre[start : start + BLOCK_ROWS])[0]
        for start in range(0, len(result), BLOCK_ROWS):
            block = slice(start, start + BLOCK_ROWS)
            group = np.maximum(self.group[block], 0)
            result[block] = np.einsum("ij,ij->i", images.embedding[block], centre[group])
        result[self.group < 0] = 0.0
        return result


def _without(group: Ints, outliers: dict[int, tuple[float, float]]) -> Ints:
    sound = group.copy()
    sound[list(outliers)] = -1
    return sound


def read_images(table: Table, room: Room = in_memory) -> Images:
    """One pass over the narrow columns and the embeddings of a table."""
    have = set(table.schema.names)
    optional = [name for name in ("identity_label", "group", "parent", "origin", "shot", "time_ms") if name in have]
    count = table.rows
    parts: dict[str, list[Any]] = {name: [] for name in ("id", *optional)}
    embedding = np.zeros((count, 0), np.float32)
    usable = np.zeros(count, np.bool_)
    shared: dict[str | None, str | None] = {}
    start = 0
    for batch in table.batches(["id", "embedding", *optional], rows=BLOCK_ROWS, kept_only=True):
        values = vectors(batch["embedding"])
        if values.shape[1] and not embedding.shape[1]:
            embedding = room(count, values.shape[1])
        if values.shape[1]:
            rows = slice(start, start + len(values))
            embedding[rows], usable[rows] = normalise(values)
        start += batch.num_rows
        for name, held in parts.items():
            if name in ("shot", "time_ms"):
                held.append(np.nan_to_num(numbers(batch[name], np.float64), nan=-1).astype(np.int64))
            elif name == "id":
                held.extend(batch[name].to_pylist())
            else:
                # One text for all rows of a label, folder or video.
                held.extend(shared.setdefault(value, value) for value in batch[name].to_pylist())
    ids = np.array(parts["id"], dtype=object)
    order = np.argsort(ids, kind="stable") if count else np.zeros(0, np.int64)
    position = np.empty(count, np.int64)
    position[order] = np.arange(count)
    if not np.array_equal(order, position):
        embedding, usable = gathered(embedding, order, room), usable[order]

    def strings(name: str) -> list[str | None]:
        values = parts.get(name) or [None] * count
        return [values[k] or None for k in order]

    def integers(name: str) -> Ints:
        held = parts.get(name)
        return np.concatenate(held)[order] if held else np.zeros(count, np.int64)

    origin, parent = strings("origin"), strings("parent")
    codes: dict[str, int] = {}
    video = [
        codes.setdefault(p, len(codes)) if p and o in (None, "frame") else -1
        for p, o in zip(parent, origin, strict=True)
    ]
    return Images(
        ids=[ids[k] for k in order],
        position=position,
        embedding=embedding,
        usable=usable,
        label=strings("identity_label"),
        folder=strings("group"),
        video=np.array(video, np.int64),
        shot=integers("shot"),
        time=integers("time_ms"),
        room=room,
    )


def assign(images: Images, *, by: str, threshold: float, floor: float, statistics: dict[str, Any]) -> Assigned:
    """Group the rows. `statistics` gets what rule was used and why, and the label-free estimate of purity."""
    n = len(images.ids)
    label: list[str | None] = [None] * n
    how: list[str | None] = [None] * n
    if by in ("auto", "column"):
        label = list(images.label)
        how = ["column" if name else None for name in label]
    if by in ("auto", "folder"):
        folder = images.folder if by == "folder" else _sure_folders(images, label, threshold, statistics)
        for row, name in enumerate(folder):
            if name and not label[row]:
                label[row], how[row] = name, "folder"
    for row in np.flatnonzero(~images.usable).tolist():
        label[row] = how[row] = None
    names = sorted({name for name in label if name})
    number = {name: k for k, name in enumerate(names)}
    group = np.array([number[name] if name else -1 for name in label], np.int64)
    outliers = _outliers(images, group, names, floor, statistics)
    labels: list[str | None] = list(names)
    if by in ("auto", "video", "cluster"):
        labels = _cluster(images, group, how, labels, outliers, by, threshold)
    counts = {kind: sum(1 for h in how if h == kind) for kind in ("column", "folder", "video", "cluster")}
    statistics |= {
        "by": by,
        "threshold": threshold,
        "how": counts,
        "no_embedding": int(np.count_nonzero(~images.usable)),
    }
    _estimate(images, group, outliers, threshold, statistics)
    return Assigned(group, labels, how, outliers)


def _sure_folders(
    images: Images, label: list[str | None], threshold: float, statistics: dict[str, Any]
) -> list[str | None]:
    """For each row the folder that it lies in, where that folder is sure to be one person: it has at least two
    photos, their median similarity reaches the threshold, and no other such folder looks like the same person."""
    members: dict[str, list[int]] = {}
    for row, name in enumerate(images.folder):
        if name and not label[row] and images.usable[row] and images.video[row] < 0:
            members.setdefault(name, []).append(row)
    named = sorted(name for name, rows in members.items() if len(rows) > 1)
    mixed = [name for name in named if _median(images.embedding[_spread(members[name], 200)]) < threshold]
    alike = [name for name in named if name not in set(mixed)]
    centre = np.stack([images.embedding[members[name]].mean(axis=0) for name in alike]) if alike else np.zeros((0, 1))
    shared: set[str] = set()
    for start in range(0, len(alike), 2048):
        similar = centre[start : start + 2048] @ centre.T
        for r, c in zip(*np.nonzero(similar >= threshold), strict=True):
            if r + start != c:
                shared |= {alike[r + start], alike[c]}
    sure = {name for name in alike if name not in shared}
    statistics["folders"] = {
        "rule": "a folder is a person when its photos agree with one another and with no other folder",
        "folders": len(named),
        "taken_as_people": len(sure),
        "several_people": {"count": len(mixed), "names": mixed[:SHOWN]},
        "same_person_as_another": {"count": len(shared), "names": sorted(shared)[:SHOWN]},
    }
    rows = {row for name in sure for row in members[name]}
    return [name if row in rows else None for row, name in enumerate(images.folder)]


def _spread(rows: list[int], most: int) -> npt.NDArray[np.int64]:
    """At most so many of the rows, evenly spaced."""
    array = np.array(rows, np.int64)
    return array if len(array) <= most else array[np.linspace(0, len(array) - 1, most).astype(np.int64)]


def _median(embedding: Floats) -> float:
    similar = embedding @ embedding.T
    return float(np.median(similar[np.triu_indices(len(embedding), 1)]))


def _outliers(
    images: Images, group: Ints, names: list[str], floor: float, statistics: dict[str, Any]
) -> dict[int, tuple[float, float]]:
    """The label check. A label's main person is its largest cluster; rows whose cosine to the mean of that (of the
    others of it, for its own) is under `floor` are outliers. Without a majority nobody can say who is meant: the
    label is only named in the statistics."""
    found: dict[int, tuple[float, float]] = {}
    mixed: list[dict[str, Any]] = []
    order = np.argsort(group, kind="stable")
    starts = np.searchsorted(group[order], np.arange(len(names) + 1))
    for number, name in enumerate(names):
        rows = order[starts[number] : starts[number + 1]]
        if len(rows) < 2:
            continue
        sample = _spread(rows.tolist(), SAMPLE)
        clusters, place = np.unique(average_linkage(images.embedding[sample], floor), return_inverse=True)
        sizes = np.sort(np.bincount(place))[::-1]
        if len(clusters) > 1:
            mixed.append({"label": name, "images": len(rows), "people": [int(s) for s in sizes[:5]]})
        if sizes[0] * 2 <= len(sample):
            continue
        main = np.isin(rows, sample[place == np.argmax(np.bincount(place))])
        total = images.embedding[rows[main]].sum(axis=0)
        others = total - images.embedding[rows] * main[:, None]
        value = np.einsum("ij,ij->i", images.embedding[rows], normalise(others)[0])
        if np.count_nonzero(main) == 1:
            value[main] = 1.0
        for k in np.flatnonzero(value < floor).tolist():
            found[int(rows[k])] = (float(value[k]), floor)
    if names:
        statistics["mixed_labels"] = {"count": len(mixed), "examples": mixed[:SHOWN]}
    return found


def _cluster(
    images: Images,
    group: Ints,
    how: list[str | None],
    labels: list[str | None],
    outliers: dict[int, tuple[float, float]],
    by: str,
    threshold: float,
) -> list[str | None]:
    """Give the rows without a label a group, in place; returns the labels with those of new groups added."""
    free = np.flatnonzero(images.usable & (group < 0) & ((images.video >= 0) | (by != "video")))
    if not len(free):
        return labels
    embedding = images.embedding if len(free) == len(images.ids) else gathered(images.embedding, free, images.room)
    run = tracks(images.video[free], images.shot[free], images.time[free], embedding, threshold)
    count = int(run.max()) + 1
    first = np.full(count, len(images.ids))
    np.minimum.at(first, run, free)
    rank = np.empty(count, np.int64)
    rank[np.argsort(first)] = np.arange(count)
    run = rank[run]
    # A track counts as one image: the mean of its frames, so that products are mean similarities.
    items = means(embedding, run, count, images.room)
    video = np.zeros(count, np.int64)
    video[run] = images.video[free]
    if by == "video":
        root = np.zeros(count, np.int64)
        order = np.argsort(video, kind="stable")
        for own in np.split(order, np.flatnonzero(np.diff(video[order])) + 1):
            root[own] = own[average_linkage(items[own], threshold)]
        known = 0
    else:
        known = len(labels)
        both = images.room(known + count, items.shape[1])
        both[:known] = means(images.embedding, _without(group, outliers), known, images.room)
        both[known:] = items
        named = np.arange(known + count) < known
        root = average_linkage(both, threshold, named, images.room)[known:]
    new = np.unique(root[root >= known])
    target = np.where(root < known, root, len(labels) + np.searchsorted(new, root))
    group[free] = target[run]
    low, high = np.full(known + count, len(images.ids)), np.full(known + count, -1)
    np.minimum.at(low, root, video)
    np.maximum.at(high, root, video)
    # Tracks of one video that nothing else joined.
    alone = (root >= known) & (low[root] == high[root]) & (video >= 0)
    for row, item in zip(free.tolist(), run.tolist(), strict=True):
        how[row] = "video" if alone[item] else "cluster"
    return [*labels, *([None] * len(new))]


def _estimate(
    images: Images, group: Ints, outliers: dict[int, tuple[float, float]], threshold: float, statistics: dict[str, Any]
) -> None:
    found = separation(images.embedding, _without(group, outliers), threshold, room=images.room)
    if found is not None:
        statistics["purity_estimate"] = {
            "share": round(found.share, 4),
            "rows": found.rows,
            "what": f"estimate without labels: share of images whose mean similarity to their identity is at least "
            f"{threshold:g} and {found.margin:g} above that to any other identity",
        }
