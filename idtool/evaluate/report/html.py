"""report.html: one file that holds its pictures, charts and styles, and asks nothing of the network."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import quote

from markupsafe import Markup, escape

from idtool.evaluate.report import board, cases, grids, numbers, pareto, views
from idtool.evaluate.report.data import SCORES
from idtool.evaluate.report.distributions import read_scores
from idtool.evaluate.report.pictures import BUDGET, Pictures

NAME = "report.html"
Data = Mapping[str, Any]


def render(data: Data, *, budget: int = BUDGET) -> str:
    """The page of `report_data`. Pictures take at most `budget` bytes of it. All that comes from data is escaped."""
    root = Path(data["bench"])
    scores = read_scores(root / SCORES)
    pictures = Pictures(root, budget)
    side_by_side = grids.grids(data, pictures, budget // 2)
    ends = cases.cases(data, scores, pictures, pictures.left)
    return page(
        "report.html.j2",
        data=data,
        boards=board.boards(data) if data["metrics"] else [],
        notes=board.notes(data),
        by_metric={one["name"]: one for one in data["metrics"]},
        verdicts=verdicts(data),
        trade=_trade(data),
        slices=views.slices(data),
        histograms=views.histograms(data, scores),
        grids=side_by_side,
        cases=ends,
        failures=views.failures(data),
        unscored=views.unscored(data),
        everything=views.everything(data),
        definitions=views.definitions(data),
        pictures=pictures.data,
    )


def page(template: str, **context: Any) -> str:
    """A template of this package as a page. Its only script is the one of this package; no other can run."""
    script = _source("sort.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    return str(
        _environment()
        .get_template(template)
        .render(style=Markup(_source("report.css")), script=Markup(script), policy=policy, **context)  # noqa: S704 - ours
    )


@cache
def _environment() -> Any:
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("idtool.evaluate"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters |= {
        "number": numbers.number,
        "seconds": numbers.seconds,
        "code": code,
        "link": quote,
        "day": lambda moment: str(moment or "")[:10],
    }
    environment.globals["count"] = numbers.count
    return environment


def code(text: str) -> Markup:
    """Text with what stands in backticks as code, the rest escaped."""
    parts = str(text).split("`")
    if len(parts) % 2 == 0:
        return escape(text)
    marked = (Markup("<code>{}</code>").format(part) if k % 2 else escape(part) for k, part in enumerate(parts))
    return Markup("").join(marked)


@cache
def _source(name: str) -> str:
    from importlib.resources import files

    return (files("idtool.evaluate") / "templates" / name).read_text("utf-8")


def verdicts(data: Data) -> list[dict[str, Any]]:
    """For each primary metric: `metric, better, best, mean, interval`, and `others` that cannot be told from the best.
    Nothing of random weights."""
    found = []
    by_name = {one["name"]: one for one in data["metrics"]}
    random = {one["name"] for one in data["methods"] if one["random"]}
    for name in data["primary"].values():
        rows = data["scores"][name]
        best = next((method for method, row in rows.items() if row["rank"] == 1 and not row["baseline"]), None)
        if best is None or by_name[name]["random"] or best in random:
            continue
        letters = set(rows[best]["letters"] or "")
        alike = [
            one["name"]
            for one in data["methods"]
            if one["name"] != best
            and (row := rows.get(one["name"]))
            and row["rank"] is not None
            and letters & set(row["letters"] or "")
        ]
        places = numbers.decimals(rows.values())
        told = {"mean": numbers.number(rows[best]["mean"], places), "interval": numbers.interval(rows[best], places)}
        found.append({"metric": name, "better": by_name[name]["better"], "best": best, "others": alike, **told})
    return found


def _trade(data: Data) -> dict[str, Any] | None:
    """The two metrics that are set against each other, the drawing, and the methods on the front."""
    across, up = data["primary"].get("identity"), data["against"]
    across = across or next((one["name"] for one in data["metrics"] if one["axis"] == "identity"), None)
    if across is None or up is None or across == up:
        return None
    by_name = {one["name"]: one for one in data["metrics"]}
    found = pareto.points(data, across, up)
    if len(found) < 2:
        return None
    better = (by_name[across]["better"], by_name[up]["better"])
    units = (by_name[across]["unit"], by_name[up]["unit"])
    return {
        "across": across,
        "up": by_name[up],
        "drawing": pareto.pareto(found, (across, up), better, units),
        "random": by_name[across]["random"] or by_name[up]["random"],
        "front": [point.name for point in pareto.front(found, better)],
    }
