from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from idtool.curate import scratch
from idtool.curate.identify import WRITES, Identify, IdentifySettings, same_person
from idtool.engine.operator import Context
from idtool.engine.step import Binding, Env, TableContext
from idtool.engine.table import KeptRows
from idtool.errors import MissingError, UsageError
from idtool.evaluate.measure import MeasureSettings, MeasureStep
from idtool.models import weights
from tests.curate.people import ENV, frame, image_id, person, photo, table
from tests.curate.tables import joined, stored

Rows = dict[str, dict[str, Any]]


def identify(folder: Path, rows: pa.Table, env: Env = ENV, **settings: Any) -> tuple[Rows, dict[str, Any]]:
    statistics: dict[str, Any] = {}
    source = stored(folder / "in", rows, batch=17)
    context = TableContext(run_dir=str(folder), step_dir=folder, statistics=statistics)
    out = joined(Identify(IdentifySettings.model_validate(settings), env).run(KeptRows(source.path), context))
    assert len(out) == rows.num_rows
    return {row["id"]: row for row in out}, statistics


def groups(rows: Rows) -> set[frozenset[str]]:
    found: dict[str, set[str]] = {}
    for key, row in rows.items():
        if row["status"] == "kept":
            found.setdefault(row["identity"], set()).add(key)
    return {frozenset(members) for members in found.values()}


def people(sizes: list[int], **columns: Any) -> list[dict[str, Any]]:
    return [photo(p, k, e, **columns) for p, size in enumerate(sizes) for k, e in enumerate(person(p, size))]


def truth(rows: list[dict[str, Any]]) -> set[frozenset[str]]:
    found: dict[int, set[str]] = {}
    for row in rows:
        found.setdefault(row["person"], set()).add(row["id"])
    return {frozenset(members) for members in found.values()}


def test_clusters_do_not_depend_on_the_order_of_rows(tmp_path: Path) -> None:
    rows = people([9, 5, 1, 7, 2])
    first, statistics = identify(tmp_path / "a", table(rows, 1))
    second, _ = identify(tmp_path / "b", table(rows, 2))
    assert groups(first) == truth(rows)
    assert {k: (r["identity"], r["identity_sim"]) for k, r in first.items()} == {
        k: (r["identity"], r["identity_sim"]) for k, r in second.items()
    }
    assert all(row["identity"].startswith("id-") and row["identity_how"] == "cluster" for row in first.values())
    assert statistics["identities"] == 5 and statistics["images"] == 24
    assert statistics["sizes"]["6-10"] == 2 and statistics["purity_estimate"]["share"] == 1.0
    single = next(row for row in first.values() if sum(r["identity"] == row["identity"] for r in first.values()) == 1)
    assert single["identity_sim"] == pytest.approx(1)
    assert min(row["identity_sim"] for row in first.values()) > 0.6


def test_labels_are_kept_and_what_fits_joins_them(tmp_path: Path) -> None:
    rows = people([4, 4, 3])
    for row in rows[:3] + rows[4:6]:
        row["identity_label"] = "ann" if row["person"] == 0 else "bob"
    found, statistics = identify(tmp_path, table(rows))
    assert groups(found) == truth(rows)
    assert {found[row["id"]]["identity"] for row in rows[:8]} == {"ann", "bob"}
    assert [found[row["id"]]["identity_how"] for row in rows[:5]] == ["column", "column", "column", "cluster", "column"]
    assert statistics["how"] == {"column": 5, "folder": 0, "video": 0, "cluster": 6}


def test_two_labels_of_one_person_stay_two(tmp_path: Path) -> None:
    rows = people([6])
    for k, row in enumerate(rows):
        row["identity_label"] = "ann" if k < 3 else "anna"
    found, _ = identify(tmp_path, table(rows))
    assert {len(g) for g in groups(found)} == {3}


def test_a_wrong_image_under_a_label_is_an_outlier(tmp_path: Path) -> None:
    rows = [{**row, "identity_label": "ann"} for row in people([5, 1])]
    found, statistics = identify(tmp_path / "a", table(rows))
    wrong = found[rows[5]["id"]]
    assert (wrong["status"], wrong["reason"], wrong["threshold"]) == ("rejected", "identity.outlier", ">= 0.4")
    assert wrong["value"] < 0.4 and "ann" in wrong["message"]
    assert [found[row["id"]]["status"] for row in rows[:5]] == ["kept"] * 5
    assert statistics["mixed_labels"]["examples"] == [{"label": "ann", "images": 6, "people": [5, 1]}]
    kept, _ = identify(tmp_path / "b", table(rows), outliers={"action": "keep"})
    assert {row["status"] for row in kept.values()} == {"kept"}
    strict, _ = identify(tmp_path / "c", table(rows[:5]), outliers={"floor": 0.999})
    assert {row["reason"] for row in strict.values()} <= {"identity.outlier", None}


