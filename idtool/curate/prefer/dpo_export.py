"""Data sets of preference pairs for trainers, as Parquet with the pictures inside.

A person of one split is in no other, alone or with others; what is written is read back before it counts.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from idtool.curate import folders
from idtool.curate.prefer import table
from idtool.curate.prefer.dpo_files import (
    FORMATS,
    GROUP_ROWS,
    LAYOUT,
    Files,
    Format,
    image,
    pictures_in,
    row_of,
    schema_of,
)
from idtool.curate.splits import assign, check_shares
from idtool.engine.operator import ERROR, STORAGE_ERRNOS, Rejected
from idtool.errors import QualityError, RunFailed, UsageError
from idtool.manifest_folder import write_json
from idtool.registry import nearest
from idtool.run import Run


@dataclass
class _Done:
    rows: dict[str, int] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    """Pair -> why its pictures could not be shipped."""
    removed: int = 0
    left_out: int = 0
    """Pairs that nobody decided, where only decided ones were asked for."""
    of_removed: set[str] = field(default_factory=set)
    """Digests of pictures that show a removed person."""


def export(
    path: Path,
    output: Path | None = None,
    layout: Format = "diffusers-dpo",
    *,
    remove_identity: Sequence[str] = (),
    splits: Mapping[str, float] | None = None,
    reviewed_only: bool = False,
    seed: int = 0,
) -> dict[str, Any]:
    """Write the pairs of a run as a data set to `output` (else RUN/dataset-<layout>), replacing one that is there.

    `remove_identity`: people of whom no picture is left in it. `splits`: as of `idtool export`; people who are in a
    picture together are in one split. Returns `{path, format, pairs, splits, removed, failed, …}`. UsageError for
    unknown people and for folders that hold something else; QualityError when nothing is left.
    """
    if layout not in FORMATS:
        raise UsageError(f"There is no format {layout!r}.", f"There are {', '.join(FORMATS)}.")
    shares = check_shares(splits or {"train": 1.0})
    run = table.open_run(path)
    target = (output or run.path / f"dataset-{layout}").absolute()
    if target.exists() and any(target.iterdir()) and not (target / folders.CHECKSUMS).exists():
        raise UsageError(f"{target} is not empty and holds no data set of this tool.", "Choose another --output.")
    removed = frozenset(remove_identity)
    split_of, known = _splits(run, removed, shares, seed)
    for name in remove_identity:
        if name not in known:
            guess = nearest(name, known)
            raise UsageError(f"{path} has no pairs of {name!r}.", f"Did you mean {guess!r}?" if guess else "")
    work = target.with_name(f".{target.name}.writing")
    target.parent.mkdir(parents=True, exist_ok=True)
    folders.recover(target)
    shutil.rmtree(work, ignore_errors=True)
    (work / "data").mkdir(parents=True)
    try:
        done = _write(run, work, layout, split_of, removed, reviewed_only)
        if not done.rows:
            why = "; ".join(sorted(set(done.failed.values()))[:3]) or "everything was removed, or nothing was reviewed"
            raise QualityError(f"No pair could be exported: {why}.", "Mine or review some more.")
        _verify(work, layout, done, removed)
        (work / "README.md").write_text(_card(run, layout, done), encoding="utf-8")
        if done.failed:
            write_json(work / "failed.json", done.failed)
        folders.write_checksums(work)
        folders.replace_folder(work, target)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return {
        "path": str(target),
        "format": layout,
        "pairs": sum(done.rows.values()),
        "splits": done.rows,
        "removed": done.removed,
        "undecided_left_out": done.left_out,
        "failed": len(done.failed),
    }


def _splits(
    run: Run, removed: frozenset[str], shares: Mapping[str, float], seed: int
) -> tuple[dict[str, str], set[str]]:
    """Person -> split, and all people. Who is in a picture with somebody is in the split of that person."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    numbers: dict[str, int] = {}
    edges: list[tuple[int, int]] = []
    first: list[int] = []
    for row in table.pairs_of(run):
        people = [numbers.setdefault(name, len(numbers)) for name in _people(row)]
        if not removed & set(_people(row)):
            first.append(people[0])
            edges += [(people[0], other) for other in people[1:]]
    size = len(numbers)
    ends = np.array(edges, np.int64).reshape(-1, 2)
    graph = coo_array((np.ones(len(ends), np.int8), (ends[:, 0], ends[:, 1])), shape=(size, size))
    labels = connected_components(graph, directed=False)[1] if size else np.zeros(0, np.int64)
    names = list(numbers)
    # Named by its first person in alphabetical order, so that a split does not depend on the order of the pairs.
    called: dict[int, str] = {}
    for name in sorted(numbers):
        called.setdefault(int(labels[numbers[name]]), name)
    sizes: dict[str, int] = {}
    for number in first:
        name = called[int(labels[number])]
        sizes[name] = sizes.get(name, 0) + 1
    told = assign(sizes, shares, seed) if sizes else {}
    return {name: told[called[int(labels[k])]] for k, name in enumerate(names) if called[int(labels[k])] in told}, set(
        names
    )


