"""Content hashes of settings, rows and code versions: what decides whether a stored result is still true."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from typing import Any

import pyarrow as pa


def fingerprint(*parts: Any) -> str:
    """24 hex digits of the SHA-256 over the canonical JSON of `parts`."""
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"), ensure_ascii=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:24]


def row_keys(rows: pa.Table, carried: Iterable[str]) -> list[str]:
    """What tells an input row from any other: its id, and a hash of the columns that it carries from the sources.

    The id alone names the content; a label or a licence that was corrected in a manifest makes the row another one,
    whose results must not be taken over from before.
    """
    names = [name for name in carried if name in rows.column_names]
    ids: list[str] = rows["id"].to_pylist()
    if not names:
        return ids
    told = zip(ids, *(rows[name].to_pylist() for name in names), strict=True)
    return [f"{row[0]}:{fingerprint(*row[1:])}" for row in told]


class IdDigest:
    """Order-free digest of a set of row keys, fed in batches: equal sets have equal digests."""

    def __init__(self) -> None:
        self._sum = 0
        self._count = 0

    def update(self, ids: pa.ChunkedArray | pa.Array | Iterable[str]) -> None:
        values = ids.to_pylist() if hasattr(ids, "to_pylist") else ids
        for value in values:
            digest = hashlib.blake2b(value.encode("utf-8", "surrogatepass"), digest_size=16).digest()
            self._sum = (self._sum + int.from_bytes(digest, "big")) % (1 << 128)
            self._count += 1

    def hexdigest(self) -> str:
        return f"{self._sum:032x}{self._count:x}"
