from __future__ import annotations

import json
from collections import Counter
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from idtool.curate import grouped, pair
from idtool.curate.pair import Pair, PairSettings
from idtool.curate.pairing import REASONS
from idtool.engine.operator import OUTCOME
from idtool.engine.plan import plan_steps
from idtool.engine.step import Binding, Env, TableContext
from idtool.engine.table import KeptRows
from idtool.errors import UsageError
from tests.curate.people import ENV, frame, person, photo, table
from tests.curate.tables import joined, stored

Row = dict[str, Any]
OPEN = {"similarity": {"min": -1.0, "max": 1.0}, "copy": {"face_correlation": {"max": None}}}
NO_DIFFERENCE = {"yaw": None, "pitch": None, "expression": None, "time_ms": None}
ANY = {"branches": {"frames": OPEN, "photos": OPEN}, "difference": NO_DIFFERENCE}


def paired(folder: Path, rows: pa.Table, env: Env = ENV, **stated: Any) -> tuple[list[Row], dict[str, Any]]:
    statistics: dict[str, Any] = {}
    source = stored(folder / "in", rows, batch=13)
    step = Pair(PairSettings.model_validate(stated), env)
    [planned] = plan_steps([("pair", step)], rows.schema)
    context = TableContext(run_dir=str(folder), step_dir=folder, statistics=statistics)
    batches = list(step.run(KeptRows(source.path), context))
    for batch in batches:
        assert batch.schema.names == [n for n in planned.schema.names if n != "input_id"]
        assert batch.schema.types == [f.type for f in planned.schema if f.name != "input_id"]
    out = joined(batches)
    assert len({row["id"] for row in out}) == len(out)
    json.dumps(statistics)
    return out, statistics


def kept(rows: list[Row]) -> list[Row]:
    return [row for row in rows if row["status"] == "kept"]


