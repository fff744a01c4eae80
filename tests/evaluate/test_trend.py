"""The history of a store of nights."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from idtool.errors import UsageError
from idtool.evaluate.report.trend import trend, write_trend
from idtool.evaluate.report.trend_page import render
from idtool.evaluate.report_table import write_report_table
from tests.evaluate.fake_bench import MEANS, Made, build
from tests.evaluate.test_report_html import Page, rewrite

DAYS = ("2026-01-02", "2026-01-03", "2026-01-05", "2026-01-06")
FACESIM = "facesim/arcface-mbf"


@pytest.fixture(scope="module")
def night(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One benchmark, from which all nights are made."""
    means = {name: MEANS[name] for name in ("strong", "copy")}
    folder = build(tmp_path_factory.mktemp("night"), Made(identities=3, prompts=2, means=means, images=False))
    write_report_table(folder)
    return folder


@pytest.fixture
def store(night: Path, tmp_path: Path) -> Path:
    """Four nights, each 0.01 higher than the one before."""
    for k, day in enumerate(DAYS):
        publish(
            night,
            tmp_path,
            day,
            lambda row, k=k: row.update(mean=None if row["mean"] is None else row["mean"] + k / 100),
        )  # type: ignore[misc]
    return tmp_path


def publish(night: Path, store: Path, day: str, change: Callable[[dict[str, Any]], Any] | None = None) -> Path:
    folder = store / "suite=fake" / f"date={day}"
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(night / "report.parquet", folder)
    if change:
        rewrite(folder, "report.parquet", change)
    return folder


def series(found: Any, metric: str = FACESIM, method: str = "strong") -> list[dict[str, Any]]:
    return [row for row in found.rows if row["metric"] == metric and row["method"] == method]


def test_nights_in_order_with_changes(store: Path) -> None:
    rows = series(trend(str(store)))
    assert [row["date"] for row in rows] == list(DAYS)
    assert rows[0]["change"] is None and [row["segment"] for row in rows] == [0] * 4
    assert [row["change"] for row in rows[1:]] == pytest.approx([0.01] * 3)
    assert rows[0]["good"] is None


@pytest.mark.parametrize("column", ["fingerprint", "suite_hash"])
def test_a_jump_across_a_change_is_no_trend(night: Path, store: Path, column: str) -> None:
    def other(row: dict[str, Any]) -> None:
        if row["metric"] == FACESIM or column == "suite_hash":
            row[column] = "0" * 16

    for day in DAYS[2:]:
        publish(night, store, day, other)
    found = trend(str(store))
    rows = series(found)
    assert [row["segment"] for row in rows] == [0, 0, 1, 1]
    assert rows[2]["change"] is None and rows[3]["change"] == 0
    told = [one for one in found.breaks if one["metric"] == FACESIM]
    assert [one["date"] for one in told] == [DAYS[2]] and "→ 000000000000" in told[0]["why"]
    unbroken = [row["segment"] for row in series(found, "quality")]
    assert unbroken == ([0, 0, 1, 1] if column == "suite_hash" else [0] * 4)
    shown = Page(render(found))
    curves = [told for tag, told in shown.tags if tag == "path" and "curve" in str(told.get("class"))]
    breaks = [told for tag, told in shown.tags if tag == "line" and told.get("class") == "break"]
    panels = shown.count("figure")
    broken = panels if column == "suite_hash" else 2
    assert len(breaks) == broken and len(curves) == panels + broken


def test_a_night_without_the_method_is_a_gap(night: Path, store: Path) -> None:
    folder = publish(night, store, DAYS[1])
    table = pq.read_table(folder / "report.parquet")
    pq.write_table(table.filter(pa.compute.not_equal(table["method"], "strong")), folder / "report.parquet")
    found = trend(str(store))
    rows = series(found)
    assert [row["mean"] is None for row in rows] == [False, True, False, False]
    assert rows[2]["change"] == pytest.approx(0.02) and not found.breaks
    assert "no value" in Page(render(found)).text


def test_a_method_that_came_later_has_no_gap_before(night: Path, store: Path) -> None:
    folder = publish(night, store, DAYS[0])
    table = pq.read_table(folder / "report.parquet")
    pq.write_table(table.filter(pa.compute.not_equal(table["method"], "strong")), folder / "report.parquet")
    assert [row["date"] for row in series(trend(str(store)))] == list(DAYS[1:])


