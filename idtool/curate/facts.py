"""What a run's manifest says, in the shapes that the data card and the report print. Reads no table."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

Manifest = Mapping[str, Any]
Facts = list[dict[str, Any]]


def funnel(manifest: Manifest) -> Facts:
    """One entry per finished step: `name, kind, summary, rows_in, kept, rejected, errors, seconds, rate` (rows/s)."""
    lines = []
    for entry in manifest.get("steps", []):
        if entry.get("state") != "done":
            continue
        seconds, rows_in = float(entry.get("seconds") or 0), int(entry.get("rows_in") or 0)
        lines.append(
            {
                "index": entry["index"],
                "name": entry["name"],
                "kind": entry.get("kind", entry["name"]),
                "summary": entry.get("summary", ""),
                "rows_in": rows_in,
                "kept": int(entry.get("kept") or 0),
                "rejected": sum(pair_rejects(entry).values()) or int(entry.get("rejected") or 0),
                "errors": int(entry.get("errors") or 0),
                "seconds": seconds,
                "rate": rows_in / seconds if seconds > 0 else None,
            }
        )
    return lines


def pair_rejects(entry: Mapping[str, Any]) -> dict[str, int]:
    """Reason -> pairs rejected for it, of a pairing step: it counts all that it judged and stores examples only."""
    pairs = (entry.get("statistics") or {}).get("pairs") or {}
    return dict(pairs.get("rejected") or {}) if isinstance(pairs, Mapping) else {}


def judged_as(branch: str) -> str:
    """The branch of the recipe whose bounds a pair is held to: a photo and a frame (`mixed`) are judged as photos,
    repaintings of one picture (`edits`) as frames of one video."""
    return {"mixed": "photos", "edits": "frames"}.get(branch, branch)


def pair_copy(entry: Mapping[str, Any], branch: str) -> dict[str, Any]:
    """The copy test that a pairing step makes of a branch: the branch's own, else the step's."""
    stated = settings(entry)
    own = ((stated.get("branches") or {}).get(judged_as(branch)) or {}).get("copy")
    return dict(own or stated.get("copy") or {})


def pair_bound(entry: Mapping[str, Any], branch: str, column: str, bound: str) -> float | None:
    """A bound of a pairing step's branch; where the recipe leaves the lower one to the network, what it stood for."""
    branch = judged_as(branch)
    asked = ((settings(entry).get("branches") or {}).get(branch) or {}).get(column) or {}
    if asked.get(bound) is None and bound == "min":
        lower = (entry.get("own") or {}).get("bounds") or {}
        value = lower.get(f"{branch}.low{column.removeprefix('similarity')}")
    else:
        value = asked.get(bound)
    return None if value is None else float(value)


def skipped(manifest: Manifest) -> Facts:
    """What did not run, and why: whole steps, the parts of steps that ran, the step that the run failed in, and in
    one line those that it did not come to (`step`, `what`, `why`)."""
    whole: Facts = []
    parts: Facts = []
    failed: Facts = []
    waiting: list[str] = []
    for entry in manifest.get("steps", []):
        state = entry.get("state")
        if state == "skipped":
            why = entry.get("skipped_because") or "no reason recorded"
            whole.append({"step": entry["name"], "what": "whole step", "why": why})
        elif state == "failed":
            why = entry.get("message") or "no message recorded"
            failed.append({"step": entry["name"], "what": "failed", "why": why})
        elif state != "done":
            waiting.append(entry["name"])
        parts.extend({"step": entry["name"], "what": "part", "why": note} for note in entry.get("notes") or [])
    why = "the run stopped before; the same command goes on"
    rest = [{"step": ", ".join(waiting), "what": "not finished", "why": why}] if waiting else []
    return [*whole, *parts, *failed, *rest]


def settings(entry: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of one step, as the recipe resolved them."""
    own = entry.get("own") or {}
    return dict(own.get("settings", own))


def flatten(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """`{"a": {"b": 1}}` -> `("a.b", 1)`; None and empty values are left out."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from flatten(inner, f"{path}.{key}" if path else str(key))
    elif value is not None and value != [] and value != "":
        yield path, value


def thresholds(manifest: Manifest) -> Facts:
    """The settings of every finished step that judges, groups or pairs rows: `step, setting, value`. A gate that was
    skipped judged nothing and is left out."""
    judges = {"gate", "dedup", "identify", "pair", "crop", "repair", "swap", "balance"}
    lines: Facts = []
    for entry in manifest.get("steps", []):
        if entry.get("kind") not in judges or entry.get("state") != "done":
            continue
        calibrated = {f"{key} (in effect)": value for key, value in (entry["own"].get("bounds") or {}).items()}
        left_out = [note.split()[1] for note in entry.get("notes") or [] if note.startswith("gate ")]
        for key, value in flatten({**settings(entry), **calibrated}):
            if key.startswith(tuple(f"{name}." for name in left_out)):
                continue
            lines.append({"step": entry["name"], "setting": key, "value": value})
    return lines


def models(manifest: Manifest) -> Facts:
    """Every model whose output is in a finished step's table, once: `role, model, revision, licence, sha256, steps`."""
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for entry in manifest.get("steps", []):
        if entry.get("state") != "done":
            continue
        for model in entry.get("models") or []:
            key = (model.get("role", ""), model["model"])
            fact = found.setdefault(key, {**model, "steps": []})
            if entry["name"] not in fact["steps"]:
                fact["steps"].append(entry["name"])
    return list(found.values())
