"""Folders that trainers read: pictures as files, and beside them what each trainer asks for.

`folder`            `<split>/images/…` and `<split>/metadata.jsonl`, the ImageFolder of `datasets`: a row a line
`folder-diffusers`  the same with an image a line: `file_name`, `text`, as the scripts of diffusers read it
`folder-pairs`      the same with a pair a line: `file_name` (the target), `reference_file_name`, `text`
`folder-kohya`      `<split>/1_<person>/<image>.jpg` and `.txt`, as kohya's sd-scripts read it
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from idtool.curate.formats.base import Item, Picture, as_json, file_name, key_of, target_side, text_of
from idtool.curate.formats.files import FILE, FileFormat
from idtool.curate.layout import PAIRS, Layout
from idtool.errors import UsageError

METADATA = "metadata.jsonl"
NAME = "file_name"
"""What `datasets` takes for the path of an image, alone or as the ending of a column's name."""
LOOKED_AT = 1000
"""Rows from which `datasets` takes the types of columns; it reads at least so many at once."""
NOT_STATED = "not stated"
TERMS = ("source", "licence", "consent")
REPEATS = 1
"""How often an epoch of kohya's scripts shows a person's images: no person counts for more than another's image."""

Line = dict[str, Any]


class FolderFormat(FileFormat):
    """Columns that have no value in a split, or none among its first rows, are not in `metadata.jsonl`: `datasets`
    takes types from there and refuses splits that differ. They are in `rows/`."""

    name: ClassVar[str] = "folder"
    summary: ClassVar[str] = "pictures and metadata.jsonl, the ImageFolder of `datasets`"
    texts: ClassVar[bool] = True
    made: ClassVar[bool] = True

    def place(self, split: str, item: Item, column: str, picture: Picture) -> str:
        return f"{split}/images/{file_name(picture)}"

    def finish(self, rows: dict[str, list[str]]) -> dict[str, list[str]]:
        known = [_known(itertools.islice(self.lines(split), LOOKED_AT)) for split in rows]
        common = set.intersection(*known) if known else set()
        for split in rows:
            with open(self.folder / split / METADATA, "w", encoding="ascii") as sink:
                for line in self.lines(split):
                    sink.write(as_json({name: value for name, value in line.items() if name in common}) + "\n")
        return {split: [f"{split}/{METADATA}"] for split in rows}

    def lines(self, split: str) -> Iterator[Line]:
        """What `metadata.jsonl` of a split says, in order."""
        for row in self.rows(split):
            files = {_named(name): _inside(row.pop(name)) for name in list(row) if name.endswith(FILE)}
            yield {**files, **row, "text": text_of(row, target_side(self.layout))}

    @classmethod
    def usage(cls, layout: Layout, splits: Sequence[str]) -> str:
        image = "a_image" if layout is PAIRS else "image"
        return (
            "`rows/<split>.parquet` has the columns below; `metadata.jsonl` those that are known in every split.\n\n"
            "```python\nfrom datasets import load_dataset\n\n"
            f'{layout.nouns} = load_dataset("imagefolder", data_dir="path/to/this/folder/{splits[0]}")\n'
            f'{layout.nouns}["train"][0]["{image}"]  # a PIL image\n```'
        )

    @classmethod
    def data_files(cls, split: str) -> str | None:
        return f"{split}/**"


class DiffusersFormat(FolderFormat):
    name: ClassVar[str] = "folder-diffusers"
    summary: ClassVar[str] = "images with captions, for the text-to-image scripts of diffusers"
    made: ClassVar[bool] = False

    def lines(self, split: str) -> Iterator[Line]:
        seen: set[str] = set()
        for row in self.rows(split):
            for column, side in self.layout.images.items():
                if (place := row[f"{column}{FILE}"]) not in seen:
                    seen.add(place)
                    yield {NAME: _inside(place), "text": text_of(row, side), **_terms(row, side)}

    @classmethod
    def usage(cls, layout: Layout, splits: Sequence[str]) -> str:
        return (
            "An image a line; `rows/<split>.parquet` has the columns below.\n\n```bash\n"
            f"accelerate launch train_text_to_image_lora.py --train_data_dir path/to/this/folder/{splits[0]} \\\n"
            "  --image_column image --caption_column text …\n```"
        )


