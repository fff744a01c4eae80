"""The content store and opening what media columns name."""

from __future__ import annotations

import errno
import io
import os
import threading
from pathlib import Path

import pytest

from idtool.engine.operator import Rejected
from idtool.media.store import MediaStore, local_path, open_bytes, open_media


def files(root: Path) -> list[Path]:
    return sorted(path for path in root.rglob("*") if path.is_file())


def test_put_and_read_back(tmp_path: Path) -> None:
    store = MediaStore(tmp_path / "media")
    ref = store.put(b"hello", ".jpg")
    assert ref == "store:2c/f24dba5fb0a30e26e83b2ac5b9e29e.jpg"  # SHA-256 of "hello"
    assert store.put(b"hello", ".jpg") == ref
    assert files(store.root) == [store.path(ref)]
    assert open_bytes(ref, store.root) == b"hello"
    assert local_path(ref, store.root) == store.root / "2c" / "f24dba5fb0a30e26e83b2ac5b9e29e.jpg"


def test_stream_gives_the_same_reference(tmp_path: Path) -> None:
    data = os.urandom(3_000_000)
    store = MediaStore(tmp_path)
    assert store.put_stream(io.BytesIO(data), ".mp4") == MediaStore(tmp_path / "other").put(data, ".mp4")
    with pytest.raises(Rejected) as caught:
        store.put_stream(io.BytesIO(data), ".mp4", max_bytes=1000)
    assert caught.value.reason == "too_large.bytes"
    assert len(files(tmp_path)) == 2


def test_a_cut_file_is_written_again(tmp_path: Path) -> None:
    store = MediaStore(tmp_path)
    ref = store.put(b"x" * 1000, ".png")
    store.path(ref).write_bytes(b"")  # what a power cut can leave
    store.put(b"x" * 1000, ".png")
    assert open_bytes(ref, tmp_path) == b"x" * 1000


def test_many_writers(tmp_path: Path) -> None:
    contents = [bytes([i]) * 50_000 for i in range(20)]
    refs: list[list[str]] = []
    threads = [
        threading.Thread(target=lambda: refs.append([MediaStore(tmp_path).put(data, ".jpg") for data in contents]))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(refs) == 8
    assert all(found == refs[0] for found in refs)
    assert len(files(tmp_path)) == 20
    assert [open_bytes(ref, tmp_path) for ref in refs[0]] == contents


def test_full_disk_is_an_error_with_its_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Path, data: bytes) -> int:
        with open(self, "wb") as file:
            file.write(data[:3])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self))

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space left") as caught:
        MediaStore(tmp_path).put(b"hello", ".jpg")
    assert caught.value.errno == errno.ENOSPC
    assert str(caught.value.filename).startswith(str(tmp_path))
    assert files(tmp_path) == []


def test_sweep_removes_only_leftovers(tmp_path: Path) -> None:
    store = MediaStore(tmp_path)
    ref = store.put(b"hello", ".jpg")
    (tmp_path / "2c" / ".1-2-3-aa.tmp").write_bytes(b"x")
    (tmp_path / ".1-2-3-aa.tmp").write_bytes(b"x")
    assert store.sweep() == 2
    assert files(tmp_path) == [store.path(ref)]


@pytest.mark.parametrize(
    "ref",
    [
        "store:../../etc/passwd",
        "store:ab/../../../etc/passwd",
        "store:/etc/passwd",
        "store:ab/cdef.jpg",
        "store:2c/f24dba5fb0a30e26e83b2ac5b9e29e.jpg/../x",
        "store:2c/f24dba5fb0a30e26e83b2ac5b9e29e.jpg\n",
        "store:",
    ],
)
def test_no_reference_leaves_the_store(tmp_path: Path, ref: str) -> None:
    with pytest.raises(ValueError, match="not a reference"):
        open_bytes(ref, tmp_path)


def test_references_need_a_root_and_a_plain_suffix(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="root"):
        open_bytes("store:2c/f24dba5fb0a30e26e83b2ac5b9e29e.jpg")
    for suffix in ("jpg", "../x", ".JPG", ""):
        with pytest.raises(ValueError, match="suffix"):
            MediaStore(tmp_path).put(b"x", suffix)


def reason(ref: str, max_bytes: int | None = None) -> str:
    with pytest.raises(Rejected) as caught:
        open_bytes(ref, max_bytes=max_bytes)
    return caught.value.reason


def test_local_files(tmp_path: Path) -> None:
    path = tmp_path / "a b\nü.jpg"
    path.write_bytes(b"12345")
    assert open_bytes(str(path)) == b"12345"
    assert open_bytes(f"file://{path}") == b"12345"
    assert reason(str(path), max_bytes=4) == "too_large.bytes"
    assert reason(str(tmp_path / "none.jpg")) == "missing_file"
    assert reason(str(path / "below")) == "missing_file"
    assert reason(str(tmp_path)) == "unreadable"
    assert reason(f"{tmp_path}/m.csv#3") == "missing_file"


def test_a_pipe_does_not_hang(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    assert reason(str(tmp_path / "pipe.jpg")) == "unreadable"


def test_names_that_are_no_text(tmp_path: Path) -> None:
    from idtool.media.paths import to_uri

    path = os.fsencode(tmp_path) + b"/50%\xff.jpg"
    with open(path, "wb") as file:
        file.write(b"data")
    uri = to_uri(os.fsdecode(path))
    uri.encode()
    assert open_bytes(uri) == b"data"


def test_remote_files() -> None:
    import fsspec

    memory = fsspec.filesystem("memory")
    memory.pipe("/idtool-store/a.jpg", b"12345")
    try:
        assert open_bytes("memory://idtool-store/a.jpg") == b"12345"
        assert local_path("memory://idtool-store/a.jpg") is None
        assert reason("memory://idtool-store/b.jpg") == "missing_file"
        assert reason("memory://idtool-store/a.jpg", max_bytes=3) == "too_large.bytes"
        with open_media("memory://idtool-store/a.jpg") as file:
            assert file.read(2) == b"12"
    finally:
        memory.rm("/idtool-store", recursive=True)
