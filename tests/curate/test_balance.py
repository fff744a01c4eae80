"""Quotas: exact on small tables, the better rows first, what is missing told, a hundred thousand rows in seconds."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from idtool.curate import quotas
from idtool.curate.balance import Balance, BalanceSettings
from idtool.engine.step import Env, TableContext
from idtool.engine.table import KeptRows
from idtool.errors import UsageError
from tests.curate import short_recipes
from tests.curate.tables import OFFLINE, joined, stored
from tests.zoo import Zoo
from tests.zoo.face_pack import drawn_person


def balanced(
    folder: Path, rows: pa.Table, seed: int = 0, **settings: Any
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The rows with their outcomes, in the table's order, and the step's statistics."""
    step = Balance(BalanceSettings.model_validate(settings), OFFLINE)
    step.reads({field.name: field for field in rows.schema})
    context = TableContext(run_dir=str(folder), step_dir=folder, seed=seed)
    out = joined(step.run(KeptRows(stored(folder / "in", rows, batch=7).path), context))
    assert [row["id"] for row in out] == rows["id"].to_pylist()
    return out, context.statistics


def table(**columns: Sequence[Any]) -> pa.Table:
    count = len(next(iter(columns.values())))
    return pa.table({"id": [f"{k:032x}" for k in range(count)], **columns})


def kept(rows: list[dict[str, Any]], *columns: str) -> Counter[Any]:
    taken = [row for row in rows if row["status"] == "kept"]
    return Counter(row[columns[0]] if len(columns) == 1 else tuple(row[name] for name in columns) for row in taken)


GENDER = ["male"] * 60 + ["female"] * 30 + [None] * 5


def test_uniform_without_a_total_takes_as_many_as_the_rarest_has(tmp_path: Path) -> None:
    rows, told = balanced(tmp_path, table(gender=GENDER), quotas=[{"columns": ["gender"], "target": "uniform"}])
    assert kept(rows, "gender") == {"male": 30, "female": 30}
    reasons = Counter(row["reason"] for row in rows if row["status"] == "rejected")
    assert reasons == {"balance.gender=male": 30, "balance.gender=unknown": 5}
    lost = next(row for row in rows if row["reason"] == "balance.gender=male")
    assert (lost["value"], lost["threshold"]) == (60.0, "<= 30")
    assert lost["message"] == "one of 60 rows of gender=male, of which 30 are kept at most"
    assert told == {
        "rows": 95,
        "kept": 60,
        "quotas": {
            "gender": {
                "female": {"supply": 30, "kept": 30, "wanted": 30},
                "male": {"supply": 60, "kept": 30, "wanted": 30},
                "unknown": {"supply": 5, "kept": 0, "wanted": 0},
            }
        },
        "unfilled": [],
    }


def test_what_cannot_be_filled_is_told(tmp_path: Path) -> None:
    quota = {"columns": ["gender"], "target": {"male": 0.25, "female": 0.5, "other": 0.25}}
    rows, told = balanced(tmp_path, table(gender=GENDER), total=100, quotas=[quota])
    assert kept(rows, "gender") == {"male": 25, "female": 30}
    assert told["unfilled"] == ["gender=female: 30 of 50", "gender=other: 0 of 25"]
    assert told["quotas"]["gender"]["other"] == {"supply": 0, "kept": 0, "wanted": 25, "short": 25}
    values = {"columns": ["gender"], "target": "uniform", "values": {"gender": ["female", "diverse"]}}
    rows, told = balanced(tmp_path / "b", table(gender=GENDER), total=40, quotas=[values])
    assert kept(rows, "gender") == {"female": 20} and told["unfilled"] == ["gender=diverse: 0 of 20"]


def test_caps_leave_the_rest_alone(tmp_path: Path) -> None:
    rows, told = balanced(tmp_path, table(gender=GENDER), quotas=[{"columns": ["gender"], "cap": {"male": 10}}])
    assert kept(rows, "gender") == {"male": 10, "female": 30, None: 5}
    assert told["quotas"]["gender"]["male"] == {"supply": 60, "kept": 10, "cap": 10} and told["unfilled"] == []
    rows, _ = balanced(tmp_path / "b", table(gender=GENDER), quotas=[{"columns": ["gender"], "cap": 20}])
    assert kept(rows, "gender") == {"male": 20, "female": 20, None: 5}


