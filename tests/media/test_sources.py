"""Listing: folders, links, manifests, URLs, and names of any bytes."""

from __future__ import annotations

import csv
import json
import os
import zipfile
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from idtool.errors import MissingError, UsageError
from idtool.media.paths import from_uri, holds_login, to_uri, without_login
from idtool.media.sources import SCHEMA, list_sources, uri_id


def touch(root: Path, *names: str) -> Path:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    return root


def names(*inputs: Path | str, limit: int | None = None) -> list[str]:
    return [row["name"] for row in list_sources([str(given) for given in inputs], limit)]


def table(rows: list[dict[str, Any]]) -> pa.Table:
    return pa.Table.from_pylist(rows, schema=SCHEMA)


def test_folder(tmp_path: Path) -> None:
    touch(
        tmp_path,
        "b.JPG",
        "a/2.png",
        "a/1.mp4",
        "a/c/3.webp",
        "a.jpg",
        ".hidden.jpg",
        ".git/x.png",
        "notes.txt",
        "a/1.json",
        "LICENSE",
    )
    listing = list_sources([str(tmp_path)])
    rows = list(listing)
    assert [row["uri"] for row in rows] == [
        f"{tmp_path}/{n}" for n in ("a.jpg", "a/1.mp4", "a/2.png", "a/c/3.webp", "b.JPG")
    ]
    assert [row["uri"] for row in rows] == sorted(row["uri"] for row in rows)
    assert [row["group"] for row in rows] == ["", "a", "a", "a/c", ""]
    assert [row["name"] for row in rows] == ["a.jpg", "1.mp4", "2.png", "3.webp", "b.JPG"]
    assert all(row["identity_label"] is None for row in rows)
    assert {row["id"] for row in rows} == {uri_id(row["uri"]) for row in rows}
    assert listing.listed == 5
    assert listing.skipped == {"hidden": 2, "extension .txt": 1, "extension .json": 1, "no extension": 1}
    table(rows)


def test_single_files_of_any_name(tmp_path: Path) -> None:
    touch(tmp_path, "photo", "clip.mp4")
    assert names(tmp_path / "photo", tmp_path / "clip.mp4") == ["photo", "clip.mp4"]


def test_relative_and_unnormalised_inputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path, "in/a.jpg")
    monkeypatch.chdir(tmp_path)
    expected = [f"{tmp_path}/in/a.jpg"]
    for given in ("in", "./in/", "in/../in", f"file://{tmp_path}/in", "in/a.jpg"):
        assert [row["uri"] for row in list_sources([given])] == expected


def test_limit_reads_no_further(tmp_path: Path) -> None:
    touch(tmp_path, "a.jpg", "b.jpg", "c.jpg")
    assert names(tmp_path, limit=2) == ["a.jpg", "b.jpg"]
    assert names(tmp_path, limit=0) == []


def test_everything_once(tmp_path: Path) -> None:
    touch(tmp_path, "a.jpg", "d/b.jpg", "note.txt")
    assert names(tmp_path, tmp_path) == ["a.jpg", "b.jpg"]
    assert names(tmp_path, tmp_path / "d" / "b.jpg", tmp_path / "d") == ["a.jpg", "b.jpg"]
    assert names(tmp_path / "d" / "b.jpg", tmp_path, tmp_path / "d") == ["b.jpg", "a.jpg"]
    assert names(tmp_path, tmp_path / "note.txt") == ["a.jpg", "b.jpg", "note.txt"]


def test_links(tmp_path: Path) -> None:
    touch(tmp_path / "in", "real/a.jpg", "real/b.jpg")
    touch(tmp_path / "out", "far/c.jpg")
    folder = tmp_path / "in"
    (folder / "again").symlink_to(folder / "real")
    (folder / "real" / "up").symlink_to(folder)
    (folder / "real" / "copy.jpg").symlink_to(folder / "real" / "a.jpg")
    (folder / "far").symlink_to(tmp_path / "out" / "far")
    (folder / "self.jpg").symlink_to(folder / "self.jpg")
    (folder / "gone.jpg").symlink_to(tmp_path / "gone.jpg")
    listing = list_sources([str(folder)])
    found = [(row["group"], row["name"]) for row in listing]
    # Each real file once, by the first of its names; broken links are for the ingest step to reject.
    assert found == [("again", "a.jpg"), ("again", "b.jpg"), ("far", "c.jpg"), ("", "gone.jpg"), ("", "self.jpg")]
    assert listing.skipped == {"repeated folder": 2, "repeated": 1}


