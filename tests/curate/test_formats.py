"""Formats of the export: each has every row, its terms and its pictures, in the shape that others read; and sending it
away happens only when asked for, on the terms that the images came with."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import shutil
import tarfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pyarrow.parquet as pq
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pydantic import ValidationError

from idtool.curate.export import Export, ExportSettings, RecordsSettings, export_run
from idtool.curate.formats import FORMATS, Format, Found, base
from idtool.curate.formats.base import as_json, key_of, text_of
from idtool.curate.formats.fiftyone import WHOLE, detection
from idtool.curate.formats.files import FileFormat
from idtool.curate.formats.hub import objections, repository
from idtool.curate.formats.parquet import ParquetFormat
from idtool.curate.formats.webdataset import Shards
from idtool.curate.layout import PAIRS, RECORDS, Layout
from idtool.engine.step import Env, TableContext
from idtool.errors import MissingError, RunFailed, UsageError
from idtool.media.store import MediaStore
from idtool.run import Run
from tests.acceptance.runs import idtool
from tests.curate import fake_run
from tests.curate.tables import stored
from tests.curate.test_records import table as records_table

OTHERS = [name for name in FORMATS if name != "parquet"]
SPLITS = {"train": 0.6, "val": 0.4}
Rows = dict[str, Found]


def records_run(folder: Path) -> Path:
    """Five records of three people and one nobody knows, with label maps and masks."""
    opened = Run.create(folder / "run")
    stored(opened.step_dir(1, "regions") / "table", records_table(folder, MediaStore(opened.store_root)))
    entry = {"index": 1, "name": "regions", "kind": "regions", "state": "done", "notes": [], "models": []}
    counts = {"rows_in": 5, "kept": 5, "rejected": 0, "errors": 0, "reasons": {}, "seconds": 1.0, "own": {}}
    last = {"index": 2, "name": "records", "kind": "records", "state": "pending", "notes": [], "models": []}
    opened.save(recipe="fgid", profile="offline", seed=0, inputs=["in"], steps=[{**entry, **counts}, last])
    return opened.path


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[Layout, Path]:
    pairs = fake_run.make_run(tmp_path_factory.mktemp("pairs"), photos=3, frames=3)
    return {PAIRS: pairs, RECORDS: records_run(tmp_path_factory.mktemp("records"))}


@pytest.fixture(scope="module")
def exported(runs: dict[Layout, Path], tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A layout's data set in a format, written once; skips where the format's package is not here."""
    made: dict[tuple[Layout, str], Path] = {}

    def export(layout: Layout, name: str) -> Path:
        format = FORMATS.get(name)
        if format.package is not None:
            pytest.importorskip(format.package)
        if (layout, name) not in made:
            made[layout, name] = tmp_path_factory.mktemp("out") / "set"
            export_run(runs[layout], made[layout, name], format=name, splits=SPLITS)
        return made[layout, name]

    return export


def rows(name: str, folder: Path, layout: Layout) -> Rows:
    found = list(FORMATS.get(name).read(folder, layout, whole=True))
    assert all(one.row is not None for one in found)
    return {one.row["id"]: one for one in found if one.row is not None}


@pytest.mark.parametrize("layout", [PAIRS, RECORDS], ids=lambda layout: layout.noun)
@pytest.mark.parametrize("name", OTHERS)
def test_every_format_has_the_rows_the_terms_and_the_pictures_of_the_parquet_files(
    name: str, layout: Layout, exported: Any
) -> None:
    if name == "folder-pairs" and layout is RECORDS:
        pytest.skip("a record is no pair")
    folder, format = exported(layout, name), FORMATS.get(name)
    kept, own = rows("parquet", exported(layout, "parquet"), layout), rows(name, folder, layout)
    assert set(own) == set(kept) and len(own) >= 5
    for row, one in own.items():
        same = kept[row]
        assert one.row is not None and same.row is not None
        assert one.split == same.split
        terms = [f"{side}{term}" for side in layout.sides for term in ("source", "licence", "consent", "uri")]
        for column in ("identity", *layout.ids, *terms):
            assert one.row[column] == same.row[column], column
        shipped = same.pictures if format.made else {key: same.pictures[key] for key in layout.images}
        assert one.pictures == shipped, "the bytes without metadata that the default format ships"
    card = (folder / "README.md").read_text("utf-8")
    assert f"Format: `{name}`." in card and "## Sources and licences" in card and "CC-BY-4.0" in card
    for config in yaml.safe_load(card.split("---\n")[1]).get("configs", []):
        assert all(list(folder.glob(entry["path"])) for entry in config["data_files"])
    for line in (folder / "checksums.sha256").read_text().splitlines():
        digest, path = line.split("  ")
        assert hashlib.sha256((folder / path).read_bytes()).hexdigest() == digest


