"""Reports of a benchmark: one table, one page, one text; its history; and what sends it elsewhere."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from idtool.evaluate.report.data import report_data


def write_reports(bench: Path, *, seed: int = 0, derived: Mapping[str, Any] | None = None) -> dict[str, Path]:
    """Write report.parquet, pairs.parquet, report.html and report.md of a benchmark, replacing earlier ones; returns
    them by name. `seed`: of resampling. `derived`: as `report_table.write_report_table` takes it. UsageError where
    nothing is scored."""
    from idtool.evaluate.report_table import write_report_table

    table = write_report_table(bench, seed=seed, derived=derived)
    return {table.name: table, **write_pages(bench)}


def write_pages(bench: Path, *, budget: int | None = None) -> dict[str, Path]:
    """Write report.html and report.md from the tables that are there. `budget`: bytes of pictures in the page."""
    from idtool.evaluate.report import html, markdown

    data = report_data(bench)
    page = html.render(data) if budget is None else html.render(data, budget=budget)
    texts = {html.NAME: page, markdown.NAME: markdown.render(data)}
    return {name: _write(Path(bench) / name, text) for name, text in texts.items()}


def leaderboard(bench: Path) -> dict[str, dict[str, dict[str, Any]]]:
    """Metric -> method -> `mean, ci_low, ci_high, n, n_missing, rank, letters, baseline, conditions_on_same`, both in
    the order of the report."""
    data = report_data(bench)
    keys = ("mean", "ci_low", "ci_high", "n", "n_missing", "rank", "letters", "baseline", "conditions_on_same")
    order = [one["name"] for one in data["methods"]]
    return {
        metric: {name: {key: rows[name][key] for key in keys} for name in order if name in rows}
        for metric, rows in data["scores"].items()
    }


def _write(target: Path, text: str) -> Path:
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        temporary.write_text(text, encoding="utf-8", errors="surrogateescape")
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)
    return target
