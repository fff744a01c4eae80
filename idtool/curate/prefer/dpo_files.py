"""The columns of preference data sets, and their Parquet files.

`diffusers-dpo`: jpg_0 and jpg_1 (encoded bytes), label_0 (1: the first is preferred), caption, as the scripts in
diffusers' research_projects/diffusion_dpo read them; they open the bytes themselves, so these columns are no `Image`.
Which side the preferred image is on is drawn from the pair's id. `trl`: prompt, chosen, rejected, images (the
references), the names of TRL's preference data sets; chosen and rejected are pictures here, which TRL's own trainers,
made for text, do not take.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, get_args

import pyarrow as pa
import pyarrow.parquet as pq

from idtool.curate.dataset import IMAGE, encode_for_export
from idtool.curate.prefer import table

Format = Literal["diffusers-dpo", "trl"]
FORMATS: tuple[Format, ...] = get_args(Format)
FILE_BYTES = 500_000_000
GROUP_ROWS, GROUP_BYTES = 100, 64 << 20

LAYOUT: Mapping[Format, list[pa.Field]] = {
    "diffusers-dpo": [
        pa.field("jpg_0", pa.binary()),
        pa.field("jpg_1", pa.binary()),
        pa.field("label_0", pa.int64()),
        pa.field("caption", pa.string()),
        pa.field("references", pa.list_(IMAGE)),
    ],
    "trl": [
        pa.field("prompt", pa.string()),
        pa.field("chosen", IMAGE),
        pa.field("rejected", IMAGE),
        pa.field("images", pa.list_(IMAGE)),
    ],
}
_MORE = ("id", "identity", "people", "chosen_seed", "rejected_seed", "source", "margin", "metrics", "decision")
"""Columns of the pairs that go along."""


def schema_of(layout: Format) -> pa.Schema:
    """The columns of a data set, with the metadata by which `datasets` decodes pictures."""
    fields = [*LAYOUT[layout], *(table.SCHEMA.field(name).with_nullable(True) for name in _MORE)]
    picture = {"_type": "Image"}
    features: dict[str, Any] = {}
    for one in LAYOUT[layout]:
        if one.type == IMAGE:
            features[one.name] = picture
        elif one.type == pa.list_(IMAGE):
            features[one.name] = {"feature": picture, "_type": "List"}
    return pa.schema(fields, metadata={"huggingface": json.dumps({"info": {"features": features}}, sort_keys=True)})


def chosen_first(pair: str) -> bool:
    """Whether the preferred image of this pair is jpg_0."""
    return hashlib.sha256(f"jpg_0\0{pair}".encode()).digest()[0] % 2 == 0


def row_of(row: Mapping[str, Any], layout: Format) -> dict[str, Any]:
    """A pair as the data set has it. Raises Rejected or OSError where a picture cannot be read."""
    chosen, rejected = image(row["chosen"], f"{row['id']}-chosen"), image(row["rejected"], f"{row['id']}-rejected")
    references = [image(uri, f"{row['id']}-reference-{k}") for k, uri in enumerate(row["references"], 1)]
    more = {**{name: row[name] for name in _MORE}, "identity": public_identity(row)}
    if layout == "trl":
        return {"prompt": row["prompt"], "chosen": chosen, "rejected": rejected, "images": references, **more}
    first = chosen_first(row["id"])
    one, other = (chosen, rejected) if first else (rejected, chosen)
    plain = {"jpg_0": one["bytes"], "jpg_1": other["bytes"], "label_0": int(first), "caption": row["prompt"]}
    return {**plain, "references": references, **more}


def public_identity(row: Mapping[str, Any]) -> str:
    """The people of a pair as one label, without paths into this machine: somebody who has no label is told from others
    by a hash."""
    people = row["people"] or [None] * len(row["references"])
    told = [
        label or f"person-{hashlib.sha256(uri.encode('utf-8', 'surrogatepass')).hexdigest()[:12]}"
        for label, uri in zip(people, row["references"], strict=True)
    ]
    return " + ".join(sorted(told)) or str(row["identity"])


def image(uri: str, name: str) -> dict[str, Any]:
    """A picture as it is shipped: without its metadata. Raises Rejected or OSError."""
    from idtool.media import store

    data, ending = encode_for_export(store.open_bytes(uri))
    return {"bytes": data, "path": f"{name}.{ending}"}


class Files:
    """The Parquet files of one split, each about `FILE_BYTES` long at most."""

    def __init__(self, folder: Path, split: str, schema: pa.Schema) -> None:
        self.folder, self.split, self.schema = folder, split, schema
        self.files: list[Path] = []
        self._writer: pq.ParquetWriter | None = None
        self._rows: list[dict[str, Any]] = []
        self._bytes = self._written = 0

    def add(self, row: dict[str, Any]) -> None:
        size = sum(len(data) for data in pictures_in(row))
        if self._rows and (len(self._rows) >= GROUP_ROWS or self._bytes + size > GROUP_BYTES):
            self._flush()
        self._rows.append(row)
        self._bytes += size

    def _flush(self) -> None:
        if self._writer is None or (self._written and self._written + self._bytes > FILE_BYTES):
            if self._writer is not None:
                self._writer.close()
            self.files.append(self.folder / f"{self.split}-{len(self.files):05d}.parquet")
            # Dictionaries pay for repeated words and only cost memory for pictures.
            words = [one.name for one in self.schema if pa.types.is_string(one.type)]
            self._writer = pq.ParquetWriter(self.files[-1], self.schema, compression="zstd", use_dictionary=words)
            self._written = 0
        self._writer.write_table(pa.Table.from_pylist(self._rows, self.schema), row_group_size=GROUP_ROWS)
        self._written += self._bytes
        self._rows, self._bytes = [], 0

    def close(self) -> None:
        """Write the rest, and name the files by how many there are."""
        if self._rows:
            self._flush()
        if self._writer is not None:
            self._writer.close()
        for number, path in enumerate(self.files):
            path.rename(path.with_name(f"{self.split}-{number:05d}-of-{len(self.files):05d}.parquet"))


def pictures_in(row: Mapping[str, Any]) -> Iterator[bytes]:
    """The bytes of every picture in a row."""
    for value in row.values():
        for one in value if isinstance(value, list) else [value]:
            if isinstance(one, bytes):
                yield one
            elif isinstance(one, dict) and isinstance(one.get("bytes"), bytes):
                yield one["bytes"]