def test_a_label_without_a_majority_is_only_named(tmp_path: Path) -> None:
    rows = [{**row, "identity_label": "both"} for row in people([3, 3])]
    found, statistics = identify(tmp_path, table(rows))
    assert {row["status"] for row in found.values()} == {"kept"}
    assert statistics["mixed_labels"]["count"] == 1 and statistics["purity_estimate"]["share"] <= 0.5


def test_folders_count_only_where_the_faces_agree(tmp_path: Path) -> None:
    rows = people([4, 3, 3, 4, 2])
    for row in rows:
        row["group"] = {0: "ann", 1: "mixed", 2: "mixed"}.get(row["person"], "")
    for k, row in enumerate(row for row in rows if row["person"] == 3):
        row["group"] = f"2024/0{1 + k % 2}"
    found, statistics = identify(tmp_path, table(rows))
    assert groups(found) == truth(rows)
    assert {row["identity"] for row in found.values() if row["identity_how"] == "folder"} == {"ann"}
    folders = statistics["folders"]
    assert folders["several_people"] == {"count": 1, "names": ["mixed"]}
    assert folders["same_person_as_another"] == {"count": 2, "names": ["2024/01", "2024/02"]}
    assert folders["taken_as_people"] == 1


def test_by_folder_takes_folders_at_their_word(tmp_path: Path) -> None:
    rows = people([3, 3])
    for row in rows:
        row["group"] = "mixed" if row["person"] == 0 else ""
    found, _ = identify(tmp_path, table(rows), by="folder")
    assert [found[row["id"]]["identity"] for row in rows[:3]] == ["mixed"] * 3
    assert {found[row["id"]]["reason"] for row in rows[3:]} == {"identity.no_label"}


def test_by_column_rejects_what_has_no_label(tmp_path: Path) -> None:
    rows = people([2])
    rows[0]["identity_label"] = "ann"
    found, _ = identify(tmp_path, table(rows), by="column")
    assert (found[rows[0]["id"]]["identity"], found[rows[1]["id"]]["reason"]) == ("ann", "identity.no_label")


def clip(name: str, people_at: list[int], *, shots: list[int] | None = None) -> list[dict[str, Any]]:
    seen = {p: iter(person(p, 40, seed=sum(name.encode()))) for p in set(people_at)}
    shots = shots or [0] * len(people_at)
    return [
        frame(name, 100 * k, p, next(seen[p]), shot=s) for k, (p, s) in enumerate(zip(people_at, shots, strict=True))
    ]


def test_videos_two_people_are_two_and_one_in_two_shots_is_one(tmp_path: Path) -> None:
    rows = clip("a.mp4", [0, 0, 0, 1, 1, 0, 0, 1], shots=[0, 0, 0, 0, 0, 1, 2, 2]) + clip("b.mp4", [2, 2, 2])
    found, _ = identify(tmp_path, table(rows), by="video")
    assert groups(found) == truth(rows)
    assert {row["identity_how"] for row in found.values()} == {"video"}


def test_one_person_in_two_videos_and_a_photo(tmp_path: Path) -> None:
    rows = clip("a.mp4", [0] * 5) + clip("b.mp4", [0] * 4 + [1] * 4) + people([2])
    apart, _ = identify(tmp_path / "video", table(rows), by="video")
    assert len(groups(apart)) == 3
    assert {apart[row["id"]]["reason"] for row in rows if row["origin"] == "photo"} == {"identity.no_label"}
    together, _ = identify(tmp_path / "auto", table(rows))
    assert groups(together) == truth(rows)
    how = {(row["person"], together[row["id"]]["identity_how"]) for row in rows}
    assert how == {(0, "cluster"), (1, "video")}


def test_names_hash_the_lowest_id(tmp_path: Path) -> None:
    rows = people([3])
    found, _ = identify(tmp_path / "a", table(rows))
    more = [*rows, photo(0, 7, person(0, 1, seed=5)[0])]
    more[-1]["id"] = "f" * 32
    again, _ = identify(tmp_path / "b", table(more))
    assert {row["identity"] for row in found.values()} == {row["identity"] for row in again.values()}


def test_rows_without_a_face_and_people_with_too_few_images(tmp_path: Path) -> None:
    rows = [*people([3, 1]), photo(9, 0, None), photo(9, 1, np.zeros(64))]
    found, statistics = identify(tmp_path, table(rows), min_images=2)
    assert [found[row["id"]]["reason"] for row in rows] == [
        None, None, None, "identity.too_few", "identity.no_embedding", "identity.no_embedding",
    ]  # fmt: skip
    assert (found[rows[3]["id"]]["value"], found[rows[3]["id"]]["threshold"]) == (1.0, ">= 2")
    assert statistics["identities"] == 1 and statistics["no_embedding"] == 2
    assert found[rows[4]["id"]]["identity"] is None and found[rows[4]["id"]]["identity_sim"] is None


