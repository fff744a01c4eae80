from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from idtool.curate.ingest import WRITES, Ingest, IngestSettings
from idtool.engine.apply import apply
from idtool.engine.operator import Context, output_schema
from idtool.errors import UsageError
from tests.curate import media
from tests.curate.tables import OFFLINE, joined, stored

LISTING = ("id", "uri", "name", "group", "identity_label", "source", "licence", "consent", "extra")


def listing(paths: Sequence[Path | str], labels: Sequence[str | None] | None = None) -> pa.Table:
    uris = [str(path) for path in paths]
    columns: dict[str, Any] = {name: pa.nulls(len(uris), pa.string()) for name in LISTING}
    columns |= {
        "id": pa.array([hashlib.sha256(uri.encode()).hexdigest()[:32] for uri in uris], pa.string()),
        "uri": pa.array(uris, pa.string()),
        "name": pa.array([uri.rsplit("/", 1)[-1] for uri in uris], pa.string()),
    }
    if labels is not None:
        columns["identity_label"] = pa.array(labels, pa.string())
    return pa.table(columns)


def ingest(paths: Sequence[Path | str], folder: Path, **settings: Any) -> list[dict[str, Any]]:
    step = Ingest(IngestSettings(**settings), OFFLINE)
    [operator] = step.operators()
    operator.setup(Context(run_dir=str(folder)))
    out = operator(listing(paths))
    assert [field for field in out.schema if field.name in WRITES.names] == list(WRITES)
    return list(out.to_pylist())


def outcome(row: dict[str, Any]) -> tuple[str, str | None]:
    return row["status"], row["reason"]


def test_a_photo_is_named_by_its_bytes_and_stays_where_it_is(tmp_path: Path) -> None:
    path = media.photo(tmp_path / "a b\nc é.jpg", 80, 60)
    [row] = ingest([path], tmp_path / "run")
    assert row["id"] == hashlib.sha256(path.read_bytes()).hexdigest()[:32]
    assert outcome(row) == ("kept", None)
    expected = {
        "kind": "image",
        "origin": "photo",
        "media": str(path),
        "format": "jpeg",
        "bytes": path.stat().st_size,
        "width": 80,
        "height": 60,
        "short_side": 60,
        "duration": None,
        "fps": None,
        "parent": None,
        "uri": str(path),
    }
    assert {name: row[name] for name in expected} == expected
    assert not (tmp_path / "run").exists()


def test_a_name_that_is_no_text_is_no_obstacle(tmp_path: Path) -> None:
    from idtool.media.paths import to_uri

    path = media.photo(tmp_path / "a.jpg").rename(tmp_path / os.fsdecode(b"caf\xe9 %41.jpg"))
    [row] = ingest([to_uri(path)], tmp_path)
    assert outcome(row) == ("kept", None)
    assert row["media"] == to_uri(path) != str(path)


def test_the_size_is_that_of_the_picture_the_right_way_up(tmp_path: Path) -> None:
    from PIL import Image

    exif = Image.Exif()
    exif[0x0112] = 6
    [row] = ingest([media.photo(tmp_path / "a.jpg", 80, 60, exif=exif)], tmp_path)
    assert (row["width"], row["height"], row["short_side"]) == (60, 80, 60)


def test_the_bytes_say_what_a_file_is(tmp_path: Path) -> None:
    mislabelled = media.photo(tmp_path / "really-a-png.jpg", format="PNG")
    film = media.video(tmp_path / "really-a-film.jpg.mp4", media.moving(10)).rename(tmp_path / "film.jpg")
    rows = ingest([mislabelled, film], tmp_path)
    assert [(row["kind"], row["format"], row["status"]) for row in rows] == [
        ("image", "png", "kept"),
        ("video", "mp4", "kept"),
    ]


