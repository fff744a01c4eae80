"""Worse copies of good images, to be scored and then to lose (IdGlow, section 3.4), with the tables to score them by.

Pairs are mined from stored scores, so copies are made first. Next to them lies a table for each method of the
benchmark, since images are only compared within one scored folder: `idtool evaluate --images mine=DIR/mine.jsonl
--images perturbed=DIR/perturbed.jsonl`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from idtool.curate.derived import derived_id
from idtool.curate.perturb import KINDS, PerturbSettings, drawn, perturbed
from idtool.curate.prefer import candidates as source
from idtool.curate.prefer.inspecting import picture
from idtool.curate.prefer.parts import choose
from idtool.engine.operator import Rejected
from idtool.engine.table import Table
from idtool.errors import QualityError, UsageError
from idtool.evaluate.folder import Bench

NAME = "perturbed"


def write_losers(
    bench_path: Path,
    output: Path,
    *,
    methods: tuple[str, ...] = (),
    metric: str | None = None,
    floor: float | None = 0.5,
    photos: tuple[str, ...] = (),
    photo_floor: float | None = 0.3,
    settings: PerturbSettings | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """Copies of every image whose identity is good enough to be chosen, drawn from `seed` and the image; returns
    `{folder, copies, reasons, tables, next}`. A face is only blurred where the benchmark has measure `people`.

    UsageError for a folder that is in use; QualityError when nothing is good enough.
    """
    bench = Bench(bench_path)
    settings = settings or PerturbSettings(remeasure=False)
    names = methods or tuple(name for name, entry in bench.methods.items() if not entry.get("baseline"))
    wanted = frozenset((*names, *photos))
    for name in wanted:
        if name not in bench.methods:
            raise UsageError(f"{bench_path} has no method {name!r}.", f"It has {', '.join(bench.methods)}.")
        if name == NAME or "/" in name:
            raise UsageError(f"A method called {name!r} cannot be told from the copies.", "Name it otherwise.")
    part = choose(bench.manifest, ("id",), {"id": metric} if metric else {})["id"]
    if output.exists() and any(output.iterdir()):
        raise UsageError(f"{output} is not empty.", "Choose another folder.")
    images = source.read(bench.path, {"id": part.metric}, methods=wanted)
    faces = {name: _faces(bench, name) for name in wanted}
    made = 0
    reasons: dict[str, int] = {}
    with ExitStack() as stack:
        (output / "images").mkdir(parents=True)
        tables = {
            name: stack.enter_context(open(output / f"{name}.jsonl", "w", encoding="utf-8"))
            for name in (*sorted(wanted), NAME)
        }
        for row, told in _rows(bench.path, images, wanted):
            method, media = images.methods[row], images.media[row]
            if media is None:
                continue
            shared = {"image": media, **told, "seed": images.seeds[row] or 0}
            tables[method].write(json.dumps(shared, ensure_ascii=False) + "\n")
            limit = photo_floor if method in photos else floor
            if limit is not None and not images.values["id"][row] >= limit:
                continue
            try:
                copies = _copies(media, faces[method].get(images.ids[row], []), settings, seed, output / "images")
                for path, how in copies:
                    record = {**shared, "image": str(path), "parent": media, "perturbation": json.dumps(how)}
                    tables[NAME].write(json.dumps(record, ensure_ascii=False) + "\n")
                    made += 1
            except (Rejected, OSError, ValueError) as error:
                reason = error.reason if isinstance(error, Rejected) else "unreadable"
                reasons[reason] = reasons.get(reason, 0) + 1
    if not made:
        raise QualityError(f"No image of {len(images.ids)} could be copied: {reasons or 'none reaches the floor'}.")
    paths = {name: str(output / f"{name}.jsonl") for name in tables}
    command = " ".join(["idtool evaluate", *(f"--images {name}={path}" for name, path in paths.items())])
    return {"folder": str(output), "copies": made, "reasons": reasons, "tables": paths, "next": command}


def _rows(folder: Path, images: source.Candidates, methods: frozenset[str]) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """(row, its references, people and prompt as tables name them)."""
    block = 4096
    for start in range(0, len(images.ids), block):
        rows = range(start, min(start + block, len(images.ids)))
        for row, one in source.details(folder, rows, methods).items():
            people = [name or "" for name in one["people"] or ()]
            told = {"references": one["references"], "prompt": one["prompt"]}
            yield row, {**told, "identities": people} if all(people) else told


def _copies(
    media: str, boxes: list[list[float]], settings: PerturbSettings, seed: int, folder: Path
) -> Iterator[tuple[Path, dict[str, Any]]]:
    from idtool.media import images

    pixels = picture(media)
    kinds = tuple(kind for kind in KINDS if kind in settings.kinds and (boxes or kind != "blur"))
    asked = settings.model_dump(mode="json", exclude={"where", "remeasure", "gpus", "max_pixels"})
    for number in range(settings.copies):
        new = derived_id(media, "perturb", kinds, asked, seed, number)
        own = int(new[:15], 16)
        how = drawn(settings, kinds, own, boxes)
        path = (folder / f"{new}.png").absolute()
        path.write_bytes(images.encode(np.ascontiguousarray(perturbed(pixels, how, own)), "png"))
        yield path, {**how, "seed": own}


def _faces(bench: Bench, method: str) -> dict[str, list[list[float]]]:
    """Sample -> boxes of its faces, as measured."""
    table = Table(bench.scores(method) / "features" / "people" / "table")
    found: dict[str, list[list[float]]] = {}
    for batch in table.batches(["id", "people_boxes"]) if table.files else ():
        for row in batch.to_pylist():
            found[row["id"]] = row["people_boxes"] or []
    return found
