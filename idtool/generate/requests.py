"""The table of requests: from the command line or a file, checked, with ids that follow from the content."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from idtool.engine.fingerprint import fingerprint
from idtool.engine.operator import Rejected
from idtool.errors import UsageError
from idtool.media.manifest import MANIFEST_EXTENSIONS, is_missing, listed, located, records, whole
from idtool.media.paths import printable
from idtool.media.place import Place
from idtool.media.store import open_media
from idtool.registry import did_you_mean

SCHEMA = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False, metadata={"doc": "hash of all that the request asks for"}),
        pa.field("prompt", pa.string(), metadata={"doc": "what the image is to show"}),
        pa.field("negative_prompt", pa.string(), metadata={"doc": "what it is not to show; null: the method's own"}),
        pa.field("references", pa.list_(pa.string()), metadata={"doc": "pictures of the people, one each"}),
        pa.field("people", pa.list_(pa.string()), metadata={"doc": "who they are, in the same order; null: not said"}),
        pa.field("boxes", pa.list_(pa.list_(pa.float32())), metadata={"doc": "left, top, right, bottom", "unit": "1"}),
        pa.field("seed", pa.int64(), metadata={"doc": "of everything that is drawn for the image"}),
        pa.field("width", pa.int32(), metadata={"doc": "null: the method's own", "unit": "px"}),
        pa.field("height", pa.int32(), metadata={"doc": "null: the method's own", "unit": "px"}),
        pa.field("settings", pa.string(), metadata={"doc": "changes to the method's settings, a JSON object"}),
        pa.field("other", pa.string(), metadata={"doc": "a reference of somebody else in the table; null: none"}),
        pa.field("extra", pa.string(), metadata={"doc": "further columns of the file, a JSON object"}),
    ]
)
"""One row per image."""

_KNOWN = {
    "prompt": "prompt",
    "negative_prompt": "negative_prompt",
    "reference": "references",
    "references": "references",
    "ref": "references",
    "identity": "people",
    "identities": "people",
    "people": "people",
    "box": "boxes",
    "boxes": "boxes",
    "seed": "seed",
    "n": "n",
    "width": "width",
    "height": "height",
    "settings": "settings",
}
MOST_IMAGES = 1_000_000


@dataclass(frozen=True)
class Wish:
    """A request as it was given: one row of a file, or the options of the command line; `n` images."""

    prompt: str
    references: tuple[str, ...] = ()
    """Table text of the pictures."""
    people: tuple[str | None, ...] = ()
    boxes: tuple[tuple[float, ...], ...] = ()
    negative_prompt: str | None = None
    seed: int = 0
    n: int = 1
    width: int | None = None
    height: int | None = None
    settings: Mapping[str, Any] | None = None
    extra: str | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.n <= MOST_IMAGES:
            raise ValueError(f"n must be from 1 to {MOST_IMAGES}, got {self.n}")
        if self.seed < 0:
            raise ValueError(f"seed must be 0 or more, got {self.seed}")
        for box in self.boxes:
            if len(box) != 4 or not (0 <= box[0] < box[2] <= 1 and 0 <= box[1] < box[3] <= 1):
                raise ValueError(f"a box is left, top, right, bottom as shares of the frame, got {list(box)}")
        if self.boxes and len(self.boxes) != len(self.references):
            raise ValueError(f"{len(self.boxes)} boxes for {len(self.references)} references")
        if self.people and len(self.people) != len(self.references):
            raise ValueError(f"{len(self.people)} identities for {len(self.references)} references")


def read_wishes(source: str, *, seed: int = 0, n: int = 1) -> list[Wish]:
    """The rows of a CSV, TSV, JSON-lines or Parquet file. Columns: prompt, reference(s) (a list, or paths separated by
    `;`, relative to the file), and optionally identity, box(es), negative_prompt, seed, n, width, height, settings (a
    JSON object); others are kept in `extra`. UsageError names the row that cannot be read."""
    place = Place.of(source)
    if place.is_folder or not place.name.lower().endswith(MANIFEST_EXTENSIONS):
        raise UsageError(
            f"{place.shown} is no table of requests.", f"Give a file that ends in {', '.join(MANIFEST_EXTENSIONS)}."
        )

    def check(names: Iterable[str]) -> None:
        plain = [str(name).strip().lower() for name in names]
        if "prompt" not in plain:
            raise UsageError(f"{place.shown} has no column `prompt`.", did_you_mean("prompt", plain, "Its columns"))

    wishes = []
    for number, values in enumerate(records(place, check), start=1):
        if number == 1:
            check(values)
        try:
            wishes.append(_wish(values, place, seed, n))
        except (ValueError, TypeError) as error:
            raise UsageError(f"{place.shown}, row {number}: {error}.", "Correct the row.") from error
    if not wishes:
        raise UsageError(f"{place.shown} has no rows.", "Give it one row for each prompt and reference.")
    return wishes


def rows(wishes: Sequence[Wish]) -> Iterator[dict[str, Any]]:
    """Rows of `SCHEMA`, one per image. Two wishes for the very same image are one row."""
    hashes: dict[str, str] = {}
    seen: set[str] = set()
    others = _others(wishes)
    for wish in wishes:
        references = [hashes.setdefault(uri, content_hash(uri)) for uri in wish.references]
        settings = json.dumps(wish.settings, sort_keys=True) if wish.settings else None
        for k in range(wish.n):
            row: dict[str, Any] = {
                "prompt": wish.prompt,
                "negative_prompt": wish.negative_prompt,
                "references": list(wish.references),
                "people": list(wish.people) or None,
                "boxes": [list(box) for box in wish.boxes] or None,
                "seed": wish.seed + k,
                "width": wish.width,
                "height": wish.height,
                "settings": settings,
                "other": others.get(wish.references),
                "extra": wish.extra,
            }
            told = {key: value for key, value in row.items() if key not in ("references", "other", "extra", "people")}
            row["id"] = fingerprint("request", told, references)
            if row["id"] not in seen:
                seen.add(row["id"])
                yield row


def content_hash(uri: str) -> str:
    """SHA-256 of the bytes that a uri names; of the uri where they cannot be read, which is for the row to say."""
    digest = hashlib.sha256()
    try:
        with open_media(uri) as source:
            while chunk := source.read(1 << 20):
                digest.update(chunk)
    except (Rejected, OSError, ValueError):
        return "uri " + hashlib.sha256(uri.encode()).hexdigest()
    return digest.hexdigest()


def _others(wishes: Sequence[Wish]) -> dict[tuple[str, ...], str]:
    """For each set of references, a picture of somebody else: the next person in the order of labels (or of pictures,
    where no labels are given), round the end."""
    first: dict[str, str] = {}
    for wish in wishes:
        for k, uri in enumerate(wish.references):
            label = wish.people[k] if wish.people else None
            first.setdefault(label or uri, uri)
    order = sorted(first)
    found = {}
    for wish in wishes:
        own = {(wish.people[k] if wish.people else None) or uri for k, uri in enumerate(wish.references)}
        if wish.references and len(order) > len(own):
            start = order.index(min(own))
            rest = (order[(start + step) % len(order)] for step in range(1, len(order)))
            found[wish.references] = first[next(name for name in rest if name not in own)]
    return found


def _wish(values: Mapping[str, Any], place: Place, seed: int, n: int) -> Wish:
    known: dict[str, Any] = {}
    extra: dict[str, Any] = {}
    for key, value in values.items():
        name = _KNOWN.get(str(key).strip().lower())
        if is_missing(value):
            continue
        if name is None:
            extra[str(key)] = value
        elif name in known:
            raise ValueError(f"two columns give {name}")
        else:
            known[name] = value
    if not isinstance(known.get("prompt", ""), str):
        raise ValueError(f"prompt is no text: {known['prompt']!r}")
    settings = known.get("settings")
    if isinstance(settings, str):
        settings = json.loads(settings)
    if settings is not None and not isinstance(settings, dict):
        raise ValueError(f"settings is no JSON object: {settings!r}")
    return Wish(
        prompt=known.get("prompt", ""),
        references=tuple(located(text, place) for text in listed(known.get("references"))),
        people=tuple(str(name) for name in listed(known.get("people"))),
        boxes=tuple(_boxes(known.get("boxes"))),
        negative_prompt=known.get("negative_prompt"),
        seed=whole(known.get("seed", seed), "seed"),
        n=whole(known.get("n", n), "n"),
        width=None if "width" not in known else whole(known["width"], "width"),
        height=None if "height" not in known else whole(known["height"], "height"),
        settings=settings,
        extra=printable(json.dumps(extra, sort_keys=True, ensure_ascii=False, default=str)) if extra else None,
    )


def _boxes(value: Any) -> Iterator[tuple[float, ...]]:
    """One box or several: lists of numbers, or `0 0 0.5 1; 0.5 0 1 1`."""
    if value is None:
        return
    if isinstance(value, str):
        parts: list[Any] = [part.replace(",", " ").split() for part in value.split(";") if part.strip()]
    else:
        parts = list(value)
        if parts and not isinstance(parts[0], list | tuple):
            parts = [parts]
    for part in parts:
        yield tuple(float(number) for number in part)