@pytest.mark.parametrize("name", OTHERS)
def test_a_second_export_has_the_same_bytes(name: str, exported: Any, runs: dict[Layout, Path], tmp_path: Path) -> None:
    first = exported(PAIRS, name)
    export_run(runs[PAIRS], tmp_path / "again", format=name, splits=SPLITS)
    sums = [(folder / "checksums.sha256").read_text() for folder in (first, tmp_path / "again")]
    if FORMATS.get(name).same_bytes:
        assert sums[0] == sums[1]
    else:
        assert rows(name, first, PAIRS) == rows(name, tmp_path / "again", PAIRS)


def test_webdataset_reads_the_shards(exported: Any) -> None:
    webdataset = pytest.importorskip("webdataset")
    for layout in (PAIRS, RECORDS):
        folder = exported(layout, "webdataset")
        shards = sorted(str(path) for path in (folder / "data").glob("*.tar"))
        samples = list(webdataset.WebDataset(shards, shardshuffle=False).decode("pil"))
        kept = rows("webdataset", folder, layout)
        assert [sample["__key__"] for sample in samples] == [key_of(row) for row in kept]
        for sample in samples:
            row = sample["json"]
            held = {name.partition(".")[0]: value for name, value in sample.items() if isinstance(value, Image.Image)}
            assert len(held) == len(kept[row["id"]].pictures)
            assert sample["txt"] == ("" if layout is RECORDS else row["b_caption"])
            if layout is PAIRS:
                assert held["b_image"].size == (row["b_width"], row["b_height"])


def test_shards_are_bounded_and_say_nothing_of_this_machine(tmp_path: Path) -> None:
    shards = Shards(tmp_path, "train", file_bytes=32_000)
    placed = [shards.add(f"k{number}", {"jpg": bytes(8_000), "json": b"{}", "txt": b""}) for number in range(5)]
    assert shards.add("large", {"jpg": bytes(90_000)}) == 2
    names = shards.close()
    assert placed == [0, 0, 0, 1, 1] and names == [f"train-{number:06d}.tar" for number in range(3)]
    assert [(tmp_path / name).stat().st_size <= 32_000 for name in names] == [True, True, False]
    with tarfile.open(tmp_path / names[0]) as tar:
        members = tar.getmembers()
    assert [member.name for member in members[:3]] == ["k0.jpg", "k0.json", "k0.txt"]
    assert {(one.mtime, one.uid, one.gid, one.uname, one.gname, one.mode) for one in members} == {
        (0, 0, 0, "", "", 0o644)
    }


@settings(max_examples=60, deadline=None)
@given(st.lists(st.text(max_size=200), unique=True, max_size=8))
def test_keys_are_safe_and_as_different_as_what_they_are_of(texts: list[str]) -> None:
    keys = [key_of(text) for text in texts]
    assert len(set(keys)) == len(texts)
    for text, key in zip(texts, keys, strict=True):
        assert 0 < len(key) <= 120 and not set(key) & set('./\\ \0:*?"<>|') and key.isascii()
        assert key == key_of(text) == key_of(key)


