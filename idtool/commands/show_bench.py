"""Results of benchmarks for people, on standard output."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.text import Text

from idtool.commands.show import console, table

STATES = {"scored": "green", "failed": "bold red", "cannot": "dim", "made": "yellow", "pending": "yellow"}


def bench(result: Mapping[str, Any]) -> None:
    """The leaderboard, what could not run and why, and where the reports are."""
    out = console()
    board: Mapping[str, Mapping[str, Mapping[str, Any]]] = result["leaderboard"]
    baselines = {name: cell["baseline"] for cells in board.values() for name, cell in cells.items()}
    names = [name + (" *" if baseline else "") for name, baseline in baselines.items()]
    if board:
        # Metrics down, methods across: there are more metrics than fit on a line.
        rows = [[metric, *(_cell(cells.get(name)) for name in baselines)] for metric, cells in board.items()]
        out.print(table(["metric", *names], rows, right=names))
        out.print(Text("* baseline; mean and half of its 95 % interval over identities", style="dim"))
    states = [
        [name, Text(entry["state"], style=STATES.get(entry["state"], "")), _made(entry), entry.get("why") or ""]
        for name, entry in result["methods"].items()
        if entry["state"] != "scored" or entry.get("rejected") or entry.get("errors")
    ]
    if states:
        out.print(table(["method", "state", "images", "why"], states))
    if result["skipped"]:
        out.print(table(["metric not made", "why"], list(result["skipped"].items())))
    for name, path in result["files"].items():
        out.print(Text(f"{name + ':':<15} {path}"))


def _cell(value: Mapping[str, Any] | None) -> str:
    if value is None or value.get("mean") is None:
        return "–"
    mean = f"{value['mean']:.3f}"
    if value.get("ci_low") is None:
        return mean
    letters = f" {value['letters']}" if value.get("letters") else ""
    return f"{mean} ±{(value['ci_high'] - value['ci_low']) / 2:.3f}{letters}"


def _made(entry: Mapping[str, Any]) -> str:
    return "" if entry.get("requested") is None else f"{entry['made']} of {entry['requested']}"


def metrics(rows: Sequence[Mapping[str, Any]]) -> None:
    """One line each."""
    columns = ["metric", "axis", "better", "bounds", "networks", "summary"]
    shown = [[*(row[name] for name in columns[:4]), row["networks"] or row["why_not"], row["summary"]] for row in rows]
    console().print(table(columns, shown))


def suites(rows: Sequence[Mapping[str, Any]]) -> None:
    """One line each."""
    columns = ["name", "people", "requests", "summary"]
    console().print(table(columns, [[row.get(name) for name in columns] for row in rows], right=["requests"]))


def compared(result: Mapping[str, Any]) -> None:
    """Differences, and what rules are broken."""
    out = console()
    names = ["method", "metric", "before", "after", "difference", "ci_low", "ci_high", "p", "verdict"]
    rows = [[row.get(name) for name in names] for row in result["differences"] if row["slice"] == "all"]
    out.print(table(names, rows, right=names[2:8]))
    for one in result["notes"]:
        out.print(Text(f"compared in spite of: {one}", style="yellow"))
    for violation in result["violations"]:
        out.print(Text(f"broken: {violation['message']}", style="bold red"))


def audited(result: Mapping[str, Any]) -> None:
    """Counts, and the most alike."""
    out = console()
    plain = {key: value for key, value in result.items() if key not in ("worst", "leaked", "unused")}
    out.print(table(["", ""], list(plain.items())))
    for kind, people in result["leaked"].items():
        out.print(Text(f"{kind}: {', '.join(people)}", style="bold red"))
    names = ["kind", "value", "picture", "benchmark_identity", "reference"]
    if result["worst"]:
        out.print(table(names, [[row.get(name) for name in names] for row in result["worst"]], right=["value"]))
    for why in result["unused"]:
        out.print(Text(why, style="yellow"))


def night(result: Mapping[str, Any]) -> None:
    """How a night went, in a few lines for a log."""
    out = console()
    out.print(Text(f"{result['suite']} of {result['date']}: {'good' if result['good'] else 'not good'}"))
    for what, told in result.get("compared", {}).items():
        out.print(Text(f"compared with the {what} ({told['with']}): {len(told['violations'])} rules broken"))
    for trouble in result.get("troubles", ()):
        out.print(Text(trouble))
    out.print(Text(f"store: {result.get('store', '')}"))
