"""What a report says, as one JSON-able value: `idtool report --json` prints it, the HTML report draws it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from idtool.curate import facts
from idtool.curate.card import EXPORTS
from idtool.curate.gate import Bound, GateSettings
from idtool.curate.histograms import histogram, is_number, limits
from idtool.engine.operator import ERROR, KEPT, REJECTED
from idtool.run import Run

Row = dict[str, Any]
MOST_ERRORS = 20
MOST_IDENTITIES = 60

SENTENCES = {
    "unreadable": "The file could not be read as an image or a video.",
    "truncated": "The file ends before the picture is complete.",
    "empty": "The file has no bytes.",
    "unsupported_format": "There is no decoder here for this kind of file.",
    "no_video_stream": "The file holds sound, or nothing, but no picture.",
    "no_frames": "Not one frame of the video could be decoded.",
    "pair.similarity.low": "The faces are not alike enough to be sure that they are one person's.",
    "pair.similarity.high": "The faces are so alike that the pictures are hardly different ones.",
    "pair.similarity2.low": "The second network does not find the faces alike enough.",
    "pair.copy.face_correlation": "The face is the same picture in both, pasted or mirrored.",
    "pair.copy.copy_similarity": "Copy detection takes one picture for an edit of the other.",
    "pair.difference": "Pose, expression and moment are all too much alike to learn from.",
    "identity.no_embedding": "There is no face to tell the person by.",
    "identity.no_label": "Nothing in the input says who it is, and the recipe asks for that.",
    "identity.outlier": "The face is not the one that the others under the same label show.",
    "identity.too_few": "There are too few images of this person to pair.",
    "missing_file": "The file is not where the input says.",
    "too_large.pixels": "The image has more pixels than are decoded.",
    "too_large.bytes": "The file is larger than what is read.",
    "swap.similarity": "The new face does not bring the picture closer to its person.",
    "swap.reach": "The new face brings the picture closer to its person, but not close enough to be paired.",
    "swap.no_face": "There is no face in the picture after the swap.",
    "crop.no_face": "There is no face to crop to.",
    "crop.points": "The points of the face do not make a frame.",
    "crop.min_side": "The crop would be too small.",
    "crop.max_scale": "The crop would have to be enlarged.",
    "crop.max_outside": "Too much of the crop would lie outside the picture.",
    "perturb.no_face": "There is no face to blur.",
    "duplicate.exact": "The same bytes came in under another name; one copy stays.",
    "duplicate.perceptual": "A near-copy of another image, re-encoded, resized or mirrored; the best one stays.",
}


def report_data(run: Path) -> dict[str, Any]:
    """Everything in the report but its pictures.

    Keys: `run, idtool, recipe, profile, profile_reason, seed, device, engine, inputs, command, created, updated,
    seconds, verdict, skipped, funnel, reasons, histograms, measured, similarity, identities, thresholds, models,
    errors, dataset`. Steps that did not finish are told under `skipped`.
    """
    opened = Run(run)
    manifest = opened.manifest
    names = (
        "idtool", "recipe", "profile", "profile_reason", "seed", "device", "engine", "inputs", "command", "created",
        "updated", "sample", "left_out", "changes",
    )  # fmt: skip
    head = {name: manifest.get(name) for name in names}
    lines = facts.funnel(manifest)
    lost = lost_rows(opened)
    export = next((entry for entry in opened.steps if entry.get("kind") in EXPORTS), {})
    return {
        "run": str(opened.path),
        **head,
        "seconds": sum(line["seconds"] for line in lines),
        "verdict": verdict(opened),
        "skipped": facts.skipped(manifest),
        "funnel": lines,
        "reasons": [line for line in lost if line["status"] != ERROR],
        "histograms": [chart for entry in done(opened, "gate") for chart in gate_histograms(opened, entry)],
        "measured": ungated_histograms(opened),
        "similarity": similarities(opened),
        "identities": identities(opened),
        "thresholds": facts.thresholds(manifest),
        "models": facts.models(manifest),
        "errors": [line for line in lost if line["status"] == ERROR][:MOST_ERRORS],
        "dataset": export.get("statistics") or {},
    }


def done(run: Run, kind: str) -> list[Row]:
    """Manifest entries of the finished steps of a kind."""
    return [entry for entry in run.steps if entry["state"] == "done" and entry["kind"] == kind]


def pair_steps(run: Run) -> list[Row]:
    """Finished steps whose rows are pairs, in order."""
    finished = [entry for entry in run.steps if entry["state"] == "done"]
    return [entry for entry in finished if "a_id" in run.step_table(entry["index"]).schema.names]


def image_steps(run: Run) -> list[Row]:
    """Finished steps whose rows are files or images, in order."""
    pairs = {entry["index"] for entry in (*pair_steps(run), *done(run, "prefer"))}
    return [entry for entry in run.steps if entry["state"] == "done" and entry["index"] not in pairs]


def verdict(run: Run) -> dict[str, int | None]:
    """`inputs`, `images` (kept to the end of the image steps), `identities`, `pairs`, `records` and `preferences` (None
    before there are any)."""
    images, pairs, records = image_steps(run), pair_steps(run), done(run, "records")
    preferences = done(run, "prefer")
    people = None
    if last := pairs or records or preferences:
        table = run.step_table(last[-1]["index"])
        # Preference pairs may show several people; `identity` is all of them in one label.
        order = ("people", "identity", "identity_label") if last is preferences else ("identity", "identity_label")
        named = next((name for name in order if name in table.schema.names), None)
        column = table.read([named], kept_only=True)[named] if named else pa.chunked_array([], pa.string())
        flat = pc.list_flatten(column) if pa.types.is_list(column.type) else column
        people = len(pc.unique(flat.drop_null()))
    return {
        "inputs": int(images[0]["rows_in"]) if images else 0,
        "images": int(images[-1]["kept"]) if images else 0,
        "identities": people,
        "pairs": int(pairs[-1]["kept"]) if pairs else None,
        "records": int(records[-1]["kept"]) if records else None,
        "preferences": int(preferences[-1]["kept"]) if preferences else None,
    }


def lost_rows(run: Run) -> list[Row]:
    """Rejected and failed rows grouped by step and reason, most frequent first within the order of the steps:
    `step, reason, status, count, share` (of the rows that the step judged), `threshold, sentence`."""
    by_step: dict[str, list[Row]] = {}
    for table in run.rejects(["step", "reason", "status", "threshold", "message"]):
        if not table.num_rows:
            continue
        entry = run.entry(table["step"][0].as_py())
        groups = table.group_by(["reason", "status"], use_threads=False).aggregate(
            [("status", "count"), ("threshold", "min"), ("threshold", "max"), ("message", "min")]
        )
        columns = _documented(run, entry)
        exact = facts.pair_rejects(entry)
        judged = _judged(entry)
        found = by_step[entry["name"]] = []
        for row in groups.to_pylist():
            count = exact.get(row["reason"], row["status_count"])
            threshold = row["threshold_min"] if row["threshold_min"] == row["threshold_max"] else None
            found.append(
                {
                    "step": entry["name"],
                    "reason": row["reason"] or "no reason given",
                    "status": row["status"],
                    "count": count,
                    "share": count / judged,
                    "threshold": threshold,
                    "sentence": sentence(row["reason"] or "", threshold, row["message_min"], columns),
                }
            )
    lines: list[Row] = []
    for entry in run.steps:
        found = by_step.get(entry["name"], [])
        # Of pairs, all are counted and only some stored.
        missing = set(facts.pair_rejects(entry)) - {line["reason"] for line in found}
        found += [_unstored(entry, reason) for reason in sorted(missing) if entry["state"] == "done"]
        lines.extend(sorted(found, key=lambda line: (-line["count"], line["reason"])))
    return lines


def _judged(entry: Mapping[str, Any]) -> int:
    """How many rows, or pairs, a finished step passed a verdict on."""
    if facts.pair_rejects(entry):
        return int(entry["statistics"]["pairs"]["judged"])
    return int(entry["kept"] + entry["rejected"] + entry["errors"])


def _unstored(entry: Mapping[str, Any], reason: str) -> Row:
    """A line of `lost_rows` for a reason of which no example was stored."""
    count = facts.pair_rejects(entry)[reason]
    return {
        "step": entry["name"],
        "reason": reason,
        "status": REJECTED,
        "count": count,
        "share": count / _judged(entry),
        "threshold": None,
        "sentence": sentence(reason, None, None, {}),
    }


def _documented(run: Run, entry: Mapping[str, Any]) -> dict[str, tuple[str, str]]:
    """Column -> (what it is, unit), as the step's table says."""
    schema = run.step_table(entry["index"]).schema
    texts = {field.name: field.metadata or {} for field in schema}
    return {name: (text.get(b"doc", b"").decode(), text.get(b"unit", b"").decode()) for name, text in texts.items()}