def test_bad_and_damaged_nights_are_told(store: Path) -> None:
    folder = store / "suite=fake" / f"date={DAYS[1]}"
    (folder / "status.json").write_text(json.dumps({"good": False}), "utf-8")
    (store / "suite=fake" / f"date={DAYS[3]}" / "report.parquet").write_bytes(b"not parquet")
    stray = store / "suite=fake" / "date=today"
    stray.mkdir()
    (stray / "report.parquet").write_bytes(b"")
    found = trend(str(store))
    rows = series(found)
    assert [(row["date"], row["good"]) for row in rows] == [(DAYS[0], None), (DAYS[1], False), (DAYS[2], None)]
    assert len(found.notes) == 2 and any(DAYS[3] in note for note in found.notes)
    text = Page(render(found)).text
    assert "not a good night" in text and "cannot be read" in text


def test_page_is_one_file_with_a_panel_for_each_series(store: Path, tmp_path: Path) -> None:
    target = tmp_path / "out" / "trend.html"
    assert write_trend(str(store), target) == target
    found = trend(str(store))
    text = target.read_text("utf-8")
    shown = Page(text)
    pairs = {(row["metric"], row["method"]) for row in found.rows}
    assert shown.count("figure") == len(pairs)
    bands = [told for tag, told in shown.tags if tag == "path" and "band" in str(told.get("class"))]
    with_interval = {(row["metric"], row["method"]) for row in found.rows if row["ci_low"] is not None}
    assert len(bands) == len(with_interval)
    assert "http:" not in text and "https:" not in text and "url(" not in text


def test_one_night_is_drawn(night: Path, tmp_path: Path) -> None:
    publish(night, tmp_path, DAYS[0])
    shown = Page(render(trend(str(tmp_path))))
    assert shown.count("circle") >= shown.count("figure") and "1 night," in shown.text


def test_choice_of_suite_metrics_and_methods(store: Path) -> None:
    found = trend(str(store), suite="fake", metrics=["facesim"], methods=["strong"])
    assert {row["metric"] for row in found.rows} == {"facesim/arcface-mbf", "facesim/edgeface-s"}
    assert {row["method"] for row in found.rows} == {"strong"}
    with pytest.raises(UsageError, match="what was asked for"):
        trend(str(store), metrics=["nothing"])
    with pytest.raises(UsageError, match="a night of other"):
        trend(str(store), suite="other")
    with pytest.raises(UsageError, match="a night of any suite"):
        trend(str(store / "nowhere"))


def test_any_file_system(store: Path) -> None:
    memory = fsspec.filesystem("memory")
    memory.put(str(store), "/nights", recursive=True)
    try:
        assert len(trend("memory://nights").rows) == len(trend(str(store)).rows)
    finally:
        memory.rm("/nights", recursive=True)


def test_profiles_are_never_joined(night: Path, store: Path) -> None:
    publish(night, store, DAYS[3], lambda row: row.update(profile="paper"))
    rows = series(trend(str(store)))
    assert [(row["profile"], row["date"]) for row in rows] == [
        *(("offline", day) for day in DAYS[:3]),
        ("paper", DAYS[3]),
    ]


def test_random_weights_are_told(night: Path, store: Path) -> None:
    manifest = json.loads((night / "bench.json").read_text("utf-8"))
    manifest["metrics"][FACESIM]["models"][0]["licence"] = "random weights"
    folder = store / "suite=fake" / f"date={DAYS[0]}"
    assert "plumbing" not in render(trend(str(store)))
    (folder / "bench.json").write_text(json.dumps(manifest), "utf-8")
    found = trend(str(store))
    assert found.random_weights == ["scrfd"] and "plumbing, not quality" in render(found)


def test_names_are_escaped(night: Path, tmp_path: Path) -> None:
    publish(night, tmp_path, DAYS[0], lambda row: row.update(method="<script>x</script>"))
    shown = Page(render(trend(str(tmp_path))))
    assert shown.count("script") == 1 and "<script>x</script>" in shown.text