def _people(row: Mapping[str, Any]) -> list[str]:
    """Who is in a pair: labels, or pictures where there is none; the pair's own label where there are no references."""
    people = row["people"] or [None] * len(row["references"])
    found = [label or uri for label, uri in zip(people, row["references"], strict=True)]
    return found or [row["identity"]]


def _write(
    run: Run,
    work: Path,
    layout: Format,
    split_of: Mapping[str, str],
    removed: frozenset[str],
    reviewed_only: bool,
) -> _Done:
    schema = schema_of(layout)
    done = _Done()
    writers: dict[str, Files] = {}
    for row in table.pairs_of(run):
        people = _people(row)
        if removed & set(people):
            done.removed += 1
            done.of_removed |= _digests_of(row, people, removed)
            continue
        if reviewed_only and row["decision"] is None:
            done.left_out += 1
            continue
        try:
            told = row_of(row, layout)
        except (Rejected, OSError, ValueError) as error:
            if isinstance(error, OSError) and error.errno in STORAGE_ERRNOS:
                raise
            done.failed[row["id"]] = f"{ERROR}: {error}"
            continue
        split = split_of[people[0]]
        if split not in writers:
            writers[split] = Files(work / "data", split, schema)
        writers[split].add(told)
        done.rows[split] = done.rows.get(split, 0) + 1
    for writer in writers.values():
        writer.close()
    return done


def _digests_of(row: Mapping[str, Any], people: Sequence[str], removed: frozenset[str]) -> set[str]:
    """What must not be in the data set: both images, and the references of the people who are removed."""
    uris = [row["chosen"], row["rejected"]]
    uris += [uri for name, uri in zip(people, row["references"], strict=False) if name in removed]
    found = set()
    for uri in uris:
        try:
            found.add(_digest(image(uri, "")["bytes"]))
        except (Rejected, OSError, ValueError):
            continue  # a file that is gone cannot be shipped, either
    return found


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _verify(work: Path, layout: Format, done: _Done, removed: frozenset[str]) -> None:
    """Read what was written: all pairs are there, nobody is in two splits, nothing of a removed person. RunFailed."""
    seen: dict[str, str] = {}
    count = 0
    pictures = [one.name for one in LAYOUT[layout] if not pa.types.is_string(one.type) and one.name != "label_0"]
    for path in sorted((work / "data").glob("*.parquet")):
        split = path.name.rsplit("-", 3)[0]
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(GROUP_ROWS, columns=["identity", "people", *(pictures if removed else ())]):
                count += batch.num_rows
                for row in batch.to_pylist():
                    named = [name for name in row["people"] or () if name] or [row["identity"]]
                    for name in named:
                        if seen.setdefault(name, split) != split:
                            raise RunFailed(f"{name!r} is in two splits of {work}.")
                    shown = {_digest(data) for data in pictures_in({name: row[name] for name in pictures if removed})}
                    if removed & set(named) or shown & done.of_removed:
                        raise RunFailed(f"{path.name} still holds a removed person ({', '.join(named)}).")
    if count != sum(done.rows.values()):
        raise RunFailed(f"{work} holds {count} pairs, not {sum(done.rows.values())}.", "The disk may be full.")


def _card(run: Run, layout: Format, done: _Done) -> str:
    """README.md."""
    from idtool.curate.prefer.review import environment

    manifest = run.manifest
    return str(
        environment()
        .get_template("card.md.j2")
        .render(
            layout=layout,
            splits=dict(sorted(done.rows.items())),
            pairs=sum(done.rows.values()),
            manifest=manifest,
            reviewed=next((entry for entry in run.steps if entry["name"] == table.REVIEWED[1]), None),
            failed=len(done.failed),
        )
    )
