"""Tuning against a brute-force recount over the stored rows."""

from __future__ import annotations

import copy
import shutil
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from idtool.curate.sweeps import parse
from idtool.curate.tune import tune
from idtool.errors import UsageError
from idtool.run import Run
from tests.curate import fake_run

STEPS = ("gate", "gate.2", "gate.3")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fake_run.make_run(tmp_path_factory.mktemp("tune"), photos=8, frames=12, seed=3)


def rows(run: Path, step: str) -> list[dict]:
    return Run(run).step_table(step).read().to_pylist()


def changed(step: str, gate: str, column: str, bound: str, value: float, gates: dict | None = None) -> dict:
    gates = copy.deepcopy(gates or fake_run.GATES)
    gates[step].setdefault(gate, {}).setdefault(column, {})[bound] = value
    return gates


def recount(run: Path, gates: dict) -> dict:
    """Follow every row by hand: certain to stay, or let in where the run did not look further."""
    kept = {row["id"] for row in rows(run, "identify")}
    identity = {row["id"]: row["identity"] for row in rows(run, "identify")}
    swept = [step for step in STEPS if gates[step] != fake_run.GATES[step]]
    certain, unknown = set(), 0
    passed_all = set(kept)
    for step in swept:
        now = {row["id"] for row in rows(run, step) if fake_run.failure(row, gates[step]) is None}
        passed_all &= now
    certain = passed_all
    reached: set[str] | None = None
    for step in swept:
        table = rows(run, step)
        here = {row["id"] for row in table} if reached is None else {row["id"] for row in table} & reached
        now = {row["id"] for row in table if row["id"] in here and fake_run.failure(row, gates[step]) is None}
        before = {row["id"] for row in table if row["status"] == "kept"}
        unknown += len(now - before)
        reached = now
    return {"kept": len(certain), "unknown": unknown, "identities": len({identity[key] for key in certain})}


@pytest.mark.parametrize(
    ("sweep", "step", "gate", "column", "bound"),
    [
        ("sharpness.min=10:90:8", "gate.2", "clarity", "sharpness", "min"),
        ("clarity.min=10,30,50", "gate.2", "clarity", "sharpness", "min"),
        ("gate.2.exposure.brightness.max=0.3:0.9:0.1", "gate.2", "exposure", "brightness", "max"),
        ("yaw.abs_max=0:80:10", "gate.3", "pose", "yaw", "abs_max"),
        ("nsfw.nsfw.max=0.1,0.3,0.6", "gate.3", "nsfw", "nsfw", "max"),
        ("face.face_score.max=0.7,0.9", "gate.3", "face", "face_score", "max"),
        ("short_side.min=50,200,400", "gate", "resolution", "short_side", "min"),
        ("faces.equals=0,1", "gate.3", "one_face", "faces", "equals"),
    ],
)
def test_a_curve_is_a_recount(run, sweep, step, gate, column, bound):
    (curve,) = tune(run, [sweep])["curves"]
    assert (curve["step"], curve["gate"], curve["column"], curve["bound"]) == (step, gate, column, bound)
    assert curve["configured"] == fake_run.GATES[step][gate][column].get(bound)
    table = rows(run, step)
    for point in curve["points"]:
        gates = changed(step, gate, column, bound, point["value"])
        alone = {"g": {column: {bound: point["value"]}}}
        assert point["measured"] == len(table)
        assert point["passing"] == sum(fake_run.failure(row, alone) is None for row in table)
        assert point["at_step"] == sum(fake_run.failure(row, gates[step]) is None for row in table)
        assert {key: point[key] for key in ("kept", "unknown", "identities")} == recount(run, gates)


def test_the_configured_value_gives_what_the_run_kept(run):
    for sweep in ("sharpness.min=20", "yaw.abs_max=60", "face_score.min=0.6", "short_side.min=200"):
        (curve,) = tune(run, [sweep])["curves"]
        (point,) = curve["points"]
        assert point["kept"] == Run(run).entry("identify")["kept"]
        assert point["unknown"] == 0


