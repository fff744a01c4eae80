"""What a row of a data set is: a pair of images of one person, or a record of one image."""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa


@dataclass(frozen=True)
class Layout:
    """How the columns of a table become those of a data set."""

    noun: str
    """What a row is called: pair or record."""
    sides: tuple[str, ...]
    """Prefixes of the columns that belong to one source image each."""
    dropped: tuple[str, ...] = ()
    """Columns that stay behind: they serve the steps only."""

    @property
    def nouns(self) -> str:
        return f"{self.noun}s"

    @property
    def images(self) -> dict[str, str]:
        """Column of the data set -> prefix of its source image's columns."""
        return {f"{side}image": side for side in self.sides}

    @property
    def needed(self) -> tuple[str, ...]:
        """Columns without which there is no data set."""
        return tuple(dict.fromkeys(("id", "identity", *self.ids, *self.media)))

    @property
    def media(self) -> tuple[str, ...]:
        """Columns that say where source images are."""
        return tuple(f"{side}media" for side in self.sides)

    @property
    def ids(self) -> tuple[str, ...]:
        """Columns with the ids of source images."""
        return tuple(f"{side}id" for side in self.sides)


PAIRS = Layout("pair", ("a_", "b_"), dropped=("sheet_media",))
RECORDS = Layout("record", ("",), dropped=("face_thumb",))


def further_pictures(schema: pa.Schema) -> list[str]:
    """Columns of references to pictures that a step made of an image, such as masks."""
    return [field.name for field in schema if (field.metadata or {}).get(b"holds") == b"image"]
