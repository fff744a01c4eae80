"""A data set as plain files: `json/<split>/<id>.json` for each row, and the pictures that it names.

Keys are the columns of the Parquet files. A picture is an object with the key `file`, whose value is a path relative to
the folder of the data set. Writer and reader are both here, so that neither can know a key that the other does not.
(The released FGID scripts write `vqa_llva_more_face_detail` and read `vqa_llva_face_caption`.)
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from idtool.errors import RunFailed

JSON, PICTURES = "json", "pictures"
FILE = "file"
"""Key of a picture's path."""


def write(folder: Path, split: str, row: Mapping[str, Any], images: Mapping[str, Mapping[str, Any] | None]) -> Path:
    """Write one row's JSON file and its pictures (column -> `{"bytes", "path"}` or None) below `folder`."""
    content: dict[str, Any] = {name: _plain(value) for name, value in row.items() if not isinstance(value, bytes)}
    for name, image in images.items():
        if image is None:
            content[name] = None
            continue
        place = Path(PICTURES, name, image["path"])
        (folder / place).parent.mkdir(parents=True, exist_ok=True)
        (folder / place).write_bytes(image["bytes"])
        content[name] = {FILE: place.as_posix()}
    path = folder / JSON / split / f"{row['id']}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, ensure_ascii=False, allow_nan=False, indent=1) + "\n", encoding="utf-8")
    return path


def _plain(value: Any) -> Any:
    """JSON knows no number that is not finite: it becomes null."""
    if isinstance(value, list):
        return [_plain(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def read(path: Path) -> dict[str, Any]:
    """One row as it was written: values by column, pictures as the paths of their files."""
    folder = path.parents[2]
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return {
        name: folder / value[FILE] if isinstance(value, dict) and set(value) == {FILE} else value
        for name, value in content.items()
    }


def verify(folder: Path, place: Mapping[str, tuple[str, int]]) -> None:
    """Read the JSON files back: one for each row, in its split, with all its pictures. Raises RunFailed."""
    found = 0
    for path in (folder / JSON).glob("*/*.json"):
        row = read(path)
        if place.get(row["id"], ("",))[0] != path.parent.name:
            raise RunFailed(f"{path.name} is not among the rows of its split in {folder}.")
        if lost := [name for name, value in row.items() if isinstance(value, Path) and not value.is_file()]:
            raise RunFailed(f"{path.name} names a picture that is not there: {lost[0]}.")
        found += 1
    if found != len(place):
        raise RunFailed(f"{folder} holds {found} JSON files, not {len(place)}.", "The disk may be full.")