def test_bad_files_are_rejected_each_for_its_own_reason(tmp_path: Path) -> None:
    (tmp_path / "empty.jpg").write_bytes(b"")
    (tmp_path / "text.jpg").write_text("not a photo at all, " * 10)
    (tmp_path / "folder.jpg").mkdir()
    media.photo(tmp_path / "large.jpg", 400, 300)
    os.mkfifo(tmp_path / "pipe.jpg")
    paths = [
        tmp_path / "empty.jpg",
        tmp_path / "text.jpg",
        tmp_path / "gone.jpg",
        tmp_path / "folder.jpg",
        tmp_path / "pipe.jpg",
        media.bomb(tmp_path / "bomb.png"),
        media.sound(tmp_path / "sound.mp4"),
        tmp_path / "large.jpg",
        media.photo(tmp_path / "good.jpg"),
    ]
    rows = ingest(paths, tmp_path, max_pixels=100_000)
    assert [outcome(row) for row in rows] == [
        ("rejected", "empty"),
        ("rejected", "unreadable"),
        ("rejected", "missing_file"),
        ("rejected", "unreadable"),
        ("rejected", "unreadable"),
        ("rejected", "too_large.pixels"),
        ("rejected", "no_video_stream"),
        ("rejected", "too_large.pixels"),
        ("kept", None),
    ]
    assert (rows[7]["value"], rows[7]["threshold"]) == (120_000.0, "<= 100000")
    assert all(row["message"] for row in rows[:-1])
    assert rows[0]["id"] == listing(paths)["id"][0].as_py()


def test_large_files_are_not_read_whole(tmp_path: Path) -> None:
    path = media.photo(tmp_path / "a.png", format="PNG")
    [row] = ingest([path], tmp_path, max_bytes=path.stat().st_size - 1)
    assert outcome(row) == ("rejected", "too_large.bytes")
    film = media.video(tmp_path / "b.mp4", media.moving(20))
    [row] = ingest([film], tmp_path, max_video_bytes=film.stat().st_size - 1)
    assert outcome(row) == ("rejected", "too_large.bytes")


def test_a_broken_film_is_rejected(tmp_path: Path) -> None:
    film = media.video(tmp_path / "a.mp4", media.moving(30))
    film.write_bytes(film.read_bytes()[:200])
    [row] = ingest([film], tmp_path)
    assert row["status"] == "rejected" and row["reason"] in ("unreadable", "truncated")


def test_an_animation_is_a_photo_and_says_so(tmp_path: Path) -> None:
    from PIL import Image

    first, *rest = (Image.fromarray(image) for image in media.moving(3))
    first.save(tmp_path / "a.gif", save_all=True, append_images=rest)
    [row] = ingest([tmp_path / "a.gif"], tmp_path)
    assert outcome(row) == ("kept", None)
    assert row["message"] == "3 pictures in one file: only the first is used"


def test_a_film_is_probed(tmp_path: Path) -> None:
    film = media.video(tmp_path / "a.mp4", media.moving(20, 96, 64), fps=10)
    [row] = ingest([film], tmp_path)
    assert row["id"] == hashlib.sha256(film.read_bytes()).hexdigest()[:32]
    assert (row["kind"], row["origin"], row["width"], row["height"]) == ("video", "video", 96, 64)
    assert row["duration"] == pytest.approx(2.0, abs=0.11)
    assert row["fps"] == pytest.approx(10, abs=0.1)


@pytest.mark.parametrize(("copy", "kept"), [("auto", {"remote"}), ("always", {"remote", "local"}), ("never", set())])
def test_copies_of_remote_and_local_files(tmp_path: Path, copy: str, kept: set[str]) -> None:
    import fsspec

    memory = fsspec.filesystem("memory")
    photo, film = media.photo(tmp_path / "a.jpg"), media.video(tmp_path / "a.mp4", media.moving(10))
    for path in (photo, film):
        memory.pipe(f"/ingest/{copy}/{path.name}", path.read_bytes())
    remote = [f"memory://ingest/{copy}/{path.name}" for path in (photo, film)]
    rows = ingest([*remote, photo, film], tmp_path / "run", copy=copy)
    assert {row["status"] for row in rows} == {"kept"}
    assert rows[0]["id"] == rows[2]["id"] and rows[1]["id"] == rows[3]["id"]
    where = ["remote", "remote", "local", "local"]
    for place, row, given in zip(where, rows, [*remote, str(photo), str(film)], strict=True):
        if place in kept:
            assert row["media"].startswith("store:")
            stored = tmp_path / "run" / "media" / row["media"].removeprefix("store:")
            assert hashlib.sha256(stored.read_bytes()).hexdigest()[:32] == row["id"]
        else:
            assert row["media"] == given