class PairsFormat(FolderFormat):
    name: ClassVar[str] = "folder-pairs"
    summary: ClassVar[str] = "pairs of target and reference with captions, for OminiControl and its like"
    made: ClassVar[bool] = False

    @classmethod
    def check(cls, layout: Layout) -> None:
        super().check(layout)
        if layout is not PAIRS:
            raise UsageError(
                f"Format {cls.name!r} is of pairs, and this run's rows are {layout.nouns}.",
                "Choose --format folder or folder-diffusers.",
            )

    def lines(self, split: str) -> Iterator[Line]:
        for row in self.rows(split):
            files = {NAME: _inside(row[f"b_image{FILE}"]), f"reference_{NAME}": _inside(row[f"a_image{FILE}"])}
            terms = {f"reference_{name}": value for name, value in _terms(row, "a_").items() if name in TERMS}
            yield {**files, "text": text_of(row, "b_"), **_terms(row, "b_"), **terms}

    @classmethod
    def usage(cls, layout: Layout, splits: Sequence[str]) -> str:
        return (
            "A pair a line; `rows/<split>.parquet` has the columns below.\n\n"
            "```python\nfrom datasets import load_dataset\n\n"
            f'pairs = load_dataset("imagefolder", data_dir="path/to/this/folder/{splits[0]}")\n'
            'pairs["train"][0]["image"], pairs["train"][0]["reference"], pairs["train"][0]["text"]\n```'
        )


class KohyaFormat(FileFormat):
    name: ClassVar[str] = "folder-kohya"
    summary: ClassVar[str] = "a folder per person with images and caption files, for kohya's sd-scripts"
    texts: ClassVar[bool] = True

    def place(self, split: str, item: Item, column: str, picture: Picture) -> str:
        identity = item.row["identity"]
        # No label has a zero byte: nobody known shares a folder with nobody.
        person = key_of(identity if identity is not None else "unknown\0")
        return f"{split}/{REPEATS}_{person}/{file_name(picture)}"

    def written(self, split: str, item: Item, column: str, path: Path) -> None:
        text = text_of(item.row, self.layout.images[column])
        beside = path.with_suffix(".txt")
        beside.write_text(text + "\n", encoding="utf-8", errors="backslashreplace")
        self.spool.closed(beside)

    @classmethod
    def usage(cls, layout: Layout, splits: Sequence[str]) -> str:
        return (
            "`<split>/<repeats>_<person>/` has a person's images, each with its caption in a `.txt` file;\n"
            "`rows/<split>.parquet` has the columns below.\n\n```bash\n"
            f"accelerate launch train_network.py --train_data_dir path/to/this/folder/{splits[0]} \\\n"
            "  --caption_extension .txt …\n```"
        )


def _named(column: str) -> str:
    """`image_file` -> `file_name`, `a_image_file` -> `a_image_file_name`."""
    stem = column.removesuffix(FILE)
    return NAME if stem == "image" else f"{stem}_{NAME}"


def _inside(place: str | None) -> str | None:
    """A path in the data set as a path in its split's folder."""
    return None if place is None else place.partition("/")[2]


def _terms(row: Mapping[str, Any], side: str) -> Line:
    """Who an image is of, and on what terms it came: words in place of nulls, as in the data card."""
    terms = {name: row.get(f"{side}{name}") or NOT_STATED for name in TERMS}
    return {"id": row[f"{side}id"], "identity": row["identity"] or NOT_STATED, **terms}


def _known(lines: Iterator[Line]) -> set[str]:
    """Columns that have a value in some line. (An empty list has no type.)"""
    return {name for line in lines for name, value in line.items() if value is not None and value != []}
