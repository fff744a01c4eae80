"""Reading a data set back: all rows there, each in its split, no identity in two splits, no picture astray."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from idtool.curate.formats.base import Found
from idtool.curate.layout import Layout
from idtool.errors import RunFailed


def checked(
    found: Iterable[Found], folder: Path | str, layout: Layout, place: Mapping[str, tuple[str, int]], *, whole: bool
) -> Iterator[Found]:
    """Passes on what is found. `place`: row id -> split and number of its file. `whole`: rows have their pictures.
    Raises RunFailed on the first thing that is not as it was written, at the end for rows that are missing."""
    split_of: dict[str, str] = {}
    seen: set[str] = set()
    for one in found:
        if one.row is None:
            raise RunFailed(f"{one.where} is a picture that no row of {folder} names.")
        row = one.row["id"]
        if row in seen or place.get(row, ("",))[0] != one.split:
            raise RunFailed(f"{one.where} holds row {row!r}, which was not written to {one.split}.")
        seen.add(row)
        identity = one.row["identity"]
        if identity is not None and split_of.setdefault(identity, one.split) != one.split:
            raise RunFailed(f"identity {identity!r} is in two splits of {folder}.")
        if whole and (lost := [name for name in layout.images if not one.pictures.get(name)]):
            raise RunFailed(f"row {row!r} in {one.where} has no {lost[0]}.")
        yield one
    if len(seen) != len(place):
        raise RunFailed(f"{folder} holds {len(seen)} rows, not {len(place)}.", "The disk may be full; run it again.")
