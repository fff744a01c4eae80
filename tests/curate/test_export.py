"""The exported folder: opened by `datasets`, split by person, replaced as a whole, and free of a removed person."""

from __future__ import annotations

import hashlib
import io
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image, ImageOps

from idtool.curate import dataset, folders
from idtool.curate.export import Export, ExportSettings, export_run
from idtool.curate.formats import Found
from idtool.curate.formats.check import checked
from idtool.curate.formats.parquet import ParquetFormat
from idtool.curate.layout import PAIRS
from idtool.engine.operator import ERROR, KEPT
from idtool.engine.step import Env, TableContext
from idtool.errors import QualityError, RunFailed, UsageError
from idtool.run import Run
from tests.curate import fake_run


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fake_run.make_run(tmp_path_factory.mktemp("made"))


@pytest.fixture
def run(made: Path, tmp_path: Path) -> Path:
    """A run of its own for tests that write into it. Photos stay where the run was made."""
    shutil.copytree(made, tmp_path / "run")
    return tmp_path / "run"


def rows_of(folder: Path) -> list[dict]:
    return [row for path in sorted((folder / "data").glob("*.parquet")) for row in pq.read_table(path).to_pylist()]


def test_datasets_opens_the_folder_with_images_and_both_splits(run, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")
    datasets = pytest.importorskip("datasets")
    export_run(run)
    for loaded in (
        datasets.load_dataset(str(run / "dataset"), cache_dir=str(tmp_path / "cache")),
        datasets.load_dataset(
            "parquet",
            data_files={split: str(run / "dataset" / "data" / f"{split}-*.parquet") for split in ("train", "val")},
            cache_dir=str(tmp_path / "cache2"),
        ),
    ):
        assert set(loaded) == {"train", "val"}
        assert loaded["train"].num_rows + loaded["val"].num_rows == Run(run).entry("caption")["kept"]
        assert not set(loaded["train"]["identity"]) & set(loaded["val"]["identity"])
        for row in loaded["train"]:
            for side in "ab":
                assert isinstance(row[f"{side}_image"], Image.Image)
                assert row[f"{side}_image"].size == (row[f"{side}_width"], row[f"{side}_height"])


def test_images_are_the_original_bytes_unless_turned(run):
    export_run(run)
    seen = set()
    for row in rows_of(run / "dataset"):
        for side in "ab":
            if row[f"{side}_origin"] != "photo":
                continue
            original = next(run_input(run).rglob(f"{row[f'{side}_group']}/{row[f'{side}_name']}"))
            data = row[f"{side}_image"]["bytes"]
            seen.add(original.suffix)
            if original.name == "turned.jpg":
                shown = ImageOps.exif_transpose(Image.open(original)).convert("RGB")
                turned = Image.open(io.BytesIO(data))
                assert turned.format == "PNG"
                assert not turned.getexif()
                assert np.abs(np.asarray(turned, int) - np.asarray(shown, int)).mean() < 2
                seen.add("turned")
            else:
                assert data == original.read_bytes()
                assert row[f"{side}_image"]["path"] == f"{row[f'{side}_id']}{original.suffix}"
    assert {".jpg", ".png", ".webp", "turned"} <= seen


def run_input(run: Path) -> Path:
    return Path(fake_run.manifest(run)["inputs"][0])


@pytest.mark.parametrize(
    ("mode", "kind", "options", "ending"),
    [
        ("RGB", "JPEG", {}, "jpg"), ("L", "PNG", {}, "png"), ("RGB", "WEBP", {}, "webp"), ("CMYK", "JPEG", {}, "png"),
        ("RGBA", "PNG", {}, "png"), ("P", "GIF", {}, "png"), ("RGB", "TIFF", {}, "png"),
    ],
)  # fmt: skip
def test_what_readers_would_show_differently_becomes_png(mode, kind, options, ending):
    sink = io.BytesIO()
    fake_run.draw(3, (40, 60)).convert(mode).save(sink, kind, **options)
    encoded, found = dataset.encode_for_export(sink.getvalue())
    assert found == ending
    assert (encoded == sink.getvalue()) == (mode in ("RGB", "L") and kind in ("JPEG", "PNG", "WEBP"))
    assert Image.open(io.BytesIO(encoded)).mode in ("RGB", "L")
    assert Image.open(io.BytesIO(encoded)).size == (40, 60)


def test_no_local_path_and_no_password_leaves_with_the_data(run):
    export_run(run)
    text = str([{k: v for k, v in row.items() if not k.endswith("_image")} for row in rows_of(run / "dataset")])
    text += (run / "dataset" / "README.md").read_text(encoding="utf-8")
    assert str(run_input(run).parent) not in text
    assert "secret" not in text
    assert "_media" not in text
    assert (
        dataset._public_uri("https://user:secret@example.org/a.jpg?x=1", "", "a.jpg") == "https://example.org/a.jpg?x=1"
    )
    for secret in ("X-Amz-Signature=ab12&x=1", "x=1&sig=ab12", "access_token=ab12", "AWSAccessKeyId=ab12"):
        assert dataset.public_url(f"https://example.org/a.jpg?{secret}") == "https://example.org/a.jpg"
    assert dataset._public_uri("file:///home/me/in/g/a.jpg", "g", "a.jpg") == "g/a.jpg"


def test_checksums_hold_and_two_exports_are_the_same_bytes(run, tmp_path):
    export_run(run)
    export_run(run, tmp_path / "again")
    for folder in (run / "dataset", tmp_path / "again"):
        lines = (folder / "checksums.sha256").read_text().splitlines()
        assert len(lines) == len([path for path in folder.rglob("*") if path.is_file()]) - 1
        for line in lines:
            digest, name = line.split("  ")
            assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == digest
    assert (run / "dataset" / "checksums.sha256").read_text() == (tmp_path / "again" / "checksums.sha256").read_text()


def test_files_are_cut_by_size_and_groups_are_small(run, tmp_path, monkeypatch):
    monkeypatch.setattr(dataset, "GROUP_ROWS", 4)
    schema = dataset.dataset_schema(Run(run).step_table("caption").schema)
    assert schema.names[:4] == ["id", "identity", "a_image", "b_image"]
    pairs = Run(run).step_table("caption").read(kept_only=True)
    writer = dataset.SplitWriter(tmp_path, "train", schema, file_bytes=60_000)
    image = {"bytes": b"x" * 10_000, "path": "x.jpg"}
    placed = [writer.add(pairs.slice(number, 1), {"a_image": image, "b_image": image}) for number in range(10)]
    assert writer.close() == [f"train-{number:05d}-of-00004.parquet" for number in range(4)]
    assert placed == [0, 0, 0, 1, 1, 1, 2, 2, 2, 3]
    files = sorted(tmp_path.glob("*.parquet"))
    assert [pq.read_metadata(path).num_rows for path in files] == [3, 3, 3, 1]
    assert [row["id"] for path in files for row in pq.read_table(path).to_pylist()] == pairs["id"].to_pylist()[:10]
    large = dataset.SplitWriter(tmp_path, "val", schema, file_bytes=10**9)
    for number in range(10):
        large.add(pairs.slice(number, 1), {"a_image": image, "b_image": image})
    metadata = pq.read_metadata(tmp_path / large.close()[0])
    assert [metadata.row_group(number).num_rows for number in range(metadata.num_row_groups)] == [4, 4, 2]


def test_a_removed_person_leaves_nothing_and_moves_nobody(run, tmp_path):
    export_run(run)
    before = {row["identity"]: split_of(run / "dataset", row["identity"]) for row in rows_of(run / "dataset")}
    person = "eve | <b>"
    photos = {hashlib.sha256(path.read_bytes()).digest() for path in (run_input(run) / "eve - <b>").iterdir()}
    assert photos & images_of(run / "dataset")
    result = export_run(run, tmp_path / "without", remove_identity=(person,))
    assert result["removed"] > 0
    assert not photos & images_of(tmp_path / "without")
    after = {row["identity"]: split_of(tmp_path / "without", row["identity"]) for row in rows_of(tmp_path / "without")}
    assert after == {name: split for name, split in before.items() if name != person}
    assert person not in (tmp_path / "without" / "README.md").read_text(encoding="utf-8")
    for path in (tmp_path / "without").rglob("*"):
        assert not path.is_file() or b"eve | <b>" not in path.read_bytes()


def images_of(folder: Path) -> set[bytes]:
    return {hashlib.sha256(row[f"{side}_image"]["bytes"]).digest() for row in rows_of(folder) for side in "ab"}


def split_of(folder: Path, identity: str) -> str:
    files = {
        path.name.split("-")[0]
        for path in (folder / "data").glob("*.parquet")
        if identity in pq.read_table(path)["identity"].to_pylist()
    }
    assert len(files) == 1
    return files.pop()


def test_verification_finds_rows_that_are_not_as_they_were_written(run):
    result = export_run(run)
    folder = run / "dataset"
    place = {row["id"]: (split_of(folder, row["identity"]), 0) for row in rows_of(folder)}

    def verify(place: dict, found: list[Found] | None = None) -> None:
        read = ParquetFormat.read(folder, PAIRS, whole=False) if found is None else found
        list(checked(read, folder, PAIRS, place, whole=False))

    verify(place)
    assert len(place) == result["pairs"]
    with pytest.raises(RunFailed, match="rows, not"):
        verify({**place, "one more": ("train", 0)})
    some = next(iter(place))
    with pytest.raises(RunFailed, match="not written to"):
        verify({**place, some: ("elsewhere", 0)})
    whole = list(ParquetFormat.read(folder, PAIRS, whole=True))
    with pytest.raises(RunFailed, match="not written to"):
        verify(place, [*whole, whole[0]])
    moved = [replace(one, split="train") for one in whole if one.row["identity"] == "ada"]
    moved[0] = replace(moved[0], split="val")
    with pytest.raises(RunFailed, match="in two splits"):
        verify({one.row["id"]: (one.split, 0) for one in moved}, moved)
    with pytest.raises(RunFailed, match="no row of"):
        verify(place, [Found("data/stray.jpg", "data", None, {"": b"x"})])
    bare = [replace(one, pictures={"a_image": b"x"}) for one in whole]
    with pytest.raises(RunFailed, match="has no b_image"):
        list(checked(bare, folder, PAIRS, place, whole=True))


def test_a_run_stopped_before_its_export_is_exported_as_its_recipe_says(run):
    opened = Run(run)
    steps = opened.steps
    steps.append({"index": 99, "name": "export", "kind": "export", "state": "pending", "notes": [], "models": []})
    opened.save(steps=steps)
    (run / "recipe.yaml").write_text("steps:\n- step: export\n  splits: {all: 1.0}\n")
    assert list(export_run(run)["files"]) == ["all"]


def test_a_removed_photo_is_found_by_what_would_be_shipped_of_it(run, tmp_path, monkeypatch):
    """A copy under another person's name has another id when its metadata differ: the pixels tell."""
    person = "eve | <b>"
    theirs = next(row["a_media"] for row in pairs(run) if row["identity"] == person and row["a_origin"] == "photo")
    data = Path(theirs).read_bytes()
    keep = dataset.ImageSource.get

    def get(self, image_id, media, origin):
        image = keep(self, image_id, media, origin)
        return {**image, "bytes": dataset.encode_for_export(data)[0]} if "ada" in media else image

    monkeypatch.setattr(dataset.ImageSource, "get", get)
    with pytest.raises(QualityError, match="have a picture of a removed person"):
        export_run(run, tmp_path / "out", remove_identity=(person,))
    assert not (tmp_path / "out").exists()


def test_misuse_is_told(run, tmp_path):
    with pytest.raises(UsageError, match="Did you mean 'ada'"):
        export_run(run, tmp_path / "x", remove_identity=("adda",))
    with pytest.raises(UsageError, match=r"sum to 1\.5"):
        export_run(run, tmp_path / "x", splits={"train": 1.5})
    with pytest.raises(UsageError, match="--output"):
        export_run(run, remove_identity=("ada",))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    with pytest.raises(UsageError, match="not empty"):
        export_run(run, tmp_path / "mine")
    assert (tmp_path / "mine" / "thesis.txt").exists()
    with pytest.raises(QualityError, match="No pair is left"):
        export_run(run, tmp_path / "x", remove_identity=tuple(sorted({row["identity"] for row in pairs(run)})))
    assert not (tmp_path / "x").exists()


def pairs(run: Path) -> list[dict]:
    return Run(run).step_table("caption").read(kept_only=True).to_pylist()


def context(run: Path) -> TableContext:
    return TableContext(run_dir=str(run), seed=0, step_dir=run / "steps" / "12-export")


def step() -> Export:
    return Export(ExportSettings(), Env(profile="offline", bindings={}))


def test_the_step_tells_where_every_pair_went(run):
    where = context(run)
    out = [row for batch in step().run(Run(run).step_table("caption"), where) for row in batch.to_pylist()]
    assert [row["id"] for row in out] == [row["id"] for row in pairs(run)]
    for row in out:
        stored = pq.read_table(run / "dataset" / row["file"])
        assert row["id"] in stored["id"].to_pylist()
        assert row["file"].startswith(f"data/{row['split']}-")
        assert row["status"] == KEPT
    assert where.statistics["pairs"] == len(out)


def test_a_photo_that_changed_or_is_gone_is_an_error_of_its_pairs(run, tmp_path):
    moved = tmp_path / "input"
    shutil.copytree(run_input(run), moved)
    table = Run(run).step_table("caption")
    content = table.read()
    for column in ("a_media", "b_media"):
        values = [value.replace(str(run_input(run)), str(moved)) for value in content[column].to_pylist()]
        content = content.set_column(content.column_names.index(column), content.schema.field(column), [values])
    pq.write_table(content, table.files[0])
    victim, other = (
        pairs(run)[0]["a_media"],
        next(row["a_media"] for row in pairs(run) if row["identity"] != pairs(run)[0]["identity"]),
    )
    Path(victim).write_bytes(fake_run._encoded(fake_run.draw(77)))
    Path(other).unlink()
    out = [row for batch in step().run(table, context(run)) for row in batch.to_pylist()]
    failed = [row for row in out if row["status"] == ERROR]
    touched = [row["id"] for row in pairs(run) if {victim, other} & {row["a_media"], row["b_media"]}]
    assert sorted(row["id"] for row in failed) == sorted(touched)
    assert any("changed since" in row["message"] for row in failed)
    assert any(row["reason"] == "missing_file" for row in failed)
    assert len(rows_of(run / "dataset")) == len(out) - len(failed)


KILLED = """
import sys
from pathlib import Path
from idtool.curate import dataset, export, folders
point, run = sys.argv[1], Path(sys.argv[2])
def die(*_):
    import os, signal
    os.kill(os.getpid(), signal.SIGKILL)
if point == "writing":
    dataset.SplitWriter.close = die
elif point == "before":
    folders.replace_folder = die
elif point == "between":
    folders._exchange = lambda *_: False
    rename = Path.rename
    def once(self, target):
        if self.name.endswith(".writing"):
            die()
        return rename(self, target)
    Path.rename = once
elif point == "after":
    import shutil
    real = shutil.rmtree
    def rmtree(path, *args, **options):
        if (Path(path) / "old").exists() and Path(path).name == ".dataset.writing":
            die()
        return real(path, *args, **options)
    shutil.rmtree = rmtree
export.export_run(run)
"""


@pytest.mark.parametrize("point", ["writing", "before", "between", "after"])
def test_a_killed_export_leaves_the_old_or_the_new_one(run, point):
    export_run(run)
    whole = (run / "dataset" / "checksums.sha256").read_text()
    (run / "dataset" / "old").write_text("the old one")
    killed = subprocess.run([sys.executable, "-c", KILLED, point, str(run)], check=False)
    assert killed.returncode == -9
    if point == "between":  # only where the system has no atomic exchange
        folders.recover(run / "dataset")
    assert (run / "dataset" / "checksums.sha256").read_text() == whole
    assert (run / "dataset" / "old").exists() == (point != "after")
    export_run(run)
    assert (run / "dataset" / "checksums.sha256").read_text() == whole
    assert not (run / "dataset" / "old").exists()
    assert not [path for path in run.iterdir() if path.name.startswith(".dataset")]


def test_settings_are_checked():
    with pytest.raises(ValueError, match=r"sum to 0\.9"):
        ExportSettings(splits={"train": 0.9})
    assert ExportSettings.model_validate({"splits": {"train": 0.9, "val": 0.1}}).splits == {"train": 0.9, "val": 0.1}
