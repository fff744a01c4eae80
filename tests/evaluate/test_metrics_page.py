"""docs/metrics.md has a row for every family, and says of it what the code says."""

from __future__ import annotations

from idtool.evaluate.metrics import METRICS
from tests.conftest import REPO


def in_words(low: float | None, high: float | None) -> str:
    if low is None:
        return "none" if high is None else f"to {high:g}"
    return f"from {low:g}" if high is None else f"{low:g} to {high:g}"


def test_every_family_has_its_row() -> None:
    lines = (REPO / "docs" / "metrics.md").read_text("utf-8").splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("| `")]
    rows = {row[0].strip("`"): row for row in cells if len(row) == 6}
    assert set(METRICS) <= set(rows)
    for name, family in METRICS.items():
        _, what, _, better, bounds, _ = rows[name]
        assert (better, bounds) == (family.better, in_words(*family.bounds)), name
        assert (family.per == "sample") != what.startswith(f"per {family.per}: "), name
