"""The operator that lets a model caption pairs: each distinct image is decoded and described once."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from idtool.curate.template_caption import SIDES, joined
from idtool.curate.vlm_caption import Writer, known_names
from idtool.engine.operator import Context, Operator, Resources, Row, is_fatal, is_out_of_memory, map_rows
from idtool.evaluate.measure_rows import DecodeAhead, Decoded, decode, pixels_of
from idtool.evaluate.measures.base import Image
from idtool.models.caption_checks import Said

REMEMBERED = 20_000
"""Images whose captions a worker keeps: an image is in pairs of several shards."""

Captions = Mapping[str, Said] | Exception
"""Part -> caption of one image, or why it could not be described."""


@dataclass(frozen=True)
class _Picture:
    id: str
    media: str
    pixels: int
    names: frozenset[str]


class PairCaptions(Operator):
    """Both images of each pair, by a model. A caption that is refused is null with its reason and rejects nothing; an
    image that cannot be decoded or asked about is the outcome of its pairs."""

    def __init__(
        self, writer: Writer, writes: pa.Schema, batch: int, max_pixels: int, resources: Resources | None = None
    ) -> None:
        self.writer, self.writes, self.batch, self.max_pixels = writer, writes, batch, max_pixels
        self.resources = resources or Resources()
        self.reads = ("id", *(f"{side}_{name}" for side in SIDES for name in ("id", "media")))

    def config(self) -> dict[str, Any]:
        return self.writer.config()

    def setup(self, context: Context) -> None:
        import cv2

        cv2.setNumThreads(max(1, context.threads))
        self.store_root = Path(context.run_dir) / "media"
        self.writer.load(context)
        self._known: OrderedDict[_Picture, Captions] = OrderedDict()
        self._lock = threading.Lock()

    def __call__(self, batch: pa.Table) -> pa.Table:
        further = [f"{side}_{name}" for side in SIDES for name in ("width", "height", "identity_label")]
        names = [name for name in (*self.reads, "identity", *further) if name in batch.column_names]
        narrow = batch.select(names)
        pairs = [{side: _picture(row, side) for side in SIDES} for row in narrow.to_pylist()]
        captions = self._captions(list(dict.fromkeys(one for pair in pairs for one in pair.values())))
        of_row = dict(zip(batch["id"].to_pylist(), pairs, strict=True))

        def row(pair: Row) -> Row:
            out: Row = {"caption_by": self.writer.binding.model}
            for side, picture in of_row[pair["id"]].items():
                said = captions[picture]
                if isinstance(said, Exception):
                    raise said
                for part, one in said.items():
                    out |= {f"{side}_{part}": one.text, f"{side}_{part}_reason": one.reason}
            return out

        return joined(batch, map_rows(narrow, row, self.writes), self.writes)

    def _captions(self, pictures: Sequence[_Picture]) -> dict[_Picture, Captions]:
        with self._lock:
            found = {picture: self._known[picture] for picture in pictures if picture in self._known}
        new = [picture for picture in pictures if picture not in found]
        ahead = DecodeAhead(lambda k: self._decode(new[k]), [one.pixels for one in new], range(len(new)))
        with ahead:
            for chunk in ahead.chunks(self.batch):
                self._describe(chunk, new, found)
        with self._lock:
            # An image that failed is tried again by its next pair: the cause may have passed.
            self._known |= {picture: found[picture] for picture in new if not isinstance(found[picture], Exception)}
            while len(self._known) > REMEMBERED:
                self._known.popitem(last=False)
        return found

    def _decode(self, picture: _Picture) -> Decoded:
        return decode(picture.media, self.store_root, self.max_pixels)

    def _describe(
        self, chunk: list[tuple[int, Decoded]], pictures: Sequence[_Picture], found: dict[_Picture, Captions]
    ) -> None:
        """Fills `found`; empties the chunk, so that images live no longer than they are looked at."""
        good: list[tuple[_Picture, Image]] = []
        while chunk:
            k, image = chunk.pop(0)
            if isinstance(image, Exception):
                found[pictures[k]] = image
            else:
                good.append((pictures[k], image))
        found.update(self._asked(good))

    def _asked(self, good: Sequence[tuple[_Picture, Image]]) -> dict[_Picture, Captions]:
        """All at once; if that fails, one by one, so that only the faulty image is lost."""
        if not good:
            return {}
        try:
            said = self.writer([image for _, image in good], [picture.names for picture, _ in good])
        except Exception as error:
            if is_fatal(error) or is_out_of_memory(error):
                raise
            if len(good) == 1:
                return {good[0][0]: error}
            return {picture: caption for one in good for picture, caption in self._asked([one]).items()}
        return {picture: captions for (picture, _), captions in zip(good, said, strict=True)}


def _picture(row: Mapping[str, Any], side: str) -> _Picture:
    size = {name: row.get(f"{side}_{name}") for name in ("width", "height")}
    return _Picture(row[f"{side}_id"], row[f"{side}_media"], pixels_of(size), known_names(row, f"{side}_"))