def sentence(reason: str, threshold: str | None, example: str | None, columns: Mapping[str, tuple[str, str]]) -> str:
    """One sentence for a reason: what the bound asks, what the reason means, or the message of one row."""
    column = reason.rpartition(".")[2]
    if reason in SENTENCES:
        return SENTENCES[reason]
    if column in columns and threshold:
        doc, unit = columns[column]
        meaning = f"{column} ({doc.rstrip('.')})" if doc else column
        return f"{meaning} has to be {in_words(threshold)}{' ' + unit if unit and '[' not in unit else ''}."
    return f"For example: {example.rstrip('.')}." if example else "No further explanation was recorded."


def in_words(threshold: str) -> str:
    """`>= 768` -> `at least 768`."""
    sign, _, limit = threshold.rpartition(" ")
    words = {
        ">=": f"at least {limit}",
        "<=": f"at most {limit}",
        "==": limit,
        "|x| <=": f"between -{limit} and {limit}",
    }
    return words.get(sign, threshold)


def gate_histograms(run: Run, entry: Mapping[str, Any]) -> list[Row]:
    """A histogram for every numeric column that the gate step judged: `kept`, `rejected` (by this check) and
    `other` (rejected by another check of the step) per bin, and the bounds."""
    table = run.step_table(entry["index"])
    schema = table.schema
    charts = []
    for gate, columns in GateSettings.model_validate(facts.settings(entry)).gates.items():
        for column, bound in columns.items():
            if column not in schema.names or not is_number(schema.field(column).type):
                continue
            rows = table.read(list(dict.fromkeys([column, "status", "reason"])))
            mine = pc.fill_null(pc.equal(rows["reason"], f"{gate}.{column}"), False)
            kept = pc.equal(rows["status"], KEPT)
            series = {
                "kept": kept,
                "rejected": mine,
                "other": pc.and_(pc.invert(kept), pc.invert(mine)),
            }
            doc, unit = _documented(run, entry)[column]
            chart = histogram(rows[column], series, list(limits(bound)))
            charts.append({"step": entry["name"], "gate": gate, "column": column, "doc": doc, "unit": unit, **chart})
    return charts


