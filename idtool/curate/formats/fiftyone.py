"""FiftyOne: a folder per split in the layout of `FiftyOneImageDetectionDataset`, which its documentation gives in full:
`data/<image>.jpg` and `labels.json`. (`FiftyOneDataset` is a dump of its database; COCO has no place for consent.)

An image has one detection: the face box where it was measured, else the whole picture; its label is the identity, its
attributes are the image's columns. FiftyOne reads `labels.json` whole.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, ClassVar

import pyarrow as pa

from idtool.curate.formats.base import Item, Picture, as_json, file_name
from idtool.curate.formats.files import FileFormat
from idtool.curate.formats.folder import NOT_STATED, TERMS
from idtool.curate.layout import PAIRS, Layout

LABELS = "labels.json"
TAKEN = frozenset({"id", "tags", "label", "bounding_box", "mask", "mask_path", "confidence", "index", "attributes"})
"""Fields of FiftyOne's own detections."""
WHOLE = [0.0, 0.0, 1.0, 1.0]


class FiftyOneFormat(FileFormat):
    name: ClassVar[str] = "fiftyone"
    summary: ClassVar[str] = "a FiftyOneImageDetectionDataset per split"

    def __init__(self, folder: Path, schema: pa.Schema, layout: Layout, file_bytes: int) -> None:
        super().__init__(folder, schema, layout, file_bytes)
        self._labels: dict[str, IO[str]] = {}

    def place(self, split: str, item: Item, column: str, picture: Picture) -> str:
        return f"{split}/data/{file_name(picture)}"

    def written(self, split: str, item: Item, column: str, path: Path) -> None:
        first = split not in self._labels
        if first:
            self._labels[split] = open(self.folder / split / LABELS, "w", encoding="ascii")  # noqa: SIM115 - many rows
            self._labels[split].write('{"labels": {\n')
        sink = self._labels[split]
        entry = as_json(detection(item.row, self.layout.images[column]))
        sink.write(f"{'' if first else ',' + chr(10)}{json.dumps(path.stem)}: [{entry}]")

    def finish(self, rows: dict[str, list[str]]) -> dict[str, list[str]]:
        for sink in self._labels.values():
            sink.write("\n}}\n")
            sink.close()
        return {split: [f"{split}/{LABELS}"] for split in rows}

    @classmethod
    def usage(cls, layout: Layout, splits: Sequence[str]) -> str:
        pairs = " Pairs are in `rows/<split>.parquet`." if layout is PAIRS else ""
        return (
            f"`rows/<split>.parquet` has the columns below.{pairs}\n\n```python\nimport fiftyone\n\n"
            "images = fiftyone.Dataset.from_dir(\n"
            f'    "path/to/this/folder/{splits[0]}", fiftyone.types.FiftyOneImageDetectionDataset\n)\n```'
        )


def detection(row: Mapping[str, Any], side: str) -> dict[str, Any]:
    """One image's detection as FiftyOne documents it: label, box (left, top, width, height in shares of the picture),
    confidence, attributes. Attributes are the columns of plain values: those of the image, and the row's own of a
    record; `id` is called `image_id`, as FiftyOne has ids of its own."""
    box, width, height = (row.get(f"{side}{name}") for name in ("face_box", "width", "height"))
    found: dict[str, Any] = {"label": row["identity"] or NOT_STATED, "bounding_box": WHOLE}
    if box is not None and width and height:
        left, top, right, bottom = box
        found["bounding_box"] = [left / width, top / height, (right - left) / width, (bottom - top) / height]
        if row.get(f"{side}face_score") is not None:
            found["confidence"] = row[f"{side}face_score"]
    where = "picture" if found["bounding_box"] is WHOLE else "face"
    columns = dict(_plain(row, side))
    terms = {name: columns.pop(name, None) or NOT_STATED for name in TERMS}
    attributes = {"image_id": columns.pop("id"), "box": where, **terms, **columns}
    return {**found, "attributes": {name: value for name, value in attributes.items() if name not in TAKEN}}


def _plain(row: Mapping[str, Any], side: str) -> Iterator[tuple[str, Any]]:
    for name, value in row.items():
        if name.startswith(side) and isinstance(value, str | int | float):
            yield name.removeprefix(side), value
