"""Photos with people's names, or pairs of photos with a verdict: what face networks are calibrated on.

Three kinds of source are read:

- a table (CSV, TSV, JSON lines, Parquet) with columns `a`, `b` and `same`: pairs, paths relative to the table;
- a manifest with a path and `identity`: every pair of its photos;
- a folder with a folder of photos per person: every pair of its photos.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from idtool.errors import UsageError
from idtool.media.formats import IMAGE_EXTENSIONS
from idtool.media.manifest import MANIFEST_EXTENSIONS, records
from idtool.media.paths import local
from idtool.media.place import Place
from idtool.media.sources import list_sources

MOST_PAIRS = 10_000_000
_SAME = {"1": True, "true": True, "yes": True, "same": True, "0": False, "false": False, "no": False}
_SAME["different"] = False


@dataclass(frozen=True)
class Labelled:
    """Photos, and which pairs of them to compare."""

    files: tuple[Path, ...]
    names: tuple[str, ...]
    """For messages: relative to the source."""
    people: npt.NDArray[np.int64]
    """(len(files),) who is in each photo, as numbers from 0. From pairs: photos that `same` links, directly or over
    others, are one person."""
    pairs: npt.NDArray[np.int64]
    """(N, 2) indices of files."""
    same: npt.NDArray[np.bool_]
    """(N,) whether the two show one person."""


def read(source: Path) -> Labelled:
    """Photos and pairs of a source. Whether the photos exist is for who opens them to find out.

    UsageError when there is nothing at the path, labels are missing or contradict each other, all pairs are of one
    kind, or there are more than `MOST_PAIRS`.
    """
    place = Place.of(str(source))
    if not place.is_folder and place.name.lower().endswith(MANIFEST_EXTENSIONS):
        first = next(iter(records(place)), {})
        if {"a", "b", "same"} <= {str(name).strip().lower() for name in first}:
            return _checked(_of_pairs(source, place), source)
    return _checked(_of_people(source), source)


def _of_people(source: Path) -> Labelled:
    """All pairs of photos whose manifest or folder says who they show."""
    files, names, people = [], [], []
    folder, numbers = source.is_dir(), dict[str, int]()
    for row in list_sources([str(source)]):
        path = local(row["uri"])
        if path is None:
            raise UsageError(f"{row['uri']} is not on this machine.", "Calibrate on local photos.")
        if folder and path.suffix.lower() not in IMAGE_EXTENSIONS:
            continue
        # The folders of a manifest's photos may mean anything.
        person = str(row["group"] or "").split("/")[0] if folder else row["identity_label"]
        if not person:
            raise UsageError(
                f"{source} does not say who is on {row['name'] or row['uri']}.",
                "Put photos into a folder per person, or give the manifest a column `identity`.",
            )
        files.append(path)
        names.append("/".join(part for part in (row["group"], row["name"]) if part))
        people.append(numbers.setdefault(person, len(numbers)))
    if len(files) * (len(files) - 1) // 2 > MOST_PAIRS:
        raise UsageError(
            f"{source} has {len(files):,} photos, which make more than {MOST_PAIRS:,} pairs.",
            "Calibrate on some of them: a few thousand photos of many people say as much.",
        )
    who, pairs = np.array(people, np.int64), np.column_stack(np.triu_indices(len(files), 1))
    return Labelled(tuple(files), tuple(names), who, pairs, who[pairs[:, 0]] == who[pairs[:, 1]])


def _of_pairs(source: Path, place: Place) -> Labelled:
    """The pairs of a table."""
    numbers: dict[str, int] = {}
    pairs, same = [], []
    for line, record in enumerate(records(place), start=1):
        a, b, verdict = (_value(record, name, source, line) for name in ("a", "b", "same"))
        if verdict.lower() not in _SAME:
            raise UsageError(
                f"{source}, row {line}: `same` is {verdict!r}.", f"It is one of {', '.join(sorted(_SAME))}."
            )
        if a == b:
            raise UsageError(f"{source}, row {line}: a photo is paired with itself.", "Remove the row.")
        pairs.append([numbers.setdefault(name, len(numbers)) for name in (a, b)])
        same.append(_SAME[verdict.lower()])
        if len(pairs) > MOST_PAIRS:
            raise UsageError(f"{source} has more than {MOST_PAIRS:,} pairs.", "Calibrate on some of them.")
    array, verdicts = np.array(pairs, np.int64).reshape(-1, 2), np.array(same, np.bool_)
    people = _linked(array[verdicts], len(numbers))
    for line, (one, other) in enumerate(array, start=1):
        if not verdicts[line - 1] and people[one] == people[other]:
            raise UsageError(
                f"{source}, row {line}: the two are said to differ, but other rows make them the same person.",
                "Correct the labels.",
            )
    files = tuple(source.parent / name for name in numbers)
    return Labelled(files, tuple(numbers), people, array, verdicts)


def _value(record: Mapping[Any, Any], column: str, source: Path, line: int) -> str:
    """A field of a row as text, whatever the case of its column's name; booleans and numbers of typed tables too."""
    value = next((held for name, held in record.items() if str(name).strip().lower() == column), None)
    if value is None or str(value).strip() == "":
        raise UsageError(f"{source}, row {line}: `{column}` is empty.", "Give each pair two paths and a verdict.")
    return str(value).strip()


def _linked(pairs: Iterable[Iterable[int]], count: int) -> npt.NDArray[np.int64]:
    """Number of the group of each of `count` things that `pairs` link, directly or over others (union-find)."""
    root = list(range(count))

    def find(item: int) -> int:
        while root[item] != item:
            root[item] = root[root[item]]
            item = root[item]
        return item

    for one, other in pairs:
        root[find(int(one))] = find(int(other))
    return np.unique([find(item) for item in range(count)], return_inverse=True)[1].astype(np.int64)


def _checked(found: Labelled, source: Path) -> Labelled:
    if not found.same.any() or found.same.all():
        kind = "one person" if not found.same.any() else "two people"
        raise UsageError(
            f"{source} has {len(found.files)} photos and no pair of {kind}.",
            "Calibration needs at least two people, and one of them on two photos.",
        )
    return found