def test_numbers_fall_into_intervals(tmp_path: Path) -> None:
    age = [5.0, 17.9, 18.0, 29.0, 30.0, 60.0, 61.0, None, float("nan")]
    quota = {"columns": ["age"], "bins": {"age": [0, 18, 30, 60]}, "target": "uniform"}
    rows, told = balanced(tmp_path, table(age=age), quotas=[quota])
    assert {label: cell["supply"] for label, cell in told["quotas"]["age"].items()} == {
        "0..18": 2, "18..30": 2, "30..60": 2, "unknown": 3,
    }  # fmt: skip
    assert [row["status"] for row in rows] == ["kept"] * 6 + ["rejected"] * 3
    assert quotas.intervals([-90, -30, 30.5]) == ["-90..-30", "-30..30.5"]


def test_better_rows_go_first_and_chance_decides_between_equals(tmp_path: Path) -> None:
    quality = np.random.default_rng(0).permutation(60) / 60
    rows = table(gender=["male"] * 60, face_quality=quality)
    quota = [{"columns": ["gender"], "cap": 20}]
    out, _ = balanced(tmp_path / "a", rows, quotas=quota, prefer="face_quality")
    assert sorted(row["face_quality"] for row in out if row["status"] == "kept") == sorted(quality)[40:]
    missing = table(gender=["male"] * 4, face_quality=[None, 0.1, None, 0.2])
    out, _ = balanced(tmp_path / "b", missing, quotas=[{"columns": ["gender"], "cap": 2}], prefer="face_quality")
    assert [row["status"] for row in out] == ["rejected", "kept", "rejected", "kept"]
    drawn = [
        frozenset(
            row["id"] for row in balanced(tmp_path / f"s{k}", rows, seed=k, quotas=quota)[0] if row["status"] == "kept"
        )
        for k in (1, 1, 2)
    ]
    assert drawn[0] == drawn[1] != drawn[2] and {len(found) for found in drawn} == {20}


def test_several_quotas_hold_side_by_side(tmp_path: Path) -> None:
    random = np.random.default_rng(3)
    rows = table(
        gender=random.choice(["male", "female"], 2000, p=[0.8, 0.2]).tolist(),
        expression=random.choice(["happy", "neutral", "sad"], 2000, p=[0.7, 0.28, 0.02]).tolist(),
    )
    wanted = [{"columns": ["gender"], "target": "uniform"}, {"columns": ["expression"], "cap": 150}]
    out, told = balanced(tmp_path, rows, total=300, quotas=wanted)
    assert kept(out, "gender") == {"male": 150, "female": 150} and not told["unfilled"]
    expressions = kept(out, "expression")
    # The scarce ones are not crowded out by the common ones.
    assert expressions["sad"] == Counter(rows["expression"].to_pylist())["sad"] and max(expressions.values()) <= 150
    reasons = {row["reason"] for row in out if row["status"] == "rejected"}
    assert reasons <= {f"balance.gender={g}" for g in ("male", "female")} | {
        "balance.expression=happy",
        "balance.expression=neutral",
    }
    # Nothing could be added.
    room_gender = {g for g, n in kept(out, "gender").items() if n < 150}
    assert not [
        row
        for row in out
        if row["status"] == "rejected" and row["gender"] in room_gender and expressions[row["expression"]] < 150
    ]
    assert told["kept"] == sum(expressions.values())