@pytest.mark.parametrize("count", [0, 1])
def test_hardly_any_rows(tmp_path: Path, count: int) -> None:
    rows = table(people([1]))
    found, _ = identify(tmp_path, rows.slice(0, count))
    assert len(found) == count
    nothing, _ = identify(tmp_path / "b", table([photo(0, 0, None)]))
    assert [row["reason"] for row in nothing.values()] == ["identity.no_embedding"]


def test_the_threshold_belongs_to_the_network() -> None:
    default = Identify(IdentifySettings(), ENV)
    assert default.threshold == 0.4 and default.config()["threshold"] == 0.4
    assert Identify(IdentifySettings(threshold=0.3), Env("x", {})).threshold == 0.3
    with pytest.raises(UsageError, match="same_person"):
        _ = Identify(IdentifySettings(), Env("x", {"identity": (Binding("identity", "m"),)})).threshold
    with pytest.raises(MissingError, match="identity"):
        _ = Identify(IdentifySettings(), Env("x", {})).threshold
    assert default.writes({}) == WRITES
    assert Identify(IdentifySettings(by="folder"), ENV).reads({}) == ("id", "embedding", "group")


def test_a_threshold_that_was_found_on_this_machine_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IDTOOL_CACHE", str(tmp_path))
    network = Binding("identity", "arcface-mbf")
    with pytest.raises(UsageError, match="idtool models calibrate identity"):
        same_person(network)
    kept = tmp_path / "calibration" / f"{weights.sha256('arcface-mbf')}.json"
    kept.parent.mkdir()
    found = [{"fmr": 0.01, "threshold": 0.27}, {"fmr": 0.001, "threshold": 0.34}, {"fmr": 0.0001, "threshold": None}]
    kept.write_text(json.dumps({"thresholds": found}))
    assert same_person(network) == 0.34
    assert same_person(Binding("identity", "arcface-mbf", thresholds={"same_person": 0.4})) == 0.4
    kept.write_text(json.dumps({"thresholds": found[:1]}))
    assert same_person(network) == 0.27, "the strictest that there is"
    with pytest.raises(UsageError, match="same_person"):
        same_person(Binding("identity", "edgeface-s"))


@pytest.mark.fixtures
@pytest.mark.offline_weights
def test_real_people_without_labels(fixtures: Path, tmp_path: Path) -> None:
    """161 photos of 26 people: purity and recall, and 26 identities, over a range of thresholds."""
    paths = sorted(path for path in (fixtures / "identities").glob("*/*") if path.is_file())
    env = Env(
        "offline",
        {
            "faces": (Binding("faces", "scrfd-500m"),),
            "identity": (Binding("identity", "arcface-mbf", thresholds={"same_person": 0.4}),),
        },
    )
    [operator] = MeasureStep(MeasureSettings(measures=("faces", "identity")), env).operators()
    operator.setup(Context(run_dir=""))
    sizes = pa.nulls(len(paths), pa.int32())
    ids = [image_id(f"{path.parent.name}/{path.name}") for path in paths]
    rows = operator(pa.table({"id": ids, "media": [str(path) for path in paths], "width": sizes, "height": sizes}))
    assert set(rows["status"].to_pylist()) == {"kept"}
    person_of = {key: path.parent.name for key, path in zip(ids, paths, strict=True)}
    for threshold in (0.3, 0.35, 0.4):
        found, statistics = identify(tmp_path / str(threshold), rows, env, by="cluster", threshold=threshold)
        assert groups(found) == {frozenset(k for k, p in person_of.items() if p == name) for name in person_of.values()}
        assert statistics["identities"] == 26 and statistics["purity_estimate"]["share"] > 0.98


@pytest.mark.parametrize("by", ["auto", "cluster"])
def test_embeddings_in_files_give_the_same_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, by: str) -> None:
    rows = people([6, 5, 1, 4])
    for k, row in enumerate(rows[:8]):
        row["identity_label"] = "ann" if row["person"] == 0 and k != 3 else None
        row["embedding"] = None if k == 5 else row["embedding"]
    plain = identify(tmp_path / "a", table(rows, 1), by=by)
    monkeypatch.setattr(scratch, "SMALL_BYTES", -1)
    monkeypatch.setattr(scratch, "BLOCK_ROWS", 3)
    on_disk = identify(tmp_path / "b", table(rows, 1), by=by)
    assert on_disk == plain
    assert sorted(path.name for path in (tmp_path / "b").iterdir()) == ["in"]