@pytest.mark.parametrize(
    "sweeps",
    [
        [("sharpness.min=10:70:20", "gate.2", "clarity"), ("yaw.abs_max=20:80:20", "gate.3", "pose")],
        [("yaw.abs_max=20,60,90", "gate.3", "pose"), ("nsfw.max=0.2,0.6", "gate.3", "nsfw")],
        [
            ("short_side.min=50,300", "gate", "resolution"),
            ("sharpness.min=10,40", "gate.2", "clarity"),
            ("nsfw.max=0.2,0.6", "gate.3", "nsfw"),
        ],
    ],
)
def test_joint_yields_are_recounts(run, sweeps):
    result = tune(run, [text for text, _, _ in sweeps])
    cells = 1
    for curve in result["curves"]:
        cells *= len(curve["points"])
    assert len(result["joint"]) == cells
    for cell in result["joint"]:
        gates = None
        for text, step, gate in sweeps:
            name = text.partition("=")[0]
            column, bound = name.split(".")
            gates = changed(step, gate, column, bound, cell["values"][name], gates)
        assert {key: cell[key] for key in ("kept", "unknown", "identities")} == recount(run, gates)


def test_the_last_step_before_the_pairs_knows_all_it_keeps(tmp_path):
    """A run that stopped after its gates: nothing later could still reject what a looser bound lets in."""
    run = fake_run.make_run(tmp_path)
    opened = Run(run)
    opened.save(steps=opened.steps[:8])
    (curve,) = tune(run, ["yaw.abs_max=10,60,90"])["curves"]
    for point in curve["points"]:
        assert point["kept"] == point["at_step"]
        assert point["unknown"] == 0
        assert point["identities"] is None


def test_bounds_are_compared_as_the_column_stores_them(run):
    value = rows(run, "gate.3")[0]["nsfw"]
    (curve,) = tune(run, [f"nsfw.max={round(value, 8)}"])["curves"]
    brute = [row for row in rows(run, "gate.3") if row["nsfw"] <= pa.scalar(round(value, 8), pa.float32()).as_py()]
    assert curve["points"][0]["passing"] == len(brute)


@pytest.mark.parametrize(
    ("sweep", "column", "branch"),
    [
        ("pair.photos.similarity.min=0.3:0.9:0.1", "similarity", "photos"),
        ("photos.similarity.max=0.5,0.9,1", "similarity", "photos"),
    ],
)
def test_pair_bounds_are_judged_on_stored_candidates(run, sweep, column, branch):
    result = tune(run, [sweep])
    (curve,) = result["curves"]
    assert any("candidates" in note for note in result["notes"])
    table = [row for row in rows(run, "pair") if row["branch"] == branch]
    reason = {"min": "pair.similarity.low", "max": "pair.similarity.high"}[curve["bound"]]
    for point in curve["points"]:
        open_to_it = [row for row in table if row["status"] == "kept" or row["reason"] == reason]
        good = [row for row in open_to_it if fake_run.holds(row[column], curve["bound"], point["value"])]
        assert point["kept"] == len(good)
        assert point["identities"] == len({row["identity"] for row in good})


def paired(run: Path, folder: Path, settings: dict, rows: list[dict]) -> Path:
    """A copy of the run whose pairing has these settings and rows."""
    shutil.copytree(run, folder)
    opened = Run(folder)
    opened.entry("pair")["own"]["settings"] = settings
    opened.save()
    table = opened.step_table("pair")
    pq.write_table(pa.Table.from_pylist(rows, schema=table.schema), table.files[0])
    return folder


def test_a_copy_bound_judges_only_what_the_step_held_against_it(run, tmp_path):
    settings = {
        "branches": {
            "frames": {"similarity": {"min": 0.8}, "copy": {"face_correlation": {"max": 0.95}, "above": 0.88}},
            "photos": {"similarity": {"min": 0.4}, "copy": None},
        },
        "copy": {"face_correlation": {"max": 0.9}, "above": 0.75},
    }
    template = next(row for row in rows(run, "pair") if row["status"] == "kept")
    table = [
        template | {"id": f"{number:02d}~{number:02d}", "branch": branch, "similarity": similarity,
                    "face_correlation": correlation, "status": status,
                    "reason": None if status == "kept" else "pair.copy.face_correlation"}
        for number, (branch, similarity, correlation, status) in enumerate([
            ("photos", 0.5, 0.97, "kept"),  # not alike enough to be held for a copy
            ("mixed", 0.8, 0.85, "kept"),
            ("photos", 0.8, 0.93, "rejected"),
            ("photos", 0.8, None, "kept"),  # nothing to compare
            ("frames", 0.85, 0.99, "kept"),
            ("edits", 0.9, 0.94, "kept"),
            ("frames", 0.9, 0.96, "rejected"),
        ])
    ]  # fmt: skip
    changed = paired(run, tmp_path / "run", settings, table)
    (shared,) = tune(changed, ["copy.face_correlation.max=0.8,0.9,0.95"])["curves"]
    assert (shared["gate"], shared["configured"]) == ("copy", 0.9)
    assert [point["kept"] for point in shared["points"]] == [2, 3, 4]
    (own,) = tune(changed, ["frames.copy.face_correlation.max=0.9,0.95,0.97"])["curves"]
    assert (own["gate"], own["configured"]) == ("branches.frames.copy", 0.95)
    assert [point["kept"] for point in own["points"]] == [1, 2, 3]


