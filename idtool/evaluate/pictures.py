"""Samples out of folders and tables: images that are there already, with references and prompts."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from idtool.errors import UsageError
from idtool.evaluate.samples import MADE, identity_of
from idtool.media.formats import IMAGE_EXTENSIONS
from idtool.media.manifest import MANIFEST_EXTENSIONS, is_missing, listed, located, records, whole
from idtool.media.paths import to_uri
from idtool.media.place import Place


def pictures(folder: Path) -> list[Path]:
    """Image files below a folder, hidden ones left out, sorted. UsageError when there are none."""
    if not folder.exists():
        raise UsageError(f"{folder} does not exist.", "Check the path.")
    if folder.is_file():
        return [folder]
    found = sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in IMAGE_EXTENSIONS
        and path.is_file()
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    )
    if not found:
        shown = ", ".join(sorted(IMAGE_EXTENSIONS))
        raise UsageError(f"{folder} holds no images.", f"Files that end in {shown} count.")
    return found


def people_of(folder: Path) -> dict[str, list[str]]:
    """Identity -> its pictures: sub-folders are people; pictures beside them are a person each, by their name."""
    found: dict[str, list[str]] = {}
    for path in pictures(folder):
        inside = path.relative_to(folder).parts if path != folder else (path.name,)
        label = inside[0] if len(inside) > 1 else path.stem
        found.setdefault(label, []).append(to_uri(str(path.absolute())))
    return found


def rows_of_folder(images: Path, refs: Path | None, prompts: Mapping[str, str]) -> Iterator[dict[str, Any]]:
    """Samples of a folder of images. An image belongs to the person whose folder it is in; else to the one whose name
    its own begins with, the longest such name; else, when there is one person, to that one. `prompts`: by the image's
    path below the folder, its name, or its stem. UsageError for an image that belongs to nobody."""
    people = people_of(refs) if refs is not None else {}
    for path in pictures(images):
        place = path.relative_to(images).as_posix() if path != images else path.name
        label = _owner(place, people)
        if people and label is None:
            raise UsageError(
                f"No reference belongs to {place}: no folder and no name in {refs} fits it.",
                "Put images into a folder per person, name them <person>_…, or give --images a table.",
            )
        references = people[label] if label else []
        prompt = next((prompts[key] for key in (place, path.name, path.stem) if key in prompts), "")
        yield _row(str(path.absolute()), place, references[:1], [label] if label else [], prompt, {})


def rows_of_table(source: str) -> Iterator[dict[str, Any]]:
    """Samples of a table (CSV, JSON lines, Parquet). Columns: image, reference(s) (several with `;` between), and
    optionally identity, prompt, seed; every other column is a slice. Paths are relative to the file. UsageError names
    the row that cannot be read."""
    place = Place.of(source)
    for number, values in enumerate(records(place), start=1):
        known = {str(key).strip().lower(): value for key, value in values.items() if not is_missing(value)}
        if "image" not in known:
            raise UsageError(f"{place.shown}, row {number}: no value in column `image`.", "Give each row its image.")
        try:
            yield _of_cells(known, place)
        except ValueError as error:
            raise UsageError(f"{place.shown}, row {number}: {error}.", "Correct the row.") from error


def _of_cells(known: Mapping[str, Any], place: Place) -> dict[str, Any]:
    """The sample of a row. ValueError for a cell that cannot be read."""
    taken = ("image", "reference", "references", "identity", "identities", "prompt", "seed", "targets")
    references = listed(known.get("references", known.get("reference")))
    people = [str(name) for name in listed(known.get("identities", known.get("identity")))]
    if "targets" in known and not isinstance(json.loads(str(known["targets"])), dict):
        raise ValueError(f"targets is no JSON object: {known['targets']!r}")
    return _row(
        located(str(known["image"]), place),
        str(known["image"]),
        [located(one, place) for one in references],
        people if len(people) == len(references) else [],
        str(known.get("prompt", "")),
        {key: str(value) for key, value in known.items() if key not in taken},
        seed=whole(known.get("seed", 0), "seed"),
        targets=str(known["targets"]) if "targets" in known else None,
    )


def read_prompts(source: str) -> dict[str, str]:
    """Image -> prompt, of a table with columns image and prompt, or of a text file with `image<TAB>prompt` lines."""
    place = Place.of(source)
    if place.name.lower().endswith(MANIFEST_EXTENSIONS):
        found = {}
        for values in records(place):
            known = {str(key).strip().lower(): value for key, value in values.items()}
            if "image" not in known or "prompt" not in known:
                raise UsageError(f"{place.shown} has no columns image and prompt.", "Name them so.")
            found[str(known["image"])] = str(known["prompt"])
        return found
    lines = Path(source).read_text("utf-8").splitlines()
    return dict(line.split("\t", 1) for line in lines if "\t" in line)


def _row(
    media: str,
    name: str,
    references: Sequence[str],
    people: Sequence[str],
    prompt: str,
    slices: Mapping[str, str],
    *,
    seed: int = 0,
    targets: str | None = None,
) -> dict[str, Any]:
    labels: list[str | None] = list(people) or [None] * len(references)
    return {
        # By name: the same image file of two methods is the same request.
        "id": hashlib.sha256("\0".join([name, prompt, *references]).encode("utf-8", "surrogatepass")).hexdigest()[:32],
        "media": media,
        "references": list(references),
        "people": labels,
        "identity": identity_of(labels, references),
        "prompt": prompt,
        "seed": seed,
        "slices": json.dumps(dict(slices), sort_keys=True, ensure_ascii=False),
        "targets": targets,
        "outcome": MADE,
        "why": None,
        "seconds": None,
        "peak_memory": None,
        "nsfw": None,
    }


def _owner(place: str, people: Mapping[str, Any]) -> str | None:
    first, *rest = place.split("/")
    if rest and first in people:
        return first
    stem = (rest[-1] if rest else first).rsplit(".", 1)[0]
    named = [label for label in people if stem == label or stem.startswith((f"{label}_", f"{label}-", f"{label} "))]
    if named:
        return max(named, key=len)
    return next(iter(people)) if len(people) == 1 else None