@settings(max_examples=30, deadline=None)
@given(
    samples=st.dictionaries(
        st.text(max_size=150), st.tuples(st.binary(max_size=2000), st.text(max_size=50)), max_size=6
    )
)
def test_any_row_ids_and_texts_come_back_from_a_shard(
    samples: dict[str, tuple[bytes, str]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("shard")
    (folder / "data").mkdir()
    shards = Shards(folder / "data", "a.b", file_bytes=4_000)
    for row, (data, text) in samples.items():
        content = as_json({"id": row, "identity": text, "x": [float("nan"), 1.5], "raw": b"no"}).encode("ascii")
        shards.add(key_of(row), {"jpg": data, "json": content})
    shards.close()
    found = list(FORMATS.get("webdataset").read(folder, RECORDS, whole=True))
    assert {one.row["id"]: (one.pictures["image"], one.row["identity"]) for one in found if one.row} == samples
    assert all(one.split == "a.b" and one.row == {**one.row, "x": [None, 1.5]} for one in found if one.row)


def test_datasets_opens_the_image_folders(exported: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")
    datasets = pytest.importorskip("datasets")

    def load(*where: str, **more: str) -> Any:
        # A cache each: the library takes folders of one name for one data set.
        return datasets.load_dataset(*where, cache_dir=str(tmp_path / f"cache{len(list(tmp_path.iterdir()))}"), **more)

    for layout, columns in ((PAIRS, ("a_image", "b_image")), (RECORDS, ("image", "region_labels"))):
        folder = exported(layout, "folder")
        kept = rows("folder", folder, layout)
        loaded = load(str(folder))
        assert set(loaded) == {"train", "val"}
        for split, some in loaded.items():
            for row in some:
                one = kept[row["id"]]
                assert one.split == split and row["identity"] == one.row["identity"] and isinstance(row["text"], str)
                for column in columns:
                    assert row[column].tobytes() == Image.open(io.BytesIO(one.pictures[column])).tobytes()
    images = load("imagefolder", data_dir=str(exported(PAIRS, "folder-diffusers") / "train"))["train"]
    assert set(images.column_names) == {"image", "text", "id", "identity", "source", "licence", "consent"}
    assert len(images) == len(set(images["id"])), "an image of many pairs is one line"
    assert set(images["consent"]) == {"not stated"} and set(images["licence"]) == {"CC-BY-4.0", "not stated"}
    folder = exported(PAIRS, "folder-pairs")
    kept = [one for one in rows("folder-pairs", folder, PAIRS).values() if one.split == "train"]
    pairs = load("imagefolder", data_dir=str(folder / "train"))["train"]
    for row, one in zip(pairs, kept, strict=True):
        assert row["text"] == one.row["b_caption"] and row["id"] == one.row["b_id"]
        assert row["image"].tobytes() == Image.open(io.BytesIO(one.pictures["b_image"])).tobytes()
        assert row["reference"].tobytes() == Image.open(io.BytesIO(one.pictures["a_image"])).tobytes()


def test_kohya_finds_a_folder_per_person_and_a_caption_per_image(exported: Any) -> None:
    for layout in (PAIRS, RECORDS):
        folder = exported(layout, "folder-kohya")
        kept = rows("folder-kohya", folder, layout)
        people = {(one.split, one.row["identity"]) for one in kept.values()}
        folders = {path.relative_to(folder).parts for path in folder.glob("*/*") if path.is_dir()}
        assert len(folders) == len(people)
        for split, name in folders:
            assert name.startswith("1_") and key_of(name) == name
            images = [path for path in (folder / split / name).iterdir() if path.suffix != ".txt"]
            texts = {path.stem: path.read_text("utf-8") for path in (folder / split / name).glob("*.txt")}
            assert {path.stem for path in images} == set(texts)
            expected = {"\n"} if layout is RECORDS else {f"a portrait of a person, number {s}\n" for s in "ab"}
            assert set(texts.values()) <= expected
    assert ("train", f"1_{key_of('unknown' + chr(0))}") in folders or (
        "val",
        f"1_{key_of('unknown' + chr(0))}",
    ) in folders


def test_fiftyone_reads_its_folders(exported: Any) -> None:
    folder = exported(PAIRS, "fiftyone")
    kept = rows("fiftyone", folder, PAIRS)
    count = 0
    for split in ("train", "val"):
        labels = json.loads((folder / split / "labels.json").read_text("utf-8"))["labels"]
        count += len(labels)
        assert set(labels) == {path.stem for path in (folder / split / "data").iterdir()}
        for [face] in labels.values():
            assert face["attributes"]["consent"] == "not stated" and face["attributes"]["source"] == "archive"
            assert all(0 <= value <= 1 for value in face["bounding_box"])
    assert count == len({one.row[f"{side}_id"] for one in kept.values() for side in "ab"})
    importers = pytest.importorskip("fiftyone.utils.data.importers")
    with importers.FiftyOneImageDetectionDatasetImporter(str(folder / "train")) as importer:
        read = [(Path(path), label.detections) for path, _, label in importer]
    assert read and all(path.is_file() and len(faces) == 1 and faces[0].licence for path, faces in read)


def test_a_face_that_was_not_measured_is_the_whole_picture() -> None:
    row = {"id": "i", "identity": None, "width": 200, "height": 100, "face_box": [20.0, 10.0, 120.0, 60.0], "age": 3.5}
    measured = detection({**row, "face_score": 0.75}, "")
    assert measured["bounding_box"] == [0.1, 0.1, 0.5, 0.5] and measured["confidence"] == 0.75
    assert measured["label"] == "not stated" and measured["attributes"]["age"] == 3.5
    other = detection({**row, "face_box": None}, "")
    assert other["bounding_box"] == WHOLE and other["attributes"]["box"] == "picture" and "confidence" not in other


def test_the_text_is_what_was_described() -> None:
    told = {"b_caption": "A woman. ", "b_background": "A beach.", "caption_by": "hf:some/model"}
    assert text_of(told, "b_") == "A woman. A beach."
    assert text_of({**told, "caption_by": "column+template"}, "b_") == "A woman."
    assert text_of({"caption": None, "caption_by": None}, "") == ""


def test_a_format_that_cannot_be_written_says_so_and_leaves_nothing(
    runs: dict[Layout, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Elsewhere(ParquetFormat):
        name: ClassVar[str] = "elsewhere"
        package: ClassVar[str | None] = "no_such_module_at_all"
        wheel: ClassVar[str] = "no-such-package"

    with pytest.raises(MissingError, match=r"needs the package no-such-package\. pip install no-such-package\."):
        Elsewhere.check(PAIRS)
    with monkeypatch.context() as patch:
        patch.setattr(base, "find_spec", lambda _: None)
        with pytest.raises(MissingError, match=r"the package pylance\. pip install 'idtool\[exports\]'\."):
            export_run(runs[PAIRS], tmp_path / "out", format="lance")
        with pytest.raises(MissingError, match="pylance"):
            Export(ExportSettings(format="lance"), Env("offline", {})).reads({})
    with pytest.raises(UsageError, match="Did you mean 'webdataset'"):
        export_run(runs[PAIRS], tmp_path / "out", format="webdatset")
    with pytest.raises(UsageError, match="is of pairs"):
        export_run(runs[RECORDS], tmp_path / "out", format="folder-pairs")
    with pytest.raises(UsageError, match="folder of its own"):
        export_run(runs[PAIRS], format="folder")
    with pytest.raises(ValidationError, match="Did you mean 'fiftyone'"):
        ExportSettings(format="fiftyon")
    with pytest.raises(ValidationError, match="beside format parquet only"):
        RecordsSettings(format="folder", files=True)
    export_run(runs[PAIRS], tmp_path / "out", format="folder-kohya")
    before = (tmp_path / "out" / "checksums.sha256").read_text()

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(FileFormat, "_flush", full)
    with pytest.raises(OSError, match="No space"):
        export_run(runs[PAIRS], tmp_path / "out", format="folder-kohya")
    assert (tmp_path / "out" / "checksums.sha256").read_text() == before
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_reading_back_finds_what_is_lost_or_astray(exported: Any, tmp_path: Path) -> None:
    folder = tmp_path / "set"
    shutil.copytree(exported(RECORDS, "folder"), folder)
    images = folder / "train" / "images"
    (images / "stray.jpg").write_bytes(b"x")
    [stray] = [one for one in FORMATS.get("folder").read(folder, RECORDS, whole=True) if one.row is None]
    assert (stray.where, stray.pictures) == ("train/images/stray.jpg", {"": b"x"})
    next(path for path in images.iterdir() if path.name != "stray.jpg").unlink()
    with pytest.raises(RunFailed, match="a picture that is not there"):
        list(FORMATS.get("folder").read(folder, RECORDS, whole=False))


def test_the_step_writes_the_format_that_the_recipe_names(runs: dict[Layout, Path], tmp_path: Path) -> None:
    opened = Run(runs[PAIRS])
    step = Export(ExportSettings(format="webdataset", splits=SPLITS), Env("offline", {}))
    context = TableContext(run_dir=str(opened.path), step_dir=tmp_path / "step")
    out = [row for batch in step.run(opened.step_table("caption"), context) for row in batch.to_pylist()]
    for row in out:
        with tarfile.open(opened.path / "dataset" / row["file"]) as tar:
            assert f"{key_of(row['id'])}.json" in tar.getnames()
    assert context.statistics["pairs"] == len(out)


def test_formats_have_a_name_and_a_summary_each() -> None:
    for name, format in FORMATS.items():
        assert issubclass(format, Format) and format.name == name and format.summary


TERMS = {
    ("archive", "CC-BY-4.0", "yes, form no. 7"): 3,
    ("archive", "CC-BY-4.0", "not stated"): 2,
    ("press", "All rights reserved", "yes"): 4,
    ("web", "CC-BY-4.0", "withdrawn 2024-01-02"): 1,
    ("web", "CC0-1.0", "No"): 5,
}


def test_what_says_no_is_not_sent_and_to_the_public_neither_what_says_nothing() -> None:
    refused = {"licence is 'All rights reserved'": 4, "consent is 'withdrawn 2024-01-02'": 1, "consent is 'No'": 5}
    assert objections(TERMS, public=False) == refused
    assert objections(TERMS, public=True) == {**refused, "consent is not stated": 2}
    assert repository("hf:my-lab/faces.v1") == "my-lab/faces.v1"
    for address in ("my-lab/faces", "hf:faces", "hf:a/b/c", "s3:a/b", "hf:../x"):
        with pytest.raises(UsageError, match="hf:OWNER/NAME"):
            repository(address)


TOKEN = "hf_secret"  # noqa: S105 - of a hub on this machine


@contextmanager
def hub(*, private: bool = True, refuse: bool = False) -> Iterator[tuple[str, list[tuple[str, str, bytes]]]]:
    """A hub on this machine that takes whatever comes; what it was asked for as (method and path, token, body)."""
    asked: list[tuple[str, str, bytes]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            asked.append((f"{self.command} {self.path}", self.headers.get("Authorization") or "", body))
            answer: Any = {}
            if refuse:
                answer = {"error": "You have no right to write here"}
            elif self.path == "/api/repos/create":
                answer = {"url": f"http://{self.headers['Host']}/datasets/lab/faces", "id": "1"}
            elif "/preupload/" in self.path:
                answer = {"files": [{"path": one["path"], "uploadMode": "regular", "shouldIgnore": False}
                                    for one in json.loads(body)["files"]]}  # fmt: skip
            elif "/commit/" in self.path:
                answer = {
                    "commitUrl": f"http://{self.headers['Host']}/datasets/lab/faces/commit/abc",
                    "commitOid": "abc",
                    "success": True,
                }
            elif "/tree/" in self.path:
                answer = [{"type": "file", "path": "of-a-removed-person.tar", "size": 3, "oid": "x"}]
            elif self.path.startswith("/api/datasets/lab/faces"):
                answer = {"_id": "1", "id": "lab/faces", "private": private, "sha": "abc", "siblings": []}
            data = json.dumps(answer).encode()
            self.send_response(403 if refuse else 200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_POST  # noqa: N815 - the library's name

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()
        server.server_close()


@pytest.fixture
def online(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """The hub's library as if nothing kept it from the network; what it may reach is at `HF_ENDPOINT`."""
    constants = pytest.importorskip("huggingface_hub.constants")
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "IDTOOL_OFFLINE", "HTTP_PROXY", "http_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    return monkeypatch


def test_a_data_set_is_sent_when_asked_for_and_only_then(
    runs: dict[Layout, Path], tmp_path: Path, online: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "set"
    line = ("export", runs[PAIRS], "-o", out, "--format", "webdataset", "--json")
    with hub() as (endpoint, asked):
        online.setenv("HF_ENDPOINT", endpoint)
        assert idtool(*line).exit_code == 0 and asked == []
        sent = idtool(*line, "--push", "hf:lab/faces")
    assert sent.exit_code == 0, sent.output
    answer = json.loads(sent.stdout)["pushed"]
    assert (answer["to"], answer["visibility"], answer["commit"]) == ("lab/faces", "private", "abc")
    assert {token for _, token, _ in asked} == {f"Bearer {TOKEN}"}
    made = json.loads(next(body for what, _, body in asked if what == "POST /api/repos/create"))
    assert made["type"] == "dataset" and (made.get("private") is True or made["visibility"] == "private")
    commit = next(body for what, _, body in asked if "/commit/" in what)
    entries = [json.loads(line) for line in commit.decode().splitlines()]
    files = {entry["value"]["path"]: entry["value"] for entry in entries if entry["key"] == "file"}
    local = {path.relative_to(out).as_posix(): path for path in out.rglob("*") if path.is_file()}
    assert set(files) == set(local)
    assert all(base64.b64decode(one["content"]) == local[path].read_bytes() for path, one in files.items())
    assert {"path": "of-a-removed-person.tar"} in [entry["value"] for entry in entries if entry["key"] == "deletedFile"]
    assert TOKEN.encode() not in b"".join(path.read_bytes() for path in local.values())


def test_what_must_not_be_sent_stays_here(runs: dict[Layout, Path], tmp_path: Path, online: pytest.MonkeyPatch) -> None:
    line = ("export", runs[PAIRS], "-o", tmp_path / "set", "--push", "hf:lab/faces", "--json")
    with hub() as (endpoint, asked):
        online.setenv("HF_ENDPOINT", endpoint)
        for code, words, name, value in (
            (4, "HF_TOKEN", "HF_TOKEN", ""),
            (2, "HF_HUB_OFFLINE=1 forbids", "HF_HUB_OFFLINE", "1"),
            (2, "IDTOOL_OFFLINE forbids", "IDTOOL_OFFLINE", "1"),
        ):
            with online.context() as patch:
                patch.setenv(name, value)
                told = idtool(*line)
            assert told.exit_code == code and words in told.stderr
        assert not (tmp_path / "set").exists(), "told before any work is done"
        public = idtool(*line, "--public")
        assert public.exit_code == 2 and "consent is not stated" in public.stderr
        assert "--yes-i-may-share" in public.stderr and (tmp_path / "set" / "README.md").is_file()
        assert asked == []
        vouched = idtool(*line, "--public", "--yes-i-may-share")
        assert vouched.exit_code == 0 and json.loads(vouched.stdout)["pushed"]["visibility"] == "public"
        assert sum(json.loads(vouched.stdout)["pushed"]["overruled"].values()) > 0
    with hub(private=False) as (endpoint, asked):
        online.setenv("HF_ENDPOINT", endpoint)
        told = idtool(*line)
        assert told.exit_code == 2 and "is public already" in told.stderr
        assert not [what for what, _, _ in asked if "commit" in what or "preupload" in what]
    with hub(refuse=True) as (endpoint, _):
        online.setenv("HF_ENDPOINT", endpoint)
        told = idtool(*line)
        assert told.exit_code == 1 and "The hub did not take lab/faces" in told.stderr and TOKEN not in told.stderr
    assert idtool("export", runs[PAIRS], "--public").exit_code == 2


def test_a_row_group_of_the_rows_is_small(exported: Any) -> None:
    for path in (exported(PAIRS, "folder") / "rows").glob("*.parquet"):
        with pq.ParquetFile(path) as file:
            assert all(file.metadata.row_group(k).num_rows <= 100 for k in range(file.num_row_groups))
