from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from idtool.curate.gate import Bound, Gate, GateSettings, judge
from idtool.errors import UsageError
from tests.curate.tables import OFFLINE, run, stored

ROWS = pa.table(
    {
        "id": ["a", "b", "c", "d", "e", "f"],
        "short_side": pa.array([768, 767, None, 900, 900, 900], pa.int32()),
        "yaw": pa.array([-60, 0, 0, math.nan, -61, 10], pa.float32()),
        "clipped": pa.array([0.4] * 6, pa.float32()),
        "format": ["jpeg", "jpeg", "png", "jpeg", "jpeg", "gif"],
        "faces": pa.array([1, 1, 1, 1, 1, 2], pa.int32()),
    }
)
AVAILABLE = {field.name: field for field in ROWS.schema}


def gate(**gates: Any) -> Gate:
    return Gate(GateSettings.model_validate(gates), OFFLINE)


def test_every_row_has_the_reason_value_and_bound_it_failed_by(tmp_path: Path) -> None:
    step = gate(
        resolution={"short_side": {"min": 768}},
        pose={"yaw": {"abs_max": 60}, "clipped": {"max": 0.4}},
        kind={"format": {"one_of": ["jpeg", "png"]}},
        one_face={"faces": {"equals": 1}},
    )
    rows = run(step, stored(tmp_path / "t", ROWS, batch=4), tmp_path)
    found = {key: (row["status"], row["reason"], row["value"], row["threshold"]) for key, row in rows.items()}
    assert found["a"] == ("kept", None, None, None)
    assert found["b"] == ("rejected", "resolution.short_side", 767.0, ">= 768")
    assert found["c"] == ("rejected", "resolution.short_side", None, ">= 768")
    assert found["d"][:2] == ("rejected", "pose.yaw") and math.isnan(found["d"][2])
    assert found["e"] == ("rejected", "pose.yaw", -61.0, "|x| <= 60")
    assert found["f"] == ("rejected", "kind.format", None, "one of jpeg, png")
    assert rows["b"]["message"] == "short_side is 767, must be >= 768"
    assert rows["c"]["message"] == "no value for short_side, must be >= 768"
    assert rows["f"]["message"] == "format is gif, must be one of jpeg, png"


def test_the_first_failing_gate_in_order_decides() -> None:
    row = ROWS.slice(5, 1)
    first = judge(row, gate(kind={"format": {"equals": "jpeg"}}, one_face={"faces": {"equals": 1}}).checks())
    second = judge(row, gate(one_face={"faces": {"equals": 1}}, kind={"format": {"equals": "jpeg"}}).checks())
    assert (first["reason"].to_pylist(), second["reason"].to_pylist()) == (["kind.format"], ["one_face.faces"])


@pytest.mark.parametrize(
    ("bound", "passing"),
    [
        ({"min": 0.1}, [True, True, False, False]),
        ({"max": 0.1}, [True, False, False, False]),
        ({"equals": 0.1}, [True, False, False, False]),
        ({"one_of": [0.1, 7]}, [True, True, False, False]),
        ({"not_null": True}, [True, True, False, False]),
        ({"min": 0.2, "max": 6}, [False, False, False, False]),
    ],
)
def test_bounds_on_float32_treat_a_stored_bound_as_equal_and_nan_and_null_as_failing(
    bound: dict[str, Any], passing: list[bool]
) -> None:
    values = pa.table({"x": pa.array([0.1, 7, math.nan, None], pa.float32())})
    judged = judge(values, [("g", "x", Bound.model_validate(bound))])
    assert [status == "kept" for status in judged["status"].to_pylist()] == passing


def test_booleans_and_lists_can_be_judged() -> None:
    rows = pa.table({"ok": [True, False, None], "box": pa.array([[1.0], None, [2.0]], pa.list_(pa.float32()))})
    judged = judge(rows, gate(a={"ok": {"equals": True}}, b={"box": {"not_null": True}}).checks())
    assert judged["reason"].to_pylist() == [None, "a.ok", "a.ok"]
    assert judged["value"].to_pylist() == [None, 0.0, None]
    judged = judge(rows, gate(b={"box": {"not_null": True}}).checks())
    assert judged["message"].to_pylist() == [None, "no value for box, must be not null", None]


@given(
    st.lists(st.one_of(st.none(), st.floats(width=32)), min_size=1, max_size=40),
    st.floats(-100, 100, width=32),
    st.floats(-100, 100, width=32),
)
def test_min_and_max_agree_with_plain_comparison(values: list[float | None], a: float, b: float) -> None:
    low, high = min(a, b), max(a, b)
    table = pa.table({"x": pa.array(values, pa.float32())})
    judged = judge(table, [("g", "x", Bound(min=low, max=high))])
    expected = [value is not None and low <= value <= high for value in values]
    assert [status == "kept" for status in judged["status"].to_pylist()] == expected


def test_a_misspelt_column_is_refused_with_the_right_one() -> None:
    with pytest.raises(UsageError, match=r"Gate 'resolution' judges column 'shortside'.*Did you mean 'short_side'"):
        gate(resolution={"shortside": {"min": 768}}).reads(AVAILABLE)


def test_text_is_not_held_against_a_number() -> None:
    with pytest.raises(UsageError, match="it is string"):
        gate(kind={"format": {"min": 3}}).reads(AVAILABLE)


def test_a_column_that_the_profile_cannot_make_is_left_out_with_the_reason() -> None:
    step = gate(aesthetic={"aesthetic": {"min": 5.2}}, pose={"yaw": {"abs_max": 60}})
    step.missing = {"aesthetic": "needs role aesthetic; profile offline binds none"}
    assert step.reads(AVAILABLE) == ("yaw",)
    assert step.skip_reason() is None
    note = "gate aesthetic.aesthetic is skipped: needs role aesthetic; profile offline binds none"
    assert step.notes() == [note]
    alone = gate(aesthetic={"aesthetic": {"min": 5.2}})
    alone.missing = step.missing
    assert alone.skip_reason() == note


def test_a_null_bound_switches_a_check_off() -> None:
    step = gate(clarity={"clipped": {"min": None}}, pose={"yaw": {"abs_max": 60}})
    assert [column for _, column, _ in step.checks()] == ["yaw"]


@pytest.mark.parametrize(
    "bad",
    [{}, {"a": {}}, {"a": {"x": {}}}, {"a": {"x": {"mim": 1}}}, {"a": {"x": {"min": 2, "max": 1}}}, {"a": 3}],
)
def test_wrong_settings_are_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        GateSettings.model_validate(bad)


def test_settings_survive_being_written_and_read() -> None:
    settings = GateSettings.model_validate({"pose": {"yaw": {"abs_max": 60}, "pitch": {"min": None}}})
    assert GateSettings.model_validate(settings.model_dump(mode="json")) == settings


def test_an_empty_table_stays_one(tmp_path: Path) -> None:
    assert run(gate(pose={"yaw": {"abs_max": 60}}), stored(tmp_path / "t", ROWS.slice(0, 0)), tmp_path) == {}
