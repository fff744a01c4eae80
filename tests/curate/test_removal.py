"""A removed person is out of every format, and the proof of it is one that fails where the person is not."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from idtool.curate.export import export_run
from idtool.curate.formats import FORMATS, Found
from idtool.curate.formats.near import Faces, faces_of, nearest
from idtool.curate.formats.removal import Removed, named_in, prove
from idtool.curate.layout import PAIRS, RECORDS, Layout
from idtool.engine.table import KeptRows, write_table
from idtool.errors import QualityError, UsageError
from idtool.run import Run
from tests.acceptance.runs import idtool
from tests.curate import fake_run
from tests.curate.people import DIM, EMBEDDING, person
from tests.curate.tables import stored
from tests.curate.test_formats import records_run

WHO = {PAIRS: "eve | <b>", RECORDS: "ada l."}
SAME_PERSON = 0.6
LAYOUTS = pytest.mark.parametrize("layout", [PAIRS, RECORDS], ids=lambda layout: layout.noun)


def step_of(layout: Layout) -> str:
    return "identify" if layout is PAIRS else "regions"


def rewrite(run: Path, step: str, change: Any) -> None:
    """Change the rows of a step's table, each in place."""
    table = Run(run).step_table(step)
    rows = table.read()
    names = rows.to_pylist()
    for row in names:
        change(row)
    schema = pa.schema(
        [column.with_type(EMBEDDING) if column.name == "embedding" else column for column in rows.schema]
    )
    write_table(table.path, [pa.Table.from_pylist(names, schema=schema)], schema)


def embed(run: Path, layout: Layout) -> None:
    """Give every person a face: cosines are some 0.9 within one and below 0.6 between two."""
    counts: dict[str, int] = {}
    people: dict[str, int] = {}

    def face(row: dict[str, Any]) -> None:
        name = row["identity"] or row["id"]
        number = people.setdefault(name, len(people))
        counts[name] = counts.get(name, 0) + 1
        row["embedding"] = person(number, counts[name], spread=0.3)[-1].tolist()

    rewrite(run, step_of(layout), face)
    opened = Run(run)
    steps = opened.steps
    own = {"threshold": SAME_PERSON, "settings": {}}
    models = [{"role": "identity", "model": "a-network", "revision": "1", "licence": "MIT", "sha256": None}]
    if layout is PAIRS:
        next(entry for entry in steps if entry["name"] == "identify").update(own=own, models=models)
    else:
        again = {**steps[0], "index": 2, "name": "identify", "kind": "identify", "own": own, "models": models}
        stored(opened.step_dir(2, "identify") / "table", opened.step_table("regions").read())
        steps[1:] = [again, {**steps[1], "index": 3}]
    opened.save(steps=steps)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[Layout, Path]:
    runs = {
        PAIRS: fake_run.make_run(tmp_path_factory.mktemp("pairs")),
        RECORDS: records_run(tmp_path_factory.mktemp("records")),
    }
    for layout, run in runs.items():
        embed(run, layout)
    return runs


@pytest.fixture
def run(made: dict[Layout, Path], layout: Layout, tmp_path: Path) -> Path:
    """A run of its own; photos stay where it was made."""
    return Path(shutil.copytree(made[layout], tmp_path / "run"))


def read(name: str, folder: Path, layout: Layout) -> list[Found]:
    format = FORMATS.get(name)
    return list(format.read(folder, layout, whole=True))


def brute_closest(run: Path, layout: Layout, ids: set[str]) -> float:
    table = Run(run).step_table(step_of(layout)).read(["id", "identity", "embedding"], kept_only=True).to_pylist()
    theirs = np.array([row["embedding"] for row in table if row["identity"] == WHO[layout]])
    others = np.array([row["embedding"] for row in table if row["id"] in ids])
    return float((others @ theirs.T).max())


@LAYOUTS
@pytest.mark.parametrize("name", list(FORMATS))
def test_nothing_of_a_removed_person_is_in_any_format(name: str, layout: Layout, run: Path, tmp_path: Path) -> None:
    format = FORMATS.get(name)
    if format.package:
        pytest.importorskip(format.package)
    if name == "folder-pairs" and layout is RECORDS:
        pytest.skip("a record is no pair")
    who, out = WHO[layout], tmp_path / "out"
    export_run(run, tmp_path / "whole", format=name)
    whole = read(name, tmp_path / "whole", layout)
    theirs = [one for one in whole if one.row and one.row["identity"] == who]
    result = export_run(run, out, format=name, remove_identity=(who,))
    left = read(name, out, layout)
    assert result["removed"] == len(theirs) > 0 and len(left) == len(whole) - len(theirs)
    assert {one.row["id"]: one.split for one in left if one.row}.items() <= {
        one.row["id"]: one.split for one in whole if one.row
    }.items()
    data = {picture for one in theirs for picture in one.pictures.values()} - {
        picture for one in left for picture in one.pictures.values()
    }
    assert data >= {one.pictures[column] for one in theirs for column in layout.images}
    for path in out.rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            assert who.encode() not in content and json.dumps(who)[1:-1].encode() not in content, path
            assert not any(picture in content for picture in data), path

    proof = json.loads((out / "removal.json").read_text("utf-8"))
    assert proof["holds"] and proof["format"] == name and not proof["found"] and proof["when"]
    assert proof["removed"]["sha256_of_identities"] == [hashlib.sha256(who.encode()).hexdigest()]
    images = {one.row[column] for one in theirs if one.row for column in layout.ids}
    assert (proof["removed"]["rows"], proof["removed"]["pictures"]) == (len(theirs), len(images))
    checked = proof["checked"]
    assert checked["rows"] == len(left) and checked["pictures"] == sum(len(one.pictures) for one in left)
    assert checked["media"]["sha256_of_pictures"] >= len(images) == checked["media"]["ids"]
    ids = {one.row[column] for one in left if one.row for column in layout.ids}
    faces = checked["faces"]
    assert (faces["compared"], faces["without_embedding"]) == (len(ids), 0)
    assert faces["same_person"] == SAME_PERSON and faces["network"] == "a-network"
    assert (
        faces["closest"] == pytest.approx(brute_closest(run, layout, ids), abs=1e-4) and faces["closest"] < SAME_PERSON
    )


