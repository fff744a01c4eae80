"""`index.html` of a generation run: references, prompts and images side by side, in one file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from idtool.engine.operator import KEPT
from idtool.media.paths import from_uri, printable
from idtool.media.thumbnails import Thumbnails
from idtool.run import Run

SHOWN = 60
"""Prompts that are shown."""
SIDE, REFERENCE_SIDE = 256, 128
COLUMNS = ("prompt", "references", "seed", "media", "status", "reason", "message")


def write_gallery(path: Path) -> Path:
    """Write `path/index.html`; returns where it is."""
    import jinja2

    run = Run(path)
    entry = run.steps[0]
    thumbnails = Thumbnails(run.store_root)
    groups, left = _groups(run, thumbnails)
    environment = jinja2.Environment(loader=jinja2.PackageLoader("idtool.generate"), autoescape=True)
    manifest = run.manifest
    facts = [
        ("images", f"{entry['kept']} made, {entry['rejected']} rejected, {entry['errors']} failed"),
        *((f"rejected: {reason}", count) for reason, count in entry["reasons"].items()),
        ("kind", manifest["kind"]),
        ("profile", f"{manifest['profile']} on {manifest['device']}"),
        *((one["role"], f"{one['model']}{_at(one)} ({one['licence']})") for one in entry["models"]),
        ("conditions on", manifest.get("conditions_on") or "no face network that is known"),
        *(("note", note) for note in entry.get("notes", ())),
    ]
    text = environment.get_template("gallery.html.j2").render(
        method=manifest["method"],
        summary=manifest["summary"],
        kept=entry["kept"],
        facts=facts,
        groups=groups,
        more=left,
    )
    target = run.path / "index.html"
    target.write_text(text, encoding="utf-8")
    return target


def _at(model: dict[str, Any]) -> str:
    return f" at {model['revision']}" if model.get("revision") else ""


def _groups(run: Run, thumbnails: Thumbnails) -> tuple[list[dict[str, Any]], int]:
    """Requests that differ in the seed alone stand together; up to `SHOWN` groups, and how many are not shown."""
    groups: dict[tuple[Any, ...], dict[str, Any]] = {}
    left: set[tuple[Any, ...]] = set()
    for batch in run.step_table(1).batches(list(COLUMNS)):
        for row in batch.to_pylist():
            key = (row["prompt"], *row["references"])
            if key not in groups:
                if len(groups) >= SHOWN:
                    left.add(key)
                    continue
                groups[key] = {"prompt": row["prompt"], "references": row["references"], "images": []}
            kept = row["status"] == KEPT
            groups[key]["images"].append(
                {
                    "seed": row["seed"],
                    "data": thumbnails.get(row["media"], SIDE),
                    "note": "" if kept else f"{row['status']}: {row['message'] or row['reason']}",
                }
            )
    for group in groups.values():
        group["images"].sort(key=lambda image: image["seed"])
        group["references"] = [
            {"name": printable(from_uri(uri)).rpartition("/")[2], "data": thumbnails.get(uri, REFERENCE_SIDE)}
            for uri in group["references"]
        ]
    return list(groups.values()), len(left)
