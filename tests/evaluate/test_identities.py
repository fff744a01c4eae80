"""Where the people of a benchmark come from, and which of their pictures will do."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from PIL import Image

from idtool.curate.export import export_run
from idtool.errors import UsageError
from idtool.evaluate.identities import Identity, pictures_of, read_identities, with_measured
from idtool.evaluate.references import check
from idtool.evaluate.samples import key_of
from idtool.evaluate.scoring import Seen, look_at, with_needs
from idtool.evaluate.suite import load_suite
from idtool.media.paths import from_uri
from idtool.run import Run
from tests.curate import fake_run
from tests.evaluate.offline import env, runtime


def picture(path: Path, size: tuple[int, int] = (8, 8)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (90, 60, 30)).save(path)
    return path


def names(one: Identity) -> list[str]:
    return [Path(from_uri(uri)).name for uri in one.references]


def test_a_folder_has_a_person_per_sub_folder_and_per_picture_beside_them(tmp_path):
    for place in ("ada/2.png", "ada/deep/1.png", "ben/1.jpg", "cleo.png", ".hidden/1.png"):
        picture(tmp_path / place)
    (tmp_path / "ada" / "note.txt").write_text("x")
    (tmp_path / "ben" / "walk.mp4").write_bytes(b"x")
    people = read_identities(str(tmp_path))
    assert [one.label for one in people] == ["ada", "ben", "cleo"]
    assert names(people[0]) == ["2.png", "1.png"]
    assert all(Path(from_uri(uri)).is_absolute() for one in people for uri in one.references)
    assert [one.label for one in read_identities(str(tmp_path), limit=2)] == ["ada", "ben"]


def test_a_manifest_gives_labels_and_captions_in_any_order(tmp_path):
    for name in ("a1", "a2", "b1"):
        picture(tmp_path / f"{name}.png")
    rows = [
        "a2.png,ada,,African,a woman in a red coat",
        "b1.png,ben,7,Asian,",
        "a1.png,ada,64,,",
    ]
    found = []
    for k, order in enumerate((rows, rows[::-1])):
        manifest = tmp_path / f"people{k}.csv"
        manifest.write_text("\n".join(["path,Identity,Age,ethnicity,caption", *order]) + "\n", "utf-8")
        found.append(read_identities(str(manifest)))
    assert found[0] == found[1]
    ada, ben = found[0]
    assert ada.attributes == {"age": "64", "ethnicity": "African"}
    assert [(Path(uri).name, text) for uri, text in ada.captions.items()] == [("a2.png", "a woman in a red coat")]
    assert ben.attributes == {"age": "7", "ethnicity": "Asian"}
    assert not ben.captions


def test_json_lines_and_parquet_say_the_same(tmp_path):
    picture(tmp_path / "a.png")
    row = {"path": "a.png", "identity": "ada", "age": 34, "class": "woman", "tags": ["x"], "consent": "yes"}
    (tmp_path / "people.jsonl").write_text(json.dumps(row) + "\n", "utf-8")
    import pyarrow as pa

    pq.write_table(pa.Table.from_pylist([row]), tmp_path / "people.parquet")
    [one] = read_identities(str(tmp_path / "people.jsonl"))
    assert one.attributes == {"age": "34", "class": "woman"}
    assert read_identities(str(tmp_path / "people.parquet")) == [one]


def test_what_cannot_be_read_is_told(tmp_path):
    with pytest.raises(UsageError, match="Nothing says who is to be shown"):
        read_identities(None)
    with pytest.raises(UsageError, match="does not exist"):
        read_identities(str(tmp_path / "absent"))
    picture(tmp_path / "a.png")
    manifest = tmp_path / "people.csv"
    manifest.write_text("path,identity\na.png,\n", "utf-8")
    with pytest.raises(UsageError, match=r"does not say who .*a\.png shows"):
        read_identities(str(manifest))
    manifest.write_text("path,identity\n,ada\n", "utf-8")
    with pytest.raises(UsageError, match="row 1 has no path"):
        read_identities(str(manifest))


def test_a_curated_run_and_its_data_set_name_the_same_people(tmp_path):
    run = fake_run.make_run(tmp_path / "made")
    people = read_identities(str(run))
    kept = {row["identity"] for row in Run(run).step_table("caption").read(["identity"]).to_pylist()}
    assert {one.label for one in people} == kept
    assert all(Path(from_uri(uri)).is_file() for one in people for uri in one.references)
    assert {text for one in people for text in one.captions.values()} <= {
        "a portrait of a person, number a",
        "a portrait of a person, number b",
    }
    assert all(set(one.captions) == set(one.references) for one in people)
    export_run(run)
    exported = read_identities(str(run / "dataset"), folder=tmp_path / "pictures")
    assert [(one.label, len(one.references)) for one in exported] == [
        (one.label, len(one.references)) for one in people
    ]
    stored = {Path(from_uri(uri)) for one in exported for uri in one.references}
    assert all(path.is_relative_to(tmp_path / "pictures") and path.is_file() for path in stored)


def test_a_run_without_people_is_refused(tmp_path):
    with Run.create(tmp_path / "run") as run:
        run.save(steps=[])
    with pytest.raises(UsageError, match="has no pictures of people"):
        list(pictures_of(str(tmp_path / "run")))


def test_age_and_gender_are_measured_only_where_no_label_says_them():
    people = [Identity("ada", ("/a", "/b"), {"gender": "woman"}), Identity("ben", ("/c",))]
    rows = {key_of("/a"): {"age": None}, key_of("/b"): {"age": 61.4, "female": 0.2}}
    ada, ben = with_measured(people, rows)
    assert ada.attributes == {"age": "61", "gender": "woman"}
    assert ben.attributes == {}


def seen(**rows) -> Seen:
    known = {key_of(f"/{name}"): columns for name, columns in rows.items() if not isinstance(columns, str)}
    why = {key_of(f"/{name}"): {"people": text} for name, text in rows.items() if isinstance(text, str)}
    return Seen({}, {**known, **{key: {} for key in why}}, {**{key: {} for key in known}, **why})


def test_a_reference_has_one_face_that_is_large_enough():
    looked = seen(
        good={"people_boxes": [[10, 10, 110, 130], [0, 0, 20, 20]]},
        none={"people_boxes": []},
        pair={"people_boxes": [[0, 0, 100, 100], [100, 0, 170, 70]]},
        small={"people_boxes": [[0, 0, 40, 60]]},
        broken="people: not a JPEG",
    )
    one = Identity("ada", ("/absent", "/broken", "/good", "/none", "/pair", "/small"))
    problems = check([one], looked)
    assert [problem.text for problem in problems] == [
        "/absent was not looked at",
        "/broken cannot be used: people: not a JPEG",
        "/none shows no face",
        "/pair shows 2 faces: crop it to one person",
        "/small: the face is 40 pixels wide, less than 48",
    ]
    assert {problem.label for problem in problems} == {"ada"}
    assert one.without({problem.uri for problem in problems}).references == ("/good",)
    anything = load_suite("charis")
    assert [problem.uri for problem in check([one], looked, anything)] == ["/absent", "/broken"]
    strict = load_suite("smoke")
    strict = strict.model_copy(update={"identities": strict.identities.model_copy(update={"smallest_face": 120})})
    assert "/good: the face is 100 pixels wide, less than 120" in {one.text for one in check([one], looked, strict)}


@pytest.mark.offline_weights
@pytest.mark.fixtures
def test_references_of_real_photos(fixtures, tmp_path):
    folder = fixtures / "identities"
    paths = [folder / "obama" / "00_face_recognition.jpg", fixtures / "groups" / "kit_rose.jpg"]
    paths += [fixtures / "hard" / "dog.jpg", tmp_path / "broken.jpg"]
    paths[-1].write_bytes(b"no picture")
    looked = look_at(tmp_path, "media", map(str, paths), with_needs(["people"]), runtime(env(), max_error_rate=1.0))
    problems = check([Identity("somebody", tuple(map(str, paths)))], looked)
    assert [Path(problem.uri).name for problem in problems] == ["kit_rose.jpg", "dog.jpg", "broken.jpg"]
    assert "shows 2 faces" in problems[0].text
    assert "shows no face" in problems[1].text
    assert "cannot be used" in problems[2].text


@pytest.mark.offline_weights
def test_the_sample_gives_portraits_only():
    people = read_identities("sample")
    assert [one.label for one in people] == [f"person_0{k}" for k in range(1, 7)]
    assert all(Path(uri).stem.removeprefix("portrait_").isdigit() for one in people for uri in one.references)