def ungated_histograms(run: Run) -> list[Row]:
    """A histogram for every numeric column that a measure step added and no gate of the run judges."""
    judged = {
        column
        for entry in done(run, "gate")
        for columns in GateSettings.model_validate(facts.settings(entry)).gates.values()
        for column in columns
    }
    charts: list[Row] = []
    known: set[str] = set()
    for entry in image_steps(run):
        table = run.step_table(entry["index"])
        new = [field for field in table.schema if field.name not in known | judged and is_number(field.type)]
        known |= set(table.schema.names)
        for field in new if entry["kind"] == "measure" else []:
            values = table.read([field.name], kept_only=True)[field.name]
            doc, unit = _documented(run, entry)[field.name]
            chart = histogram(values, {"kept": pc.fill_null(pc.true_unless_null(values), True)}, [])
            charts.append({"step": entry["name"], "column": field.name, "doc": doc, "unit": unit, **chart})
    return charts


def similarities(run: Run) -> list[Row]:
    """Per branch, the similarity of kept pairs and of candidates that were not taken, with the branch's bounds."""
    charts: list[Row] = []
    for entry in done(run, "pair"):
        table = run.step_table(entry["index"])
        if not {"similarity", "branch"} <= set(table.schema.names):
            continue
        rows = table.read(["similarity", "branch", "status", "reason"])
        for branch in sorted(pc.unique(rows["branch"]).drop_null().to_pylist()):
            part = rows.filter(pc.equal(rows["branch"], branch))
            kept = pc.equal(part["status"], KEPT)
            mine = pc.match_substring_regex(pc.fill_null(part["reason"], ""), r"(^|\.)similarity\.")
            series = {"kept": kept, "rejected": mine, "other": pc.and_(pc.invert(kept), pc.invert(mine))}
            low, high = (facts.pair_bound(entry, branch, "similarity", bound) for bound in ("min", "max"))
            bounds = limits(Bound(min=low, max=high)) if (low, high) != (None, None) else []
            chart = histogram(part["similarity"], series, bounds)
            charts.append({"branch": branch, "step": entry["name"], **chart})
    return charts


def identities(run: Run) -> Row:
    """`count`, and for the largest `sizes`: `identity, images, pairs`; `more` says how many are not listed."""
    images: Counter[str] = Counter()
    pairs: Counter[str] = Counter()
    for entry in done(run, "identify"):
        images = _counted(run, entry)
    steps = pair_steps(run)
    if steps:
        pairs = _counted(run, steps[-1])
    order = sorted(images | pairs, key=lambda name: (-images[name], -pairs[name], name))
    sizes = [{"identity": name, "images": images[name], "pairs": pairs[name]} for name in order[:MOST_IDENTITIES]]
    return {
        "count": len(order),
        "with_pairs": sum(1 for name in order if pairs[name]),
        "median_images": float(np.median([images[name] for name in order])) if order else None,
        "sizes": sizes,
        "more": max(0, len(order) - MOST_IDENTITIES),
    }


def _counted(run: Run, entry: Mapping[str, Any]) -> Counter[str]:
    table = run.step_table(entry["index"])
    if "identity" not in table.schema.names:
        return Counter()
    column = table.read(["identity"], kept_only=True)["identity"].drop_null()
    return Counter({row["values"]: row["counts"] for row in pc.value_counts(column).to_pylist()})
