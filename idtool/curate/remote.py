"""Video decoders read files on disk: remote ones are brought there for as long as they are needed."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from idtool.media.limits import check_bytes


@contextmanager
def on_disk(ref: str, store_root: Path, max_bytes: int) -> Iterator[Path]:
    """The local file that a `media` reference names, or a temporary copy of a remote one, removed afterwards.

    Raises Rejected as `open_media` does.
    """
    from idtool.media.store import local_path, open_media

    path = local_path(ref, store_root)
    if path is not None:
        yield path
        return
    store_root.mkdir(parents=True, exist_ok=True)
    # The store sweeps up hidden `.tmp` files that a killed process leaves.
    with (
        open_media(ref, store_root, max_bytes=max_bytes) as source,
        tempfile.NamedTemporaryFile(dir=store_root, prefix=".", suffix=".tmp") as sink,
    ):
        shutil.copyfileobj(source, sink, 1 << 20)
        sink.flush()
        check_bytes(sink.tell(), max_bytes, ref)
        yield Path(sink.name)