def test_crossed_columns_count_their_combinations(tmp_path: Path) -> None:
    rows = table(gender=["m", "m", "m", "f", "f", None], smile=[True, True, False, True, None, True])
    out, told = balanced(tmp_path, rows, total=4, quotas=[{"columns": ["gender", "smile"], "target": "uniform"}])
    cells = told["quotas"]["gender/smile"]
    assert cells["m/true"] == {"supply": 2, "kept": 1, "wanted": 1} and cells["f/false"]["short"] == 1
    assert cells["f/unknown"] == {"supply": 1, "kept": 0, "wanted": 0}
    assert told["unfilled"] == ["gender/smile=f/false: 0 of 1"]
    assert sorted(row["reason"] for row in out if row["reason"]) == [
        "balance.gender/smile=f/unknown", "balance.gender/smile=m/true", "balance.gender/smile=unknown/true",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("quota", "message"),
    [
        ({"columns": ["a"]}, "either target or cap"),
        ({"columns": ["a"], "target": "uniform", "cap": 3}, "either target or cap"),
        ({"columns": ["a"], "target": {"x": 0.5}}, "Their sum is 0.5"),
        ({"columns": ["a"], "target": {"x": 1.5, "y": -0.5}}, "at least 0"),
        ({"columns": ["a"], "cap": -1}, "at least 0"),
        ({"columns": ["a"], "cap": 1, "bins": {"b": [0, 1]}}, "not among"),
        ({"columns": ["a"], "cap": 1, "bins": {"a": [1, 0]}}, "rising"),
        ({"columns": []}, "at least 1"),
    ],
)
def test_quotas_that_make_no_sense(quota: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        BalanceSettings.model_validate({"quotas": [quota]})


def test_columns_are_checked_before_anything_runs() -> None:
    available = {
        name: pa.field(name, kind)
        for name, kind in (("gender", pa.string()), ("age", pa.float32()), ("id", pa.string()))
    }

    def step(*quota: dict[str, Any], **settings: Any) -> Balance:
        return Balance(BalanceSettings.model_validate({"quotas": list(quota), **settings}), Env("bare", {}))

    with pytest.raises(UsageError, match="'gendre', which no step before it writes"):
        step({"columns": ["gendre"], "cap": 1}).reads(available)
    with pytest.raises(UsageError, match="its values make no cells"):
        step({"columns": ["age"], "cap": 1}).reads(available)
    with pytest.raises(UsageError, match="Bins are given for column 'gender'"):
        step({"columns": ["gender"], "cap": 1, "bins": {"gender": [0, 1]}}).reads(available)
    partly = step({"columns": ["gender"], "cap": 1}, {"columns": ["ethnicity"], "cap": 1}, prefer="face_quality")
    partly.missing = {"ethnicity": "needs role attributes", "face_quality": "needs role quality"}
    assert partly.skip_reason() is None and partly.reads(available) == ("id", "gender")
    assert partly.notes() == [
        "quota ethnicity is left out: needs role attributes",
        "face_quality decides nothing: needs role quality",
    ]
    none = step({"columns": ["ethnicity"], "cap": 1})
    none.missing = partly.missing
    assert none.skip_reason() == "quota ethnicity is left out: needs role attributes"


def test_shares_become_whole_numbers() -> None:
    assert quotas.shared_out(10, np.array([1 / 3] * 3)).tolist() == [4, 3, 3]
    assert quotas.shared_out(7, np.array([0.5, 0.25, 0.25])).tolist() == [3, 2, 2]
    assert quotas.shared_out(0, np.array([0.5, 0.5])).tolist() == [0, 0]
    assert quotas.largest_total(np.array([10, 0, 40]), np.array([0.5, 0.25, 0.25])) == 20


def test_a_hundred_thousand_rows_take_seconds(tmp_path: Path) -> None:
    count, random = 100_000, np.random.default_rng(0)
    rows = pa.table(
        {
            "id": [f"{k:032x}" for k in range(count)],
            "gender": random.choice(["male", "female"], count, p=[0.7, 0.3]),
            "ethnicity": random.choice(list("abcdef"), count),
            "age": random.normal(35, 15, count),
            "yaw": random.normal(0, 25, count),
            "face_quality": random.random(count),
        }
    )
    source = stored(tmp_path / "in", rows, batch=8192)
    settings = {
        "total": 40_000,
        "prefer": "face_quality",
        "quotas": [
            {"columns": ["gender"], "target": "uniform"},
            {"columns": ["ethnicity"], "target": "uniform"},
            {"columns": ["age"], "bins": {"age": [0, 18, 30, 45, 60, 120]}, "cap": 12_000},
            {"columns": ["yaw"], "bins": {"yaw": [-90, -30, -10, 10, 30, 90]}, "cap": 12_000},
        ],
    }
    step = Balance(BalanceSettings.model_validate(settings), OFFLINE)
    context = TableContext(run_dir=str(tmp_path), step_dir=tmp_path)
    started = time.perf_counter()
    counts = Counter(
        status for batch in step.run(KeptRows(source.path), context) for status in batch["status"].to_pylist()
    )
    seconds = time.perf_counter() - started
    assert counts.total() == count and counts["kept"] > 35_000 and seconds < 30, (counts, seconds)


def test_through_the_command_line(tiny: Zoo, tmp_path: Path) -> None:
    folder = tmp_path / "people"
    for person, shots in (("anna", 3), ("bert", 1)):
        (folder / person).mkdir(parents=True)
        for shot in range(shots):
            Image.fromarray(drawn_person(len(person) + shots, shot)).save(folder / person / f"{shot}.png")
    wanted = [{"step": "ingest"}, {"step": "balance", "quotas": [{"columns": ["group"], "target": "uniform"}]}]
    config = short_recipes.write(tmp_path, tiny, wanted, "faces")
    run = short_recipes.curate(config, tmp_path / "run", folder)
    entry = run.entry("balance")
    assert (entry["kept"], entry["reasons"]) == (2, {"balance.group=anna": 2})
    assert entry["statistics"]["quotas"]["group"]["anna"] == {"supply": 3, "kept": 1, "wanted": 1}
