"""Proof that people are out of a data set: it is read back, whatever its format, and looked through for their labels,
the bytes of their pictures, and faces as near to theirs as those of one person are.

What it rests on: the faces are those that the run measured, one of each picture, by one network. A person in the
background of another's photo is not found by it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from idtool import __version__
from idtool.curate.formats.base import Found
from idtool.curate.formats.near import Faces, nearest
from idtool.curate.layout import Layout
from idtool.errors import QualityError
from idtool.models.caption_checks import mentions

FILE = "removal.json"
SHOWN = 20
"""Findings listed in the proof."""
LABELS = ("identity", "identity_label", "group", "uri")
"""Columns whose value, or a part of whose path, may be a label."""
TEXTS = ("caption", "background", "text", "name", "extra")
"""Endings of columns that may mention somebody."""


@dataclass
class Leaving:
    """Who is left out, and how it is proved that they are."""

    identities: frozenset[str]
    faces: Faces
    alike: bool = False
    """Also leave out rows of others that come too close: otherwise they make the proof fail."""


@dataclass
class Removed:
    """What was left out while the data set was written."""

    identities: frozenset[str]
    rows: int = 0
    images: set[str] = field(default_factory=set)
    digests: set[str] = field(default_factory=set)
    """SHA-256 of the bytes that would have been written of their pictures."""
    unread: int = 0
    """Rows whose pictures could not be read any more: only their ids are looked for."""


@dataclass
class Proof:
    """What was looked for, and what was found."""

    removed: Removed
    faces: dict[str, Any]
    rows: int = 0
    pictures: int = 0
    found: list[dict[str, Any]] = field(default_factory=list)
    """`{what, row, where, …}`; empty: the proof holds."""

    @property
    def holds(self) -> bool:
        return not self.found

    @property
    def alike(self) -> set[str]:
        """Rows that come too close."""
        return {one["row"] for one in self.found if one["row"] is not None}

    def as_json(self, format: str, left_out: int) -> dict[str, Any]:
        """The content of `removal.json`. It stays in the data set, so people are named by the SHA-256 of their label.

        `left_out`: rows of others that were left out because they came too close.
        """
        labels = [hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest() for name in self.removed.identities]
        counts = {what: sum(one["what"] == what for one in self.found) for what in ("label", "media", "face")}
        return {
            "holds": self.holds,
            "when": datetime.now(UTC).isoformat(timespec="seconds"),
            "idtool": __version__,
            "format": format,
            "removed": {
                "identities": len(labels),
                "sha256_of_identities": sorted(labels),
                "rows": self.removed.rows,
                "pictures": len(self.removed.images),
                "rows_left_out_as_alike": left_out,
            },
            "checked": {
                "rows": self.rows,
                "pictures": self.pictures,
                "label": {"columns": [*LABELS, *(f"*{name}" for name in TEXTS)], "found": counts["label"]},
                "media": {
                    "ids": len(self.removed.images),
                    "sha256_of_pictures": len(self.removed.digests),
                    "rows_whose_pictures_were_gone": self.removed.unread,
                    "found": counts["media"],
                },
                "faces": {**self.faces, "found": counts["face"]},
            },
            "found": [{name: value for name, value in one.items() if name != "identity"} for one in self.found[:SHOWN]],
        }


def prove(found: Iterable[Found], removed: Removed, faces: Faces, layout: Layout) -> Proof:
    """Look through all rows and pictures of a data set. Memory: the ids of its rows and images, the removed people's
    embeddings."""
    proof = Proof(removed, {})
    rows_of: dict[str, set[str]] = {}
    for one in found:
        proof.pictures += len(one.pictures)
        digests = {hashlib.sha256(data).hexdigest() for data in one.pictures.values()}
        row = one.row or {}
        proof.rows += one.row is not None
        ids = {row[name] for name in layout.ids if name in row}
        where = {"row": row.get("id"), "where": one.where}
        parents = {row.get(f"{side}parent") for side in layout.sides}
        if digests & removed.digests or (ids | parents) & removed.images:
            proof.found.append({"what": "media", **where})
        if column := named_in(row, layout, removed.identities):
            proof.found.append({"what": "label", **where, "column": column})
        for image in ids:
            rows_of.setdefault(image, set()).add(row["id"])
    proof.faces, near = nearest(faces, removed.identities, rows_of)
    for image, similarity in sorted(near.items(), key=lambda entry: (-entry[1], entry[0])):
        for row_id in sorted(rows_of[image]):
            proof.found.append({"what": "face", "row": row_id, "where": image, "similarity": round(similarity, 4)})
    return proof


def still_there(proof: Proof, target: str, failure: Path) -> QualityError:
    """What to raise of a proof that does not hold; the whole of it is in the file `failure`."""
    counts = {
        what: len({one["row"] for one in proof.found if one["what"] == what}) for what in ("label", "media", "face")
    }
    words = {
        "label": "have the label of",
        "media": "have a picture of",
        "face": f"have a face of cosine {proof.faces.get('same_person')} or more to",
    }
    told = ", ".join(f"{count} {words[what]}" for what, count in counts.items() if count)
    error = QualityError(
        f"{target} was not written: of its rows, {told} a removed person.",
        f"See {failure}. --remove-alike leaves these rows out, too.",
    )
    error.details = {"proof": str(failure), "found": counts}
    return error


def in_colour(data: bytes) -> bool:
    """Whether an encoded picture has colours."""
    from idtool.media import images

    return images.probe(data).mode not in ("1", "L", "I;16", "P")


def named_in(row: Mapping[str, Any], layout: Layout, labels: frozenset[str]) -> str | None:
    """A column of the row that has one of the labels, or mentions one; None where none does."""
    for column, value in row.items():
        if not isinstance(value, str):
            continue
        name = next((column.removeprefix(side) for side in layout.sides if side and column.startswith(side)), column)
        if name in LABELS and any(f"/{label}/" in f"/{path}/" for label in labels for path in (value, unquote(value))):
            return column
        if name.endswith(TEXTS) and mentions(value, labels):
            return column
    return None