def test_deep_folders(tmp_path: Path) -> None:
    path = tmp_path
    for _ in range(300):
        path = path / "d"
    path.mkdir(parents=True)
    (path / "a.jpg").write_bytes(b"x")
    assert names(tmp_path) == ["a.jpg"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every folder")
def test_folder_without_permission(tmp_path: Path) -> None:
    touch(tmp_path, "a.jpg", "locked/b.jpg")
    (tmp_path / "locked").chmod(0)
    listing = list_sources([str(tmp_path)])
    assert [row["name"] for row in listing] == ["a.jpg"]
    assert listing.skipped["unreadable folder"] == 1
    (tmp_path / "locked").chmod(0o700)


def test_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="empty") as caught:
        list(list_sources([str(tmp_path)]))
    assert str(tmp_path) in caught.value.message
    assert ".jpg" in caught.value.hint
    touch(tmp_path, "a.txt", "b.txt", "sub/.c.jpg")
    with pytest.raises(UsageError, match=r"2 extension \.txt, 1 hidden"):
        list(list_sources([str(tmp_path)]))


def test_missing_input(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="does not exist"):
        list_sources([str(tmp_path), str(tmp_path / "none")])
    with pytest.raises(UsageError, match="no input"):
        list_sources([])


ODD = [
    b"with space.jpg",
    b"new\nline.jpg",
    "名前 ü.jpg".encode(),
    b"caf\xe9.jpg",
    b"50%.jpg",
    b"50%25\xff.jpg",
    b"tab\t'\".jpg",
]


def test_odd_names_survive_a_table(tmp_path: Path) -> None:
    folder = tmp_path / os.fsdecode(b"in \xfe")
    folder.mkdir()
    for name in ODD:
        (folder / os.fsdecode(name)).write_bytes(name)
    rows = list(list_sources([str(tmp_path)]))
    pq.write_table(table(rows), tmp_path / "t.parquet")
    back = pq.read_table(tmp_path / "t.parquet").to_pylist()
    assert back == rows
    read = {Path(from_uri(row["uri"])).read_bytes() for row in back}
    assert read == set(ODD)
    assert "caf%E9.jpg" in {row["name"] for row in rows}
    assert {row["group"] for row in rows} == {"in %FE"}
    assert len({row["id"] for row in rows}) == len(ODD)


@pytest.mark.parametrize(
    "path", ["/a/50%.jpg", "/a/%41.jpg", "/a/\udcff%41.jpg", "/a/%\udc80.jpg", "/bytes:/x.jpg", "/a/é.jpg"]
)
def test_uris_are_reversible(path: str) -> None:
    uri = to_uri(path)
    uri.encode()
    assert from_uri(uri) == path
    assert (uri == path) == (max(path) < "\udc80")