@LAYOUTS
@pytest.mark.parametrize("name", list(FORMATS))
def test_the_proof_fails_of_a_data_set_that_still_has_the_person(
    name: str, layout: Layout, run: Path, tmp_path: Path
) -> None:
    format = FORMATS.get(name)
    if format.package:
        pytest.importorskip(format.package)
    if name == "folder-pairs" and layout is RECORDS:
        pytest.skip("a record is no pair")
    who = WHO[layout]
    result = export_run(run, tmp_path / "whole", format=name)
    found = read(name, tmp_path / "whole", layout)
    theirs = [one for one in found if one.row and one.row["identity"] == who]
    ids = {one.row[column] for one in theirs if one.row for column in layout.ids}
    digests = {hashlib.sha256(one.pictures[column]).hexdigest() for one in theirs for column in layout.images}
    rows = {one.row["id"] for one in theirs if one.row}
    opened = Run(run)
    table = opened.step_table("identify")
    faces = faces_of(opened, KeptRows(table.path), layout, None)
    nobody = Faces(None, None, "none measured")
    for removed, measured, what in (
        (Removed(frozenset({who})), nobody, "label"),
        (Removed(frozenset({"x"}), images=ids), nobody, "media"),
        (Removed(frozenset({"x"}), digests=digests), nobody, "media"),
        (Removed(frozenset({who})), faces, "face"),
    ):
        proof = prove(found, removed, measured, layout)
        assert not proof.holds and {one["row"] for one in proof.found if one["what"] == what} == rows
        assert proof.alike == rows and proof.rows == len(found) == result[layout.nouns]


@pytest.mark.parametrize("layout", [PAIRS], ids=["pair"])
def test_a_face_that_is_too_near_fails_the_command_or_is_left_out_too(
    layout: Layout, run: Path, tmp_path: Path
) -> None:
    table = Run(run).step_table("identify").read(kept_only=True).to_pylist()
    their_face = next(row["embedding"] for row in table if row["identity"] == WHO[PAIRS])
    pairs = Run(run).step_table("caption").read(kept_only=True).to_pylist()
    twin = next(row["a_id"] for row in pairs if row["identity"] != WHO[PAIRS])

    def plant(row: dict[str, Any]) -> None:
        if row["id"] == twin:
            row["embedding"] = their_face

    rewrite(run, "identify", plant)
    out = tmp_path / "out"
    export_run(run, out, format="webdataset")
    before = (out / "checksums.sha256").read_text()
    twins = {one.row["id"] for one in read("webdataset", out, PAIRS) if one.row and twin in one.row["id"].split("~")}
    assert twins
    line = ("export", run, "-o", out, "--format", "webdataset", "--remove-identity", WHO[PAIRS])
    told = idtool(*line)
    assert told.exit_code == 3
    assert (
        f"{len(twins)} have a face of cosine 0.6 or more to a removed person" in told.stderr
        and "--remove-alike" in told.stderr
    )
    assert (out / "checksums.sha256").read_text() == before, "the old data set stays as it was"
    failed = json.loads((tmp_path / "out.removal.json").read_text("utf-8"))
    assert not failed["holds"] and failed["checked"]["faces"]["found"] == len(twins)
    assert failed["checked"]["faces"]["closest"] == pytest.approx(1, abs=1e-3)
    assert {one["row"] for one in failed["found"]} == twins and failed["found"][0]["where"] == twin
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".out")]

    passed = idtool(*line, "--remove-alike", "--json")
    assert passed.exit_code == 0, passed.output
    answer = json.loads(passed.stdout)
    assert answer["left_out_as_alike"] == len(twins) and answer["proof"]["faces"]["closest"] < SAME_PERSON
    left = {one.row["id"] for one in read("webdataset", out, PAIRS) if one.row}
    assert left and not left & twins and not (tmp_path / "out.removal.json").exists()
    loose = idtool(*line, "--same-person", "1", "--json")
    assert loose.exit_code == 3, "a face of cosine 1 is theirs at any threshold"


