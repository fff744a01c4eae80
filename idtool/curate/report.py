"""The report of a run: one HTML file that holds its pictures, charts and styles, and asks nothing of the network."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from markupsafe import Markup, escape

from idtool.curate import charts, gallery, preference_gallery, record_gallery
from idtool.curate.report_data import report_data
from idtool.media.thumbnails import Thumbnails
from idtool.run import Run

NAME = "report.html"


def write_report(run: Path) -> Path:
    """Write `RUN/report.html` from what is finished in the run, replacing an earlier one; returns its path."""
    opened = Run(run)
    html = render(opened)
    target = opened.path / NAME
    temporary = target.with_name(f".{NAME}.{os.getpid()}.tmp")
    try:
        temporary.write_text(html, encoding="utf-8")
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)
    return target


def render(run: Run) -> str:
    """The report as HTML. Everything that comes from data is escaped."""
    import jinja2

    data = report_data(run.path)
    thumbnails = Thumbnails(run.store_root)
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("idtool.curate"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters |= {
        "number": charts.number,
        "seconds": charts.seconds,
        "percent": percent,
        "code": code,
        "signs": signs,
    }
    widest = max([line["rows_in"] for line in data["funnel"]] + [line["kept"] for line in data["funnel"]] + [1])
    return environment.get_template("report.html.j2").render(
        data=data,
        title=title(data),
        widest=widest,
        slowest=max([line["seconds"] for line in data["funnel"]] + [1e-9]),
        most=max([line["count"] for line in data["reasons"]] + [1]),
        pairs=gallery.kept_pairs(run, thumbnails),
        records=record_gallery.kept_records(run, thumbnails),
        preferences=preference_gallery.kept_preferences(run, thumbnails),
        scores=scores_page(run),
        rejects=gallery.rejects(run, thumbnails, data["reasons"]),
        histogram=charts.histogram,
        sizes=charts.sizes,
    )


def scores_page(run: Run) -> str | None:
    """Where the report of step `score` lies, relative to this one."""
    places = (entry.get("statistics", {}).get("report") for entry in run.steps if entry["kind"] == "score")
    return next((place for place in places if place and (run.path / place).is_file()), None)


def title(data: Mapping[str, Any]) -> str:
    """The verdict in one line."""
    found = data["verdict"]
    unfinished = any(item["what"] in ("failed", "not finished") for item in data["skipped"])
    return _counted(found) + (", not finished" if unfinished else "")


def _counted(found: Mapping[str, Any]) -> str:
    # Recipes that begin with words have no inputs.
    origin = f" from {charts.number(found['inputs'])} {plural(found['inputs'], 'input')}" if found["inputs"] else ""
    people = f"{charts.number(found['identities'])} {'person' if found['identities'] == 1 else 'people'}"
    for noun in ("pair", "record", "preference"):
        rows = found[f"{noun}s"]
        noun = "preference pair" if noun == "preference" else noun
        if rows is not None:
            return f"{charts.number(rows)} {plural(rows, noun)} of {people}{origin}"
    return f"{charts.number(found['images'])} {plural(found['images'], 'image')} kept{origin}"


def code(text: str) -> Markup:
    """Text with what stands in backticks as code, the rest escaped."""
    parts = str(text).split("`")
    if len(parts) % 2 == 0:
        return escape(text)
    marked = (Markup("<code>{}</code>").format(part) if index % 2 else escape(part) for index, part in enumerate(parts))
    return Markup("").join(marked)


def signs(threshold: str) -> str:
    """`|x| <= 60` -> `|x| ≤ 60`."""
    return threshold.replace("<=", "≤").replace(">=", "≥").replace("==", "=").replace(" ", "\u00a0")


def plural(count: int, word: str) -> str:
    return word if count == 1 else f"{word}s"


def percent(share: float | None) -> str:
    """`0.034` -> `3.4 %`."""
    if share is None:
        return "–"
    return f"{share * 100:.1f} %" if share < 0.995 else f"{share * 100:.0f} %"