def test_nothing_of_the_model_stack_is_imported(run):
    heavy = {"onnxruntime", "torch", "openvino", "ai_edge_litert", "cv2"}
    before = heavy & set(sys.modules)
    tune(run, ["sharpness.min=10:90:1"])
    assert heavy & set(sys.modules) == before


@pytest.mark.parametrize(
    ("sweep", "message"),
    [
        ("sharpness", "not a sweep"),
        ("sharpness.mim=1,2", "Did you mean 'min'"),
        ("sharpness.min=1:2", "start:stop:step"),
        ("sharpness.min=2:1:0.5", "does not lead"),
        ("sharpness.min=1:2:0", "does not lead"),
        ("sharpness.min=a,b", "could not convert"),
        ("sharpness.min=nan", "finite"),
        ("sharpness.min=0:1:0.00001", "more than 1000"),
        ("sharpnes.min=1", "clarity.sharpness"),
        ("gate.aesthetic.min=5", "no threshold"),
    ],
)
def test_bad_sweeps_are_told(run, sweep, message):
    with pytest.raises(UsageError, match=message):
        tune(run, [sweep])


def test_a_gate_whose_column_was_not_measured_says_why(tmp_path):
    run = fake_run.make_run(tmp_path)
    opened = Run(run)
    entry = opened.entry("gate.3")
    entry["own"]["settings"]["aesthetic"] = {"aesthetic": {"min": 5.2}}
    entry["notes"] = ["gate aesthetic.aesthetic is skipped: needs role aesthetic"]
    opened.save(steps=opened.steps)
    with pytest.raises(UsageError, match="needs role aesthetic"):
        tune(run, ["aesthetic.min=4.5:6.5:0.1"])
    assert tune(run, ["yaw.abs_max=60"])["curves"][0]["points"][0]["kept"] == Run(run).entry("identify")["kept"]


def test_one_column_in_two_gates_must_be_named(tmp_path):
    run = fake_run.make_run(tmp_path)
    opened = Run(run)
    opened.entry("gate.3")["own"]["settings"]["again"] = {"sharpness": {"min": 21}}
    opened.save(steps=opened.steps)
    with pytest.raises(UsageError, match=r"gate\.2\.clarity\.sharpness.*gate\.3\.again\.sharpness"):
        tune(run, ["sharpness.min=20"])
    assert tune(run, ["again.sharpness.min=20"])["curves"][0]["step"] == "gate.3"


def test_ranges_hold_both_ends():
    assert parse("a.min=4.5:4.8:0.1").values == (4.5, 4.6, 4.7, 4.8)
    assert parse("a.max=1:-1:-0.5").values == (1.0, 0.5, 0.0, -0.5, -1.0)
    assert parse("a.b.abs_max=3,1").values == (3.0, 1.0)


def test_rows_that_failed_in_the_step_never_pass(tmp_path):
    run = fake_run.make_run(tmp_path)
    table = Run(run).step_table("gate.3")
    content = table.read()
    status = content["status"].to_pylist()
    lost = next(index for index, value in enumerate(status) if value == "rejected")
    status[lost] = "error"
    pq.write_table(content.set_column(content.column_names.index("status"), "status", pa.array(status)), table.files[0])
    (curve,) = tune(run, ["yaw.abs_max=180"])["curves"]
    assert curve["points"][0]["measured"] == len(status) - 1