def test_real_videos_and_photos_are_kept(fixtures: Path, tmp_path: Path) -> None:
    paths = sorted((fixtures / "videos").iterdir()) + sorted((fixtures / "hard").iterdir())
    rows = ingest(paths, tmp_path)
    assert {row["status"] for row in rows} == {"kept"}
    for row in rows:
        if row["kind"] == "video":
            stated = re.search(r"(\d+)x(\d+)", row["name"])
            if stated:
                assert (row["width"], row["height"]) == (int(stated[1]), int(stated[2]))


# -- exact duplicates ----------------------------------------------------------------------------------------------


def finished(folder: Path, rows: pa.Table, batch: int = 2) -> list[dict[str, Any]]:
    """Ingest as the engine runs it: operators, then the table on disk, then `finish`."""
    step = Ingest(IngestSettings(), OFFLINE)
    operators = step.operators()
    for operator in operators:
        operator.setup(Context(run_dir=str(folder)))
    out = apply(operators, rows)
    table = stored(folder / "table", out.sort_by([("id", "ascending"), ("uri", "descending")]), batch)
    batches = step.finish(table)
    assert batches is not None
    return joined(batches)


def test_of_equal_files_the_first_by_name_stays_and_labels_that_differ_are_told(tmp_path: Path) -> None:
    first = media.photo(tmp_path / "a.jpg", seed=1)
    for name in ("b.jpg", "c.jpg"):
        (tmp_path / name).write_bytes(first.read_bytes())
    other = media.photo(tmp_path / "d.jpg", seed=2)
    (tmp_path / "e.jpg").write_bytes(b"")
    paths = [tmp_path / "c.jpg", tmp_path / "b.jpg", first, other, tmp_path / "e.jpg"]
    rows = {row["name"]: row for row in finished(tmp_path, listing(paths, ["bob", "ann", "ann", None, None]))}
    assert {name: outcome(row) for name, row in rows.items()} == {
        "a.jpg": ("kept", None),
        "b.jpg": ("rejected", "duplicate.exact"),
        "c.jpg": ("rejected", "duplicate.exact"),
        "d.jpg": ("kept", None),
        "e.jpg": ("rejected", "empty"),
    }
    assert rows["b.jpg"]["message"] == f"same bytes as {first}"
    assert rows["c.jpg"]["message"] == f"same bytes as {first}, which is labelled 'ann' while this is labelled 'bob'"


def test_many_rows_in_many_batches_end_with_unique_ids(tmp_path: Path) -> None:
    contents = [f"{k % 37:032x}" for k in range(400)]
    rows = listing([f"/p/{k:04d}" for k in range(400)])
    rows = rows.set_column(0, "id", pa.array(contents))
    step = Ingest(IngestSettings(), OFFLINE)
    batches = step.finish(stored(tmp_path / "table", rows, batch=7))
    assert batches is not None
    out = joined(batches)
    kept = [row for row in out if row["status"] == "kept"]
    assert [row["uri"] for row in kept] == [f"/p/{k:04d}" for k in range(37)]
    assert len(out) == 400


def test_a_copy_comes_back_when_its_first_file_is_gone(tmp_path: Path) -> None:
    """Rows of an earlier run are taken over with their outcome; that outcome was about other rows."""
    first, second = media.photo(tmp_path / "a.jpg"), tmp_path / "b.jpg"
    second.write_bytes(first.read_bytes())
    rows = finished(tmp_path / "one", listing([first, second]))
    [copy] = [row for row in rows if row["name"] == "b.jpg"]
    assert copy["status"] == "rejected"
    alone = pa.Table.from_pylist([copy], schema=output_schema(listing([]).schema, WRITES))
    batches = Ingest(IngestSettings(), OFFLINE).finish(stored(tmp_path / "two", alone))
    assert batches is not None
    [row] = joined(batches)
    assert (outcome(row), row["message"]) == (("kept", None), None)


def test_settings_are_those_of_the_recipe() -> None:
    assert IngestSettings.model_validate({"copy": "auto"}).model_dump()["copy"] == "auto"
    with pytest.raises((ValueError, UsageError)):
        IngestSettings.model_validate({"copy": "sometimes"})