def manifest(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        with open(path, "w", newline="", encoding="utf-8-sig") as file:
            writer = csv.DictWriter(file, list(rows[0]), delimiter="\t" if path.suffix == ".tsv" else ",")
            writer.writeheader()
            writer.writerows(rows)
    return path


@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl", "parquet"])
def test_manifest(tmp_path: Path, kind: str) -> None:
    touch(tmp_path, "data/faces/a b.jpg", "data/c.mp4")
    rows = [
        {"file": "faces/a b.jpg", "identity": "ann", "License": "CC0", "source": "me", "consent": "yes", "age": 3},
        {"file": "c.mp4", "identity": None, "License": "", "source": None, "consent": None, "age": None},
        {"file": "missing.jpg", "identity": "bob\nü", "License": None, "source": None, "consent": None, "age": 4},
        {
            "file": str(tmp_path / "data/c.mp4"),
            "identity": "again",
            "License": None,
            "source": None,
            "consent": None,
            "age": 4,
        },
        {"file": None, "identity": "nobody", "License": None, "source": None, "consent": None, "age": 5},
    ]
    given = manifest(tmp_path / "data" / f"list.{kind}", rows)
    listing = list_sources([str(given)])
    found = list(listing)
    table(found)
    assert [row["uri"].removeprefix(f"{tmp_path}/data/") for row in found] == [
        "faces/a b.jpg",
        "c.mp4",
        "missing.jpg",
        f"list.{kind}#5",
    ]
    first, second, third, fourth = found
    assert (first["identity_label"], first["licence"], first["source"], first["consent"]) == ("ann", "CC0", "me", "yes")
    assert (first["name"], first["group"]) == ("a b.jpg", "faces")
    assert str(json.loads(first["extra"])["age"]) == "3"
    assert set(second.values()) == {second["id"], second["uri"], "c.mp4", "", None}
    assert third["identity_label"] == "bob\nü"
    assert fourth["identity_label"] == "nobody"
    assert listing.skipped == {"repeated": 1}


def test_manifest_with_images_and_videos_in_two_columns(tmp_path: Path) -> None:
    given = manifest(tmp_path / "list.csv", [{"image": "a.jpg", "video": ""}, {"image": "", "video": "b.mp4"}])
    assert names(given) == ["a.jpg", "b.mp4"]


def test_manifest_beside_its_folder(tmp_path: Path) -> None:
    given = manifest(tmp_path / "list.csv", [{"path": "in/a.jpg", "identity": "ann"}])
    touch(tmp_path, "in/a.jpg", "in/b.jpg")
    assert [(r["name"], r["identity_label"]) for r in list_sources([str(given), str(tmp_path / "in")])] == [
        ("a.jpg", "ann"),
        ("b.jpg", None),
    ]


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("list.csv", "picture,who\na.jpg,ann\n", "picture, who"),
        ("list.csv", "picture\n", "picture"),
        ("list.csv", "", "no rows"),
        ("list.csv", "path\n", "no rows"),
        ("list.csv", "path,who\na.jpg,ann,more\n", "line 2: more fields"),
        ("list.csv", 'path\n"a.jpg\n', "line"),
        ("list.jsonl", '{"path": "a.jpg"}\n{"path": \n', "line 2: not JSON"),
        ("list.jsonl", "[1, 2]\n", "expected a JSON object"),
        ("list.jsonl", '{"who": "ann"}\n', "who"),
        ("list.parquet", "not parquet", "not a readable Parquet"),
    ],
)
def test_broken_manifest(tmp_path: Path, name: str, text: str, says: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(UsageError) as caught:
        list(list_sources([str(tmp_path / name)]))
    assert says in caught.value.message
    assert str(tmp_path / name) in caught.value.message


def test_manifest_in_latin_1(tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_bytes(b"path,identity\ncaf\xe9.jpg,Jos\xe9\n")
    touch(tmp_path, os.fsdecode(b"caf\xe9.jpg"))
    (row,) = list_sources([str(tmp_path / "list.csv")])
    table([row])
    assert Path(from_uri(row["uri"])).exists()
    assert row["identity_label"] == "Jos%E9"


def test_manifest_with_pictures_inside_leaves_them_out(tmp_path: Path) -> None:
    pq.write_table(pa.table({"path": ["a.jpg"], "thumb": [b"\xff\xd8"], "age": [7]}), tmp_path / "list.parquet")
    (row,) = list_sources([str(tmp_path / "list.parquet")])
    assert json.loads(row["extra"]) == {"age": 7}


@pytest.fixture
def memory() -> Any:
    filesystem = fsspec.filesystem("memory")
    yield filesystem
    for path in filesystem.ls("/", detail=False):
        filesystem.rm(path, recursive=True)


def test_remote_folder(memory: Any) -> None:
    for path in ("/bucket/b.jpg", "/bucket/a/1.mp4", "/bucket/a/.x.jpg", "/bucket/notes.txt", "/bucket/a.jpg"):
        memory.pipe(path, b"x")
    listing = list_sources(["memory://bucket", "memory://bucket/b.jpg"])
    rows = list(listing)
    assert [(row["group"], row["name"]) for row in rows] == [("", "a.jpg"), ("a", "1.mp4"), ("", "b.jpg")]
    assert listing.skipped == {"hidden": 1, "extension .txt": 1, "repeated": 1}
    for row in rows:
        with fsspec.open(row["uri"]) as file:
            assert file.read() == b"x"
    with pytest.raises(UsageError, match="does not exist"):
        list_sources(["memory://bucket/none"])


def test_remote_manifest_stays_on_its_side(memory: Any, tmp_path: Path) -> None:
    secret = touch(tmp_path, "secret.jpg") / "secret.jpg"
    memory.pipe("/bucket/in/a.jpg", b"x")
    lines = ["path", "a.jpg", "../../b.jpg", str(secret), f"file://{secret}", "memory://other/c.jpg"]
    memory.pipe("/bucket/in/list.csv", "\n".join(lines).encode())
    uris = [row["uri"] for row in list_sources(["memory://bucket/in/list.csv"])]
    assert uris[0].endswith("/bucket/in/a.jpg")
    assert uris[1].endswith("/bucket/in/b.jpg")
    assert all(uri.startswith("memory://") for uri in uris)
    assert uris[-1] == "memory://other/c.jpg"


def test_unknown_protocol() -> None:
    with pytest.raises((UsageError, MissingError), match="nosuch"):
        list_sources(["nosuch://bucket/x"])


@pytest.mark.fixtures
def test_real_folder(fixtures: Path) -> None:
    rows = list(list_sources([str(fixtures)]))
    assert sum(row["group"] == "videos" for row in rows) == 11
    assert sum(row["group"] == "identities/cb_id0" for row in rows) == 10
    from_manifest = list(list_sources([str(fixtures / "ATTRIBUTION.csv")]))
    labels = {row["uri"]: row["identity_label"] for row in from_manifest}
    assert labels[f"{fixtures}/identities/cb_id0/00_celebbasis.jpg"] == "cb_id0"
    assert all(row["licence"] for row in from_manifest)


@pytest.mark.parametrize("url", ["http://me:s3cret@host/x", "s3://key:s3cret@bucket", "zip://a::https://me:s3cret@h/z"])
def test_a_password_in_a_url_is_refused_and_not_repeated(tmp_path: Path, url: str) -> None:
    with pytest.raises(UsageError, match="password in its URL") as caught:
        list_sources([url])
    assert "s3cret" not in str(caught.value)
    manifest = tmp_path / "list.csv"
    manifest.write_text(f"path\na.jpg\n{url}\n")
    with pytest.raises(UsageError, match="row 2: a password") as caught:
        list(list_sources([str(manifest)]))
    assert "s3cret" not in str(caught.value)


def test_without_login() -> None:
    assert without_login("s3://key:secret@bucket/a@b") == "s3://bucket/a@b"
    assert without_login("https://h/a:b@c.jpg") == "https://h/a:b@c.jpg"
    assert not holds_login("abfs://container@account/x")


def test_a_url_whose_files_could_not_be_found_again_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr("in/a.jpg", b"x")
    with pytest.raises(UsageError, match="would not say where they are"):
        list_sources([f"zip://in::{tmp_path}/x.zip"])


def test_a_manifest_with_pictures_in_place_of_paths_is_refused(tmp_path: Path) -> None:
    rows = [{"image": {"bytes": b"\xff\xd8" * 50, "path": "a.jpg"}}]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "list.parquet")
    with pytest.raises(UsageError, match="row 1: column 'image' holds no path but a structure"):
        list(list_sources([str(tmp_path / "list.parquet")]))