@pytest.mark.parametrize("layout", [RECORDS], ids=["record"])
@pytest.mark.parametrize(
    ("column", "value"),
    [("name", "Ada L at the sea.jpg"), ("group", "trip/ada l."), ("uri", "file:///x/ada%20l./1.jpg")],
)
def test_a_name_left_on_anothers_row_fails_the_proof(
    column: str, value: str, layout: Layout, run: Path, tmp_path: Path
) -> None:
    def plant(row: dict[str, Any]) -> None:
        if row["identity"] == "bob":
            row[column] = value

    for step in ("regions", "identify"):
        rewrite(run, step, plant)
    if column == "uri":
        value = "https://host/ada%20l./1.jpg"
        for step in ("regions", "identify"):
            rewrite(run, step, plant)
    with pytest.raises(QualityError, match="1 have the label of a removed person"):
        export_run(run, tmp_path / "out", remove_identity=(WHO[RECORDS],))
    assert not (tmp_path / "out").exists()
    result = export_run(run, tmp_path / "out", remove_identity=(WHO[RECORDS],), remove_alike=True)
    assert (result["records"], result["left_out_as_alike"]) == (2, 1)


@pytest.mark.parametrize("layout", [RECORDS], ids=["record"])
def test_an_input_that_is_called_like_the_person_is_not_in_the_card(layout: Layout, run: Path, tmp_path: Path) -> None:
    Run(run).save(inputs=["/photos/ada l.", "/photos/others", "/photos/Ada_L_2019.csv"])
    export_run(run, tmp_path / "out", remove_identity=(WHO[RECORDS],))
    card = (tmp_path / "out" / "README.md").read_text("utf-8")
    assert "Inputs: `others`." in card


@pytest.mark.parametrize("layout", [RECORDS], ids=["record"])
def test_what_could_not_be_checked_is_said(layout: Layout, run: Path, tmp_path: Path) -> None:
    opened = Run(run)
    steps = opened.steps
    steps[1]["own"] = {}
    opened.save(steps=steps)
    told = export_run(run, tmp_path / "out", remove_identity=(WHO[RECORDS],))["proof"]["faces"]
    assert told["compared"] == 0 and "give --same-person" in told["why_not"]
    told = export_run(run, tmp_path / "out", remove_identity=(WHO[RECORDS],), same_person=0.5)["proof"]["faces"]
    assert (told["compared"], told["same_person"], told["rule"]) == (3, 0.5, "--same-person")
    (tmp_path / "run" / "gone").mkdir()
    with pytest.raises(UsageError, match="are for --remove-identity"):
        export_run(run, tmp_path / "out", same_person=0.5)
    photo = next(row["media"] for row in opened.step_table("regions").read().to_pylist() if row["identity"] == "ada l.")
    kept = Path(photo).read_bytes()
    try:
        Path(photo).unlink()
        export_run(run, tmp_path / "out", remove_identity=(WHO[RECORDS],), same_person=0.5)
    finally:
        Path(photo).write_bytes(kept)
    proof = json.loads((tmp_path / "out" / "removal.json").read_text("utf-8"))
    assert proof["checked"]["media"]["rows_whose_pictures_were_gone"] == 1


def test_faces_without_a_direction_are_counted_as_not_compared(tmp_path: Path) -> None:
    faces = person(1, 4).tolist()
    rows = [
        {"id": "a", "identity": "x", "embedding": faces[0]},
        {"id": "b", "identity": "y", "embedding": faces[1]},
        {"id": "c", "identity": "y", "embedding": None},
        {"id": "d", "identity": "y", "embedding": [float("nan")] * DIM},
        {"id": "e", "identity": "y", "embedding": (-np.array(faces[2])).tolist()},
    ]
    schema = pa.schema([("id", pa.string()), ("identity", pa.string()), ("embedding", EMBEDDING)])
    table = stored(tmp_path / "table", pa.Table.from_pylist(rows, schema=schema))
    told, near = nearest(Faces(table, 0.4, "test"), frozenset({"x"}), {"b", "c", "d", "e"})
    assert (told["compared"], told["without_embedding"], told["references"]) == (2, 2, 1)
    assert set(near) == {"b"} and told["closest_image"] == "b"
    told, near = nearest(Faces(table, 0.4, "test"), frozenset({"nobody"}), {"b"})
    assert (told["compared"], near) == (0, {}) and "no embedding" in told["why_not"]


@given(st.text(min_size=1, max_size=30))
def test_a_label_is_found_whatever_it_is(label: str) -> None:
    for row in ({"identity": label}, {"a_group": label}, {"b_identity_label": label}, {"a_group": f"x/{label}"}):
        assert named_in(row, PAIRS, frozenset({label})) == next(iter(row))
    assert named_in({"identity": None, "a_yaw": 1.0, "a_group": label + "x"}, PAIRS, frozenset({label})) is None
