"""Records: one row per image with its pictures, as `datasets` opens them and as plain files; nothing of a removed
person; what a skipped step left out is null, with the reason."""

from __future__ import annotations

import hashlib
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from idtool.curate import record_files, regions
from idtool.curate.export import Records, RecordsSettings, export_run
from idtool.curate.layout import RECORDS
from idtool.curate.record_rows import RecordRows
from idtool.curate.report import render
from idtool.engine.plan import plan_steps
from idtool.engine.step import Env, TableContext
from idtool.errors import RunFailed, UsageError
from idtool.media.store import MediaStore
from idtool.run import Run
from tests.curate import fake_run
from tests.curate.tables import stored

WHY = "needs role captioner; profile offline binds none"
PEOPLE = ("ada l.", "ada l.", "bob", None, "cyd")


def png(pixels: Any) -> bytes:
    sink = io.BytesIO()
    Image.fromarray(pixels).save(sink, "PNG")
    return sink.getvalue()


def table(folder: Path, store: MediaStore) -> pa.Table:
    """Five photos of three people and one nobody knows; of the last no ears are seen."""
    rows = []
    for number, person in enumerate(PEOPLE):
        data = fake_run._encoded(fake_run.draw(number))
        path = folder / "in" / f"{number}.jpg"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data)
        mask = np.zeros((32, 32), np.uint8)
        mask[number:, number:] = 255
        rows.append(
            {
                "id": fake_run.content_id(data),
                "uri": str(path),
                "name": path.name,
                "group": "in",
                "identity": person,
                "source": "archive",
                "licence": "CC-BY-4.0",
                "consent": "form 7",
                "media": str(path),
                "origin": "photo",
                "embedding": [float(number), float("nan")],
                "face_thumb": b"grey",
                "region_labels": store.put(png(mask // 16), ".png"),
                "ears_visible": number != 4,
                "ears_mask": None if number == 4 else store.put(png(mask), ".png"),
            }
        )
    text = ("id", "uri", "name", "group", "identity", "source", "licence", "consent", "media", "origin")
    own = {field.name: field for field in regions.WRITES}
    schema = [pa.field(name, pa.string(), metadata={"doc": name}) for name in text]
    schema += [pa.field("embedding", pa.list_(pa.float32())), pa.field("face_thumb", pa.binary())]
    schema += [own[name] for name in ("region_labels", "ears_visible", "ears_mask")]
    return pa.Table.from_pylist(rows, schema=pa.schema(schema))


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run up to its export, whose captions were skipped."""
    opened = Run.create(tmp_path / "run")
    stored(opened.step_dir(1, "regions") / "table", table(tmp_path, MediaStore(opened.store_root)))
    base = {"notes": [], "models": [], "statistics": {}, "own": {"kind": "", "settings": {}}, "seconds": 1.0}
    done = {"state": "done", "rows_in": 5, "kept": 5, "rejected": 0, "errors": 0, "reasons": {}}
    opened.save(
        recipe="fgid",
        profile="offline",
        seed=0,
        inputs=["in"],
        steps=[
            {**base, **done, "index": 1, "name": "regions", "kind": "regions"},
            {**base, "index": 2, "name": "describe", "kind": "describe", "state": "skipped", "skipped_because": WHY},
            {**base, "index": 3, "name": "records", "kind": "records", "state": "pending"},
        ],
    )
    (opened.path / "recipe.yaml").write_text("steps:\n- {step: records, files: true, splits: {train: 0.6, val: 0.4}}\n")
    return opened.path


def rows_of(folder: Path) -> dict[str, dict[str, Any]]:
    found = [row for path in sorted((folder / "data").glob("*.parquet")) for row in pq.read_table(path).to_pylist()]
    return {row["name"]: row for row in found}


def test_datasets_opens_records_with_all_their_pictures(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")
    datasets = pytest.importorskip("datasets")
    result = export_run(run)
    assert (result["records"], result["identities"], result["images"]) == (5, 3, 5)
    loaded = datasets.load_dataset(str(run / "dataset"), cache_dir=str(tmp_path / "cache"))
    assert set(loaded) == {"train", "val"}
    for row in (row for split in loaded.values() for row in split):
        number = int(row["name"][0])
        assert row["image"].size == fake_run.draw(number).size
        assert (np.asarray(row["region_labels"]) > 0).sum() == (32 - number) ** 2
        assert (row["ears_mask"] is None) == (number == 4)
        assert row["uri"] == f"in/{number}.jpg" and "media" not in row and "face_thumb" not in row


def test_what_a_skipped_step_would_have_written_is_null_with_the_reason(run: Path) -> None:
    export_run(run)
    for row in rows_of(run / "dataset").values():
        assert row["caption"] is None and row["face_caption"] is None and row["caption_by"] is None
        assert row["caption_reason"] == row["face_caption_reason"] == WHY
        assert (row["licence"], row["consent"], row["source"]) == ("CC-BY-4.0", "form 7", "archive")
    card = (run / "dataset" / "README.md").read_text(encoding="utf-8")
    assert f"`caption` 5 ({WHY})" in card and "`ears_mask` 4" in card and "5 records of 3 people" in card
    assert "| archive | CC-BY-4.0 | form 7 | 5 |" in card and "json/<split>/<id>.json" in card
    assert "license: cc-by-4.0" in card


def test_plain_files_say_what_the_table_says(run: Path) -> None:
    export_run(run)
    table = rows_of(run / "dataset")
    files = sorted((run / "dataset" / "json").glob("*/*.json"))
    assert len(files) == len(table) == 5
    for path in files:
        row = record_files.read(path)
        same = table[row["name"]]
        assert set(row) == set(same) and path.stem == row["id"] == same["id"]
        assert row["embedding"] == [same["embedding"][0], None]
        for name, value in row.items():
            if isinstance(value, Path):
                assert value.read_bytes() == same[name]["bytes"]
            elif name != "embedding":
                assert value == same[name]
        assert json.loads(path.read_text())["image"] == {"file": f"pictures/image/{row['id']}.jpg"}
    for line in (run / "dataset" / "checksums.sha256").read_text().splitlines():
        digest, name = line.split("  ")
        assert hashlib.sha256((run / "dataset" / name).read_bytes()).hexdigest() == digest


def test_files_that_do_not_fit_the_table_are_found(run: Path) -> None:
    export_run(run)
    folder = run / "dataset"
    place = {path.stem: (path.parent.name, 0) for path in (folder / "json").glob("*/*.json")}
    record_files.verify(folder, place)
    with pytest.raises(RunFailed, match="5 JSON files, not 6"):
        record_files.verify(folder, {**place, "more": ("train", 0)})
    with pytest.raises(RunFailed, match="not among the rows"):
        record_files.verify(folder, dict(list(place.items())[1:]))
    next((folder / "pictures" / "ears_mask").iterdir()).unlink()
    with pytest.raises(RunFailed, match=r"not there: ears_mask"):
        record_files.verify(folder, place)


def test_a_removed_person_leaves_nothing_and_moves_nobody(run: Path, tmp_path: Path) -> None:
    export_run(run)
    result = export_run(run, tmp_path / "without", remove_identity=("ada l.",))
    assert (result["records"], result["removed"]) == (3, 2)
    split = {path.stem: path.parent.name for path in (run / "dataset" / "json").glob("*/*.json")}
    left = {path.stem: path.parent.name for path in (tmp_path / "without" / "json").glob("*/*.json")}
    assert left and left.items() <= split.items()
    theirs = [(tmp_path / "in" / f"{number}.jpg").read_bytes() for number in (0, 1)]
    for path in (tmp_path / "without").rglob("*"):
        if path.is_file():
            assert b"ada l." not in path.read_bytes() and not any(data in path.read_bytes() for data in theirs)
    with pytest.raises(UsageError, match=r"no records of an identity 'adda l\.'"):
        export_run(run, tmp_path / "x", remove_identity=("adda l.",))


def test_the_step_tells_where_every_record_went_and_the_report_shows_them(run: Path) -> None:
    opened = Run(run)
    context = TableContext(run_dir=str(run), step_dir=opened.step_dir(3, "records"))
    step = Records(RecordsSettings(), Env("offline", {}))
    [planned] = plan_steps([("records", step)], opened.step_table("regions").schema)
    out = [row for batch in step.run(opened.step_table("regions"), context) for row in batch.to_pylist()]
    assert len(out) == 5 and {row["status"] for row in out} == {"kept"}
    for row in out:
        assert row["id"] in pq.read_table(run / "dataset" / row["file"])["id"].to_pylist()
    assert context.statistics["records"] == 5 and not (run / "dataset" / "json").exists()
    assert {"split", "file"} <= set(planned.schema.names)

    stored(opened.step_dir(3, "records") / "table", pa.Table.from_pylist(out))
    steps = opened.steps
    steps[2] |= {"state": "done", "rows_in": 5, "kept": 5, "rejected": 0, "errors": 0, "reasons": {}}
    opened.save(steps=steps)
    html = render(Run(run))
    assert "5 records of 3 people from 5 inputs" in html and 'id="records"' in html
    assert "not visible: ears" in html and "nobody known" in html


def test_without_identify_the_label_counts_and_without_a_label_nobody_is_known(tmp_path: Path) -> None:
    rows = table(tmp_path, MediaStore(tmp_path / "media")).drop_columns(["identity"])
    labelled = rows.append_column("identity_label", pa.array(["x", None, None, None, "x"]))
    for made, expected in ((labelled, ["x", None, None, None, "x"]), (rows, [None] * 5)):
        reader = RecordRows(stored(tmp_path / f"t{len(made.schema)}", made).path, {})
        assert reader.read(["identity"])["identity"].to_pylist() == expected
        assert "identity" in reader.schema.names and reader.read().num_rows == 5
    step = Records(RecordsSettings(), Env("offline", {}))
    assert "identity" not in step.reads({"id": pa.field("id", pa.string())})
    assert RECORDS.needed == ("id", "identity", "media")