def full(number: int, images: int, seed: int = 0, spread: float = 0.8) -> list[Row]:
    rng = np.random.default_rng([seed, number])
    rows = []
    for k, e in enumerate(person(number, images, spread=spread, seed=seed)):
        yaw, pitch, roll = rng.normal(0, 10, 3)
        more = {
            "identity": f"person {number}", "identity_label": f"label {number}",
            "yaw": yaw, "pitch": pitch, "roll": roll,
            "expressions": rng.dirichlet([0.5] * 7).tolist(), "face_thumb": rng.bytes(32 * 32),
            "embedding2": person(number, 1, spread=0.5, seed=k)[0], "blendshapes": [0.0] * 52,
        }  # fmt: skip
        rows.append(photo(number, k, e, **more))
    return rows


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 1000), st.lists(st.integers(1, 7), min_size=1, max_size=5), st.integers(1, 6), st.booleans())
def test_pairs_stay_within_identities_and_bounds(
    tmp_path_factory: pytest.TempPathFactory, seed: int, sizes: list[int], most: int, spool: bool
) -> None:
    folder = tmp_path_factory.mktemp("pairs")
    people = [row for number, size in enumerate(sizes) for row in full(number, size, seed)]
    stated = {"branches": {"photos": {"similarity": {"min": 0.5, "max": 0.7}}}, "difference": {"yaw": 8, "pitch": None}}
    with pytest.MonkeyPatch.context() as patch:
        if spool:
            patch.setattr(grouped.by_identity, "__kwdefaults__", {"bucket_rows": 4})
        rows, statistics = paired(folder / "a", table(people, seed), per_identity=most, keep_rejects=1000, **stated)
    again, _ = paired(folder / "b", table(people, seed + 1), per_identity=most, keep_rejects=1000, **stated)
    assert sorted(rows, key=lambda row: row["id"]) == sorted(again, key=lambda row: row["id"])
    assert not list((folder / "a").glob("identities"))
    by_id = {row["id"]: row for row in people}
    for row in rows:
        a, b = by_id[row["a_id"]], by_id[row["b_id"]]
        assert a["identity"] == b["identity"] == row["identity"]
        assert row["id"] == f"{row['a_id']}~{row['b_id']}" and row["a_id"] < row["b_id"]
        assert row["similarity"] == pytest.approx(float(np.dot(a["embedding"], b["embedding"])), abs=1e-5)
        assert row["d_yaw"] == pytest.approx(abs(a["yaw"] - b["yaw"]), rel=1e-4, abs=1e-5)  # yaws are float32
    for row in kept(rows):
        assert 0.5 <= row["similarity"] <= 0.7
        assert row["d_yaw"] >= 8 or row["d_expression"] >= 0.4
    assert all(number <= most for number in Counter(row["identity"] for row in kept(rows)).values())
    pairs = statistics["pairs"]
    assert pairs["judged"] == sum(n * (n - 1) // 2 for n in sizes) == sum(pairs["rejected"].values()) + pairs["allowed"]
    assert pairs["chosen"] == len(kept(rows)) == sum(pairs["branches"].values())
    assert Counter(row["reason"] for row in rows if row["status"] != "kept") == Counter(pairs["rejected"])
    used = {row[f"{side}_id"] for row in kept(rows) for side in "ab"}
    assert statistics["images_in_no_pair"]["count"] == len(people) - len(used)
    assert statistics["images_in_no_pair"]["reasons"].get("alone", 0) == sizes.count(1)


def test_branches_have_their_own_bounds(tmp_path: Path) -> None:
    e = person(0, 6, spread=0.4)
    rows = [
        frame("a.mp4", 0, 0, e[0]), frame("a.mp4", 1000, 0, e[1]), frame("b.mp4", 0, 0, e[2]),
        photo(0, 1, e[3]), photo(0, 2, e[4]), photo(0, 3, e[5]),
    ]  # fmt: skip
    rows[5]["parent"] = rows[4]["id"]
    stated = {**ANY, "branches": {"frames": {"similarity": {"min": 0.99}}, "photos": OPEN}, "copy": OPEN["copy"]}
    out, statistics = paired(tmp_path, table([{**row, "identity": "x"} for row in rows]), **stated)
    branch = {frozenset((row["a_id"], row["b_id"])): (row["branch"], row["reason"]) for row in out}
    ids = [row["id"] for row in rows]
    low = REASONS[0]
    assert branch[frozenset((ids[0], ids[1]))] == ("frames", low)
    assert branch[frozenset((ids[4], ids[5]))] == ("edits", low)
    assert branch[frozenset((ids[0], ids[2]))] == ("mixed", None)
    assert branch[frozenset((ids[0], ids[3]))] == ("mixed", None)
    assert branch[frozenset((ids[3], ids[4]))] == ("photos", None)
    assert statistics["pairs"]["branches"] == {"mixed": 3 * 3 + 2, "photos": 2}
    times = {row["branch"]: row["d_time_ms"] for row in out}
    assert times["frames"] == 1000 and times["mixed"] is None


def test_time_counts_only_within_a_video(tmp_path: Path) -> None:
    e = person(0, 4, spread=0.4)
    clips = [("a.mp4", 0), ("a.mp4", 900), ("b.mp4", 0), ("b.mp4", 500)]
    rows = [{**frame(v, t, 0, e[k]), "identity": "x", "yaw": 0.0} for k, (v, t) in enumerate(clips)]
    stated = {**ANY, "difference": {**NO_DIFFERENCE, "yaw": 5, "time_ms": 800}, "copy": OPEN["copy"]}
    out, _ = paired(tmp_path, table(rows), **stated)
    [only] = kept(out)
    assert only["a_id"].split("-")[0] == only["b_id"].split("-")[0] and only["d_time_ms"] == 900
    lost = next(row for row in out if row["d_time_ms"] == 500)
    assert (lost["reason"], lost["threshold"]) == ("pair.difference", "yaw >= 5 or time_ms >= 800")
    assert lost["value"] == pytest.approx(0.625)


def test_copies_go_and_two_expressions_in_one_studio_stay(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    face = rng.integers(0, 256, (32, 32)).astype(np.uint8)
    mirror, other = face[:, ::-1].copy(), rng.integers(0, 256, (32, 32)).astype(np.uint8)
    e = person(0, 4, spread=0.5)
    near = (e[0] + 0.15 * e[1]) / np.linalg.norm(e[0] + 0.15 * e[1])
    far = e[2]
    assert float(e[0] @ far) < 0.85 < float(e[0] @ near)
    rows = [
        photo(0, k, v, identity="x", face_thumb=t.tobytes())
        for k, (v, t) in enumerate([(e[0], face), (near, mirror), (far, face), (e[3], other)])
    ]
    window = {"similarity": {"min": 0.0, "max": 1.0}}
    stated = {"branches": {"photos": window}, "difference": NO_DIFFERENCE, "copy": {"above": 0.95}}
    out, statistics = paired(tmp_path, table(rows), **stated)
    [copy] = [row for row in out if row["status"] == "rejected"]
    assert {copy["a_id"], copy["b_id"]} == {rows[0]["id"], rows[1]["id"]}
    assert (
        copy["reason"] == "pair.copy.face_correlation"
        and copy["value"] == pytest.approx(1)
        and copy["threshold"] == "<= 0.95"
    )
    assert "face_correlation" in copy["message"]
    assert statistics["pairs"]["chosen"] == 5
    stated["copy"] = {"above": -1.0}
    out, _ = paired(tmp_path / "b", table(rows), **stated)
    assert sum(row["reason"] == "pair.copy.face_correlation" for row in out) == 3


def test_thresholds_of_the_networks(tmp_path: Path) -> None:
    step = Pair(PairSettings.model_validate({"branches": {"photos": {"similarity2": {}}}}), ENV)
    assert step.rules().photos.low == 0.4 and step.rules().photos.low2 == 0.45
    assert step.rules().frames.low == 0.8 and step.rules().frames.low2 is None
    assert step.rules().photos.time_ms is None and step.rules().frames.time_ms == 800
    assert step.config()["bounds"] == {"frames.low": 0.8, "photos.low": 0.4, "photos.low2": 0.45}
    one = Env("one", {"identity": ENV.bindings["identity"][:1]})
    with pytest.raises(UsageError, match="second identity network"):
        Pair(PairSettings.model_validate({"branches": {"photos": {"similarity2": {}}}}), one).config()
    with pytest.raises(UsageError, match="same_person"):
        Pair(PairSettings(), Env("none", {"identity": (Binding("identity", "m"),)})).config()
    rows = full(0, 8)
    stated = {**ANY, "branches": {"photos": {**OPEN, "similarity2": {"min": 0.8}}}}
    out, _ = paired(tmp_path, table(rows), **stated)
    assert any(row["reason"] == "pair.similarity2.low" for row in out)
    assert all(row["similarity2"] >= 0.8 for row in kept(out)) and kept(out)


def test_carried_columns_and_missing_measures(tmp_path: Path) -> None:
    rows = table([{**row, "identity": "x"} for row in full(0, 3)])
    out, _ = paired(tmp_path / "a", rows, **ANY)
    names = set(out[0])
    assert {"a_uri", "b_name", "a_identity_label", "b_yaw", "a_expressions"} <= names
    assert not names & {"a_embedding", "b_embedding2", "a_face_thumb", "a_blendshapes", "a_identity", "a_status"}
    bare = rows.select(["id", "identity", "embedding"])
    out, statistics = paired(tmp_path / "b", bare, **ANY | {"copy": {"face_correlation": {"max": None}}})
    assert statistics["pairs"]["chosen"] == 3 and out[0]["d_yaw"] is None and out[0]["face_correlation"] is None
    step = Pair(PairSettings(), ENV)
    step.missing = {"yaw": "needs role landmarks"}
    assert "yaw" not in step.reads({}) and "expressions" in step.reads({})
    assert step.notes() == ["difference.yaw is not judged: needs role landmarks"]
    with pytest.raises(UsageError, match="yaw"):
        plan_steps([("pair", Pair(PairSettings(), ENV))], bare.schema)


def test_examples_of_rejects_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = table([row for number in range(4) for row in full(number, 9)])
    stated = {"branches": {"photos": {"similarity": {"min": 0.99}}}, "keep_rejects": 12}
    out, statistics = paired(tmp_path / "a", rows, **stated)
    assert Counter(row["identity"] for row in out) == {f"person {k}": 2 for k in range(4)}
    assert statistics["pairs"]["rejected"] == {"pair.similarity.low": 4 * 36}
    assert statistics["images_in_no_pair"] == {"count": 36, "reasons": {"pair.similarity.low": 36}}
    monkeypatch.setattr(pair, "REJECTS_IN_ALL", 4)
    out, _ = paired(tmp_path / "b", rows, **stated)
    assert len(out) == 4
    out, _ = paired(tmp_path / "c", rows, **{**stated, "keep_rejects": 0})
    assert out == []


def test_an_empty_table_and_rows_of_nobody(tmp_path: Path) -> None:
    rows = table(full(0, 2))
    out, statistics = paired(tmp_path / "a", rows.slice(0, 0), **ANY)
    assert out == [] and statistics["pairs"]["judged"] == 0
    position = rows.schema.get_field_index("identity")
    nobody = rows.set_column(position, "identity", pa.nulls(2, pa.string()))
    assert paired(tmp_path / "b", nobody, **ANY)[0] == []


def test_output_batches_hold_whole_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = table([row for number in range(6) for row in full(number, 5)])
    once, _ = paired(tmp_path / "a", rows, **ANY)
    monkeypatch.setattr(pair, "OUT_ROWS", 1)
    often, _ = paired(tmp_path / "b", rows, **ANY)
    assert once == often and len(once) == 60
    assert all(set(OUTCOME.names) <= set(row) for row in once)


def test_settings_of_the_recipe_and_wrong_ones() -> None:
    stated = {
        "branches": {
            "frames": {"similarity": {"min": 0.8, "max": 0.98}},
            "photos": {"similarity": {"min": None, "max": 0.98}},
        },
        "copy": {"face_correlation": {"max": 0.95}, "copy_similarity": {"max": 0.75}},
        "difference": {"yaw": 6, "pitch": 6, "expression": 0.25, "time_ms": 800},
        "per_identity": 20,
    }
    assert Pair(PairSettings.model_validate(stated), ENV).rules().photos.high == 0.98
    for wrong in ({"branches": {"photo": {}}}, {"copy_": {}}, {"per_identity": 0}, {"difference": {"yaw": -1}}):
        with pytest.raises(ValidationError):
            PairSettings.model_validate(wrong)


def test_brute_force_on_a_whole_table(tmp_path: Path) -> None:
    people = full(0, 12, spread=0.9) + full(1, 7, spread=0.9)
    stated = {**ANY, "branches": {"photos": {**OPEN, "similarity": {"min": 0.5, "max": 0.62}}}, "per_identity": 500}
    out, _ = paired(tmp_path, table(people), **stated)
    expected = {
        "~".join(sorted((a["id"], b["id"])))
        for a, b in combinations(people, 2)
        if a["identity"] == b["identity"] and 0.5 <= float(a["embedding"] @ b["embedding"]) <= 0.62
    }
    assert {row["id"] for row in kept(out)} == expected and expected


@pytest.mark.parametrize("column", ["expressions", "face_thumb", "embedding2"])
def test_who_else_is_read_with_a_person_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, column: str
) -> None:
    """A person of whom a column is empty is judged alike, whether or not those who have it are at hand."""
    rows = [row for number in range(3) for row in full(number, 5, 0)]
    for row in rows[5:]:
        row[column] = None
    photos = {"similarity": {"min": 0.3}, "similarity2": {"min": 0.1}}
    whole, _ = paired(tmp_path / "a", table(rows), branches={"photos": photos}, keep_rejects=1000)
    monkeypatch.setattr(grouped.by_identity, "__kwdefaults__", {"bucket_rows": 1})
    single, _ = paired(tmp_path / "b", table(rows), branches={"photos": photos}, keep_rejects=1000)
    # As text: where there is no second embedding, `value` is NaN.
    assert sorted(map(repr, whole)) == sorted(map(repr, single))
    assert kept(whole)
