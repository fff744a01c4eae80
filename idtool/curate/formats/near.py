"""Faces of a data set that are as near to those of some people as faces of one person are, by what the run measured."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import numpy as np

from idtool.curate.cluster import Bools, Floats, normalise
from idtool.curate.grouped import vectors
from idtool.curate.layout import PAIRS, Layout
from idtool.engine.table import KeptRows, Table
from idtool.run import Run


@dataclass(frozen=True)
class Faces:
    """The faces that the run measured."""

    table: Table | None
    """With columns id, identity and embedding; None: the run measured none."""
    same_person: float | None
    """Cosine from which two faces are taken for one person's; None: not known."""
    rule: str
    """Where that figure is from, or why there is none."""
    network: str | None = None


def faces_of(run: Run, rows: Table, layout: Layout, stated: float | None) -> Faces:
    """The faces that the run measured, and from what similarity on two are of one person."""
    table: Table | None = rows if "embedding" in rows.schema.names else None
    limit, rule, network = stated, "--same-person", None
    for entry in run.steps:
        if entry["state"] != "done":
            continue
        if entry["kind"] == "identify":
            models = [model["model"] for model in entry.get("models") or [] if model.get("role") == "identity"]
            network = models[0] if models else None
            found = (entry.get("own") or {}).get("threshold")
            if stated is None and found is not None:
                limit, rule = float(found), f"threshold of step {entry['name']}"
        if layout is PAIRS:
            here = run.step_table(entry["index"])
            if {"id", "identity", "embedding"} <= set(here.schema.names) and "a_id" not in here.schema.names:
                table = KeptRows(here.path)
    if table is None:
        rule = "the run has no embeddings of faces"
    elif limit is None:
        rule = "the run does not say from what similarity on two faces are of one person; give --same-person"
    return Faces(table, limit, rule, network)


def nearest(
    faces: Faces, identities: frozenset[str], wanted: Collection[str]
) -> tuple[dict[str, Any], dict[str, float]]:
    """What was compared; and the images among `wanted` whose face is as near as one person's, with the similarity."""
    if faces.table is None or faces.same_person is None:
        return {"compared": 0, "why_not": faces.rule}, {}
    theirs = _embeddings_of(faces.table, identities)
    told = {"same_person": faces.same_person, "rule": faces.rule, "network": faces.network, "references": len(theirs)}
    if not len(theirs):
        return {**told, "compared": 0, "why_not": "the run has no embedding of a removed identity"}, {}
    near: dict[str, float] = {}
    compared = 0
    closest, closest_image = -2.0, None
    for batch in faces.table.batches(["id", "embedding"], rows=2048, kept_only=True):
        ids = batch["id"].to_pylist()
        keep = np.array([image in wanted for image in ids], np.bool_)
        values, usable = _unit(batch["embedding"])
        keep &= usable
        if not keep.any():
            continue
        similar = (values[keep] @ theirs.T).max(axis=1)
        compared += len(similar)
        for image, value in zip((ids[k] for k in np.flatnonzero(keep)), similar.tolist(), strict=True):
            if value > closest:
                closest, closest_image = value, image
            if value >= faces.same_person:
                near[image] = value
    told |= {"compared": compared, "without_embedding": len(wanted) - compared}
    if compared:
        told |= {"closest": round(closest, 4), "closest_image": closest_image}
    return told, near


def _embeddings_of(table: Table, identities: frozenset[str]) -> Floats:
    """(n, d) unit embeddings of the removed people."""
    parts = []
    for batch in table.batches(["identity", "embedding"], rows=2048, kept_only=True):
        theirs = np.array([name in identities for name in batch["identity"].to_pylist()], np.bool_)
        values, usable = _unit(batch["embedding"])
        if (theirs & usable).any():
            parts.append(values[theirs & usable])
    return np.concatenate(parts) if parts else np.zeros((0, 1), np.float32)


def _unit(column: Any) -> tuple[Floats, Bools]:
    values = vectors(column)
    if not values.shape[1]:
        return values, np.zeros(len(values), np.bool_)
    return normalise(values)
