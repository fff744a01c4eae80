"""Results for people, on standard output: tables and short lists. Plain text when that is no terminal."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from idtool.console import duration

MARKS = {"ok": ("ok", "green"), "warn": ("warn", "yellow"), "fail": ("FAIL", "bold red")}
STATES = {"done": "green", "run": "yellow", "skipped": "dim", "depends": "cyan", "failed": "bold red"}


class _Console(Console):
    def on_broken_pipe(self) -> None:
        raise BrokenPipeError  # as a plain write does; Rich would exit 1, which says that the command failed


def console() -> Console:
    """Where results go."""
    # Off a terminal nothing is cut: a log or a pipe has no width.
    return _Console(file=sys.stdout, highlight=False, width=None if sys.stdout.isatty() else 200, soft_wrap=False)


def table(columns: Sequence[str], rows: Iterable[Sequence[Any]], right: Iterable[str] = ()) -> Table:
    """A plain table of rows; columns named in `right` hold numbers."""
    made = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in columns:
        made.add_column(name, justify="right" if name in right else "left", overflow="fold")
    for row in rows:
        made.add_row(*(cell if isinstance(cell, Text) else Text(_plain(cell)) for cell in row))
    return made


def _plain(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_plain(inner)}" for key, inner in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(_plain(inner) for inner in value)
    return str(value)


def _megabytes(size: int | None) -> str:
    return "" if size is None else f"{size / 1e6:.1f} MB"


def text(result: str) -> None:
    """As it is."""
    sys.stdout.write(result)


def facts(result: Mapping[str, Any]) -> None:
    """A line per fact; nested ones indented."""
    console().print(Text("\n".join(_lines(result))))


def _lines(result: Mapping[str, Any], indent: str = "") -> Iterable[str]:
    for key, value in result.items():
        if isinstance(value, Mapping) and value:
            yield f"{indent}{key}:"
            yield from _lines(value, indent + "  ")
        else:
            yield f"{indent}{key}: {_plain(value)}"


def records(result: Sequence[Mapping[str, Any]]) -> None:
    """A table with the keys of the first record as its columns."""
    if result:
        console().print(table(list(result[0]), [list(record.values()) for record in result]))


def doctor(result: Mapping[str, Any]) -> None:
    """A line per check, and what to do."""
    rows = [
        (Text(*MARKS[check["status"]]), check["name"], "\n".join(filter(None, (check["found"], check["advice"]))))
        for check in result["checks"]
    ]
    console().print(table(("", "", "found"), rows))


def models(result: Sequence[Mapping[str, Any]]) -> None:
    """The models of a profile."""
    rows = [
        (
            row["role"],
            row["model"],
            row["state"],
            _megabytes(row["bytes"]),
            _megabytes(row["memory"]),
            row["commercial"],
            row["licence"],
        )
        for row in result
    ]
    columns = ("role", "model", "state", "size", "memory", "commercial use", "licence")
    console().print(table(columns, rows, ("size", "memory")))


def pulled(result: Mapping[str, Any]) -> None:
    """What a pull did."""
    out = console()
    out.print(Text(f"here: {_plain(result['models'])} ({_megabytes(result['downloaded'])} downloaded)"))
    for model, why in result["left_out"].items():
        out.print(Text(f"left out: {model}, {why}"))
    for model, why in result["failed"].items():
        out.print(Text(f"failed: {model}: {why}", "bold red"))


def checked(result: Sequence[Mapping[str, Any]]) -> None:
    """How each model did on its sample."""
    rows = [
        (
            Text(*MARKS["ok" if row["ok"] else "fail"]),
            row["role"],
            row["model"],
            duration(row["load_seconds"]),
            duration(row["run_seconds"]),
            row["verdict"],
        )
        for row in result
    ]
    console().print(table(("", "role", "model", "load", "run", "found"), rows, ("load", "run")))


def calibrated(result: Sequence[Mapping[str, Any]]) -> None:
    """Thresholds of each network at the false match rates that were asked for, and the line for pipelines.yaml."""
    out = console()
    for one in result:
        title = f"{one['model']}: {one['photos']} photos of {one['people']} people, "
        title += f"{one['genuine']} pairs of one person, {one['impostor']} of two"
        out.print(Text(title, "bold"))
        out.print(Text(f"AUC {one['auc']:.5f}, equal error rate {one['eer']:.4f} at {one['eer_threshold']:.3f}"))
        for kind in ("genuine", "impostor"):
            spread = one["cosines"][kind]
            out.print(Text(f"{kind}: mean {spread['mean']:.2f}, {spread['least']:.2f} to {spread['most']:.2f}"))
        rows = [
            (at["fmr"], at["threshold"], at["measured_fmr"], at["fnmr"], _between(at), at["reason"])
            for at in one["thresholds"]
        ]
        numbers = ("FMR", "threshold", "measured FMR", "FNMR")
        out.print(table((*numbers, "95 %", ""), rows, numbers))
        for name, why in list(one["left_out"].items())[:8]:
            out.print(Text(f"left out: {name}, {why}"))
        if len(one["left_out"]) > 8:
            out.print(Text(f"left out: {len(one['left_out']) - 8} more"))
        if one["several_faces"]:
            out.print(Text(f"{len(one['several_faces'])} photos show several faces; the largest was taken"))
        out.print(Text(f"{one['yaml']}\nkept in {one['stored']}\n"))


def _between(at: Mapping[str, Any]) -> str:
    return "" if at["low"] is None else f"{at['low']:.3f} to {at['high']:.3f}"


def plan(result: Mapping[str, Any]) -> None:
    """What would run, what is done, what is skipped, and why."""
    out = console()
    out.print(Text(f"recipe {result['recipe']} of {result['source']}, into {result['output']}"))
    out.print(Text(f"profile {result['profile']} on {result['device']}: {result['profile_reason']}"))
    if result["changes"]:
        out.print(Text(f"the recipe changes for this profile: {', '.join(result['changes'])}"))
    rows = [
        (
            step["index"],
            step["name"],
            Text(step["state"], STATES.get(step["state"], "")),
            "\n".join([step["why"], *step["notes"]]),
            step["models"],
        )
        for step in result["steps"]
    ]
    out.print(table(("", "step", "state", "why", "models"), rows))


def curated(result: Mapping[str, Any]) -> None:
    """What each step of a run kept, and where the data set and the report are."""
    rows = []
    for step in result["steps"]:
        if step["state"] == "skipped":
            rows.append((step["index"], step["name"], "", "", "", "", "", f"skipped: {step['skipped_because']}"))
            continue
        top = sorted(step.get("reasons", {}).items(), key=lambda item: (-item[1], item[0]))[:3]
        counts = (step.get(key) for key in ("rows_in", "kept", "rejected", "errors"))
        took = duration(step["seconds"]) if "seconds" in step else ""
        rows.append((step["index"], step["name"], *counts, took, ", ".join(f"{name} {n}" for name, n in top)))
    numbers = ("rows in", "kept", "rejected", "errors", "time")
    out = console()
    out.print(table(("", "step", *numbers, "why"), rows, numbers))
    for name in ("dataset", "report", "run"):
        if result.get(name):
            out.print(Text(f"{name}: {result[name]}"))


def methods(result: Sequence[Mapping[str, Any]]) -> None:
    """The methods of pipelines.yaml."""
    rows = [
        (
            row["method"],
            row["people"],
            row["references"],
            row["size"],
            "" if row["vram_gib"] is None else f"{row['vram_gib']:g} GB",
            row["conditions_on"] or "",
            f"{row['state']}: {row['why']}" if row["why"] else row["state"],
        )
        for row in result
    ]
    columns = ("method", "people", "reference", "size", "memory", "conditions on", "state")
    console().print(table(columns, rows, ("memory",)))


def generated(result: Mapping[str, Any]) -> None:
    """What a generation run made, and where it is."""
    curated(result)
    out = console()
    for path in result["images"][:8]:
        out.print(Text(path))
    if len(result["images"]) > 8:
        out.print(Text(f"… and {len(result['images']) - 8} more"))
    if result["gallery"]:
        out.print(Text(f"gallery: {result['gallery']}"))


def tuned(result: Mapping[str, Any]) -> None:
    """A table per curve, then the joint yields."""
    out = console()
    for curve in result["curves"]:
        unit = f" {curve['unit']}" if curve.get("unit") else ""
        bound = f"{curve['gate']}.{curve['column']}.{curve['bound']}"
        out.print(Text(f"{bound} (step {curve['step']}, now {_plain(curve['configured'])}{unit})"))
        records(curve["points"])
    if result["joint"]:
        out.print(Text("together"))
        records([{**point["values"], **{k: v for k, v in point.items() if k != "values"}} for point in result["joint"]])
    for note in result["notes"]:
        out.print(Text(f"note: {note}"))


def explained(result: Mapping[str, Any]) -> None:
    """One sample's story, step by step."""
    out = console()
    out.print(Text(f"{result['what']} {result['id']}: {result['verdict']}", "bold"))
    facts({key: value for key, value in result["source"].items() if key != "id"})
    for step in result["steps"]:
        judged = "" if step["value"] is None else f" ({_plain(step['value'])}, must be {step['threshold']})"
        why = "" if step["reason"] is None else f": {step['reason']}{judged}"
        out.print(Text(f"\n{step['step']}: {step['status']}{why}"))
        if step.get("message"):
            out.print(Text(f"  {step['message']}"))
        for name, value in step["measured"].items():
            out.print(Text(f"  {name} {_plain(value)} {step['units'].get(name, '')}".rstrip()))
        for check in step.get("checks", ()):
            verdict = "passes" if check["passes"] else "fails"
            line = (
                f"  {check['gate']}.{check['column']} {_plain(check['value'])}, must be {check['threshold']}: {verdict}"
            )
            out.print(Text(line))
    rest = ("identity", "children", "pairs", "duplicates", "images")
    for key in rest:
        if _says_anything(result.get(key)):
            out.print(Text(f"\n{key}"))
            _part(result[key])


def _says_anything(value: Any) -> bool:
    if isinstance(value, dict):
        return any(_says_anything(inner) for inner in value.values())
    return bool(value)


def _part(value: Any) -> None:
    if isinstance(value, list):
        records(value)
        return
    facts({key: inner for key, inner in value.items() if key != "listed"})
    records(value.get("listed", []))
