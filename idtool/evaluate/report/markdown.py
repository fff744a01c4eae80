"""report.md: the leaderboard and what must be known of it, as Markdown tables."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from idtool.evaluate.report import board, numbers, views

NAME = "report.md"
Data = Mapping[str, Any]
_SPECIAL = re.compile(r"([\\`*_{}\[\]<>|#~$&])")


def render(data: Data) -> str:
    """The text of `report_data`. All that comes from data is escaped: it stays text in any Markdown."""
    suite = data["suite"]
    lines = [f"# {escape(suite.get('name') or 'Benchmark')}", ""]
    if suite.get("summary"):
        lines += [escape(suite["summary"]), ""]
    if data["random_weights"]:
        told = escape(", ".join(data["random_weights"]))
        lines += [f"> **Random weights: these numbers are plumbing, not quality.** {told}", ""]
    lines += [_head(data), ""]
    lines += _boards(data)
    lines += _section("Metrics that this profile cannot make", data["skipped"].items(), ("Metric", "Why"))
    lines += _failures(data)
    lines += _section(
        "Metrics",
        ((one["name"], _definition(one), one["mdd"] or "–", (one["fingerprint"] or "–")[:16])
         for one in views.definitions(data)),
        ("Metric", "What it is", "Detectable difference", "Fingerprint"),
    )  # fmt: skip
    lines += _section(
        "Licences that these numbers inherit",
        ((one["licence"], ", ".join(one["models"]) or "–", ", ".join(one["metrics"]) or "–",
          ", ".join(one["methods"]) or "–") for one in data["licences"]),
        ("Licence", "Models", "Metrics", "Methods"),
    )  # fmt: skip
    return "\n".join(lines).rstrip() + "\n"


def escape(text: object) -> str:
    """Text in one line that Markdown and HTML leave as it is."""
    return _SPECIAL.sub(r"\\\1", " ".join(str(text).split()))


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """A Markdown table of cells that are escaped already; the first column to the left, numbers wherever they fall."""
    lines = [head, ["---"] * len(head), *rows]
    return [f"| {' | '.join(line)} |" for line in lines] + [""]


def _head(data: Data) -> str:
    size = data["size"]
    facts = [
        f"profile {data['profile']}",
        str(data["updated"] or "")[:10],
        f"{numbers.number(size['identities'])} identities",
        f"{numbers.number(size['requests'])} requests",
        f"seeds {', '.join(map(str, size['seeds']))}" if size["seeds"] else "",
        f"run seed {data['seed']}",
        f"idtool {data['idtool']}",
        f"suite {(data['suite'].get('hash') or '–')[:12]}",
    ]
    return " · ".join(escape(fact) for fact in facts if fact)


def _boards(data: Data) -> list[str]:
    if not data["metrics"]:
        return ["Nothing is scored yet.", ""]
    lines = ["## Leaderboard", "", LEGEND, ""]
    for one in board.boards(data):
        if one["title"]:
            lines += [f"### {escape(one['title'].capitalize())}", ""]
        columns = one["columns"]
        shown = [method for method in data["methods"] if any(method["name"] in column["cells"] for column in columns)]
        head = [
            "Method",
            *(
                escape(f"{column['name']} {column['arrow']}{' (random weights)' * column['random']}")
                for column in columns
            ),
        ]
        rows = [
            [_method(method), *(_cell(column["cells"].get(method["name"])) for column in columns)] for method in shown
        ]
        lines += table(head, rows)
    found = [f"- {escape(where)}: {escape(note)}" for note, where in board.notes(data)]
    return [*lines, *found, ""] if found else lines


LEGEND = (
    "Means with 95 % intervals over identities. **Bold**: ranked first, baselines (*italic*) aside. Methods that share "
    "a letter do not differ significantly (paired, corrected for all pairs). † conditions on the metric's own network, "
    "which flatters it. Common: mean on the samples that all methods have, where it ranks a method otherwise."
)


def _method(method: Mapping[str, Any]) -> str:
    name = escape(method["name"]) + (" (random weights)" if method["random"] else "")
    return f"*{name}*" if method["baseline"] else name


def _cell(cell: Mapping[str, Any] | None) -> str:
    if cell is None:
        return "–"
    mean = f"**{cell['mean']}**" if cell["best"] else cell["mean"]
    letters = f" {escape(cell['letters'])}" if cell["letters"] else ""
    interval = f" ({cell['interval']})" if cell["interval"] else ""
    common = f"; common {cell['common']}" if cell["common"] else ""
    missing = f"; {cell['missing']} missing" if cell["missing"] else ""
    return f"{mean}{'†' if cell['same'] else ''}{letters}{interval}{common}{missing}"


def _section(title: str, rows: Iterable[Sequence[Any]], head: Sequence[str]) -> list[str]:
    found = [[escape(cell) for cell in row] for row in rows]
    return [f"## {title}", "", *table(head, found)] if found else []


def _failures(data: Data) -> list[str]:
    lost = [
        one
        for one in views.failures(data)
        if one["state"] != "scored" or one["rejected"] or one["errors"] or one["reasons"]
    ]
    rows = [
        (
            one["name"],
            {"cannot": "cannot run here"}.get(one["state"], one["state"]),
            numbers.number(one["requested"]),
            numbers.number(one["made"]),
            "; ".join(filter(None, [", ".join(f"{reason}: {n}" for reason, n in one["reasons"]), one["why"]])),
        )
        for one in lost
    ]
    return _section("Failures", rows, ("Method", "State", "Asked", "Made", "Why"))


def _definition(metric: Mapping[str, Any]) -> str:
    networks = ", ".join(str(model["model"]) for model in metric["models"])
    parts = [metric["summary"], metric["paper"], f"network {networks}" if networks else "", f"range {metric['range']}"]
    return "; ".join(str(part) for part in parts if part)
