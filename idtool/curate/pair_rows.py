"""From table rows to the arrays that pairing works on, and from its answers back to rows of pairs."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from idtool.curate import pairing
from idtool.curate.cluster import normalise
from idtool.curate.grouped import numbers, thumbs, vectors
from idtool.curate.pairing import REASONS, Faces, Found, Limits, Rules, likeness
from idtool.engine.operator import KEPT, OUTCOME, REJECTED

Values = dict[str, npt.NDArray[Any]]

NOT_CARRIED = frozenset({"embedding", "embedding2", "copy_embedding", "face_thumb", "blendshapes", "identity"})
"""Large or shared: what a pair needs of these is in its own columns."""


def _field(name: str, kind: pa.DataType, doc: str, unit: str = "") -> pa.Field:
    return pa.field(name, kind, metadata={"doc": doc, "unit": unit})


PAIR = (
    _field("id", pa.string(), "the two image ids, the lower first, joined by ~"),
    _field("identity", pa.string(), "the person"),
    _field("branch", pa.string(), "frames (of one video), edits (of one picture), photos, or mixed (across sources)"),
    _field("similarity", pa.float32(), "cosine of the identity embeddings", "[-1,1]"),
    _field("similarity2", pa.float32(), "the same by the second network", "[-1,1]"),
    _field("d_yaw", pa.float32(), "difference in yaw", "deg"),
    _field("d_pitch", pa.float32(), "difference in pitch", "deg"),
    _field("d_roll", pa.float32(), "difference in roll", "deg"),
    _field("d_expression", pa.float32(), "half L1 distance of the expression probabilities", "[0,1]"),
    _field("d_time_ms", pa.float32(), "time between two frames of one video", "ms"),
    _field("face_correlation", pa.float32(), "correlation of the aligned faces, plain or mirrored", "[-1,1]"),
    _field("copy_similarity", pa.float32(), "cosine of the copy-detection descriptors", "[-1,1]"),
)


def carried(names: Iterable[str]) -> list[str]:
    """Image columns that a pair has twice."""
    return [name for name in names if name not in NOT_CARRIED and name not in OUTCOME.names]


def schema(available: Mapping[str, pa.Field]) -> pa.Schema:
    """Of the table of pairs, without outcome columns."""
    columns = carried(available)
    return pa.schema([*PAIR, *(available[name].with_name(f"{side}_{name}") for side in "ab" for name in columns)])


@dataclass
class Described:
    """Some pairs of one bucket: rows a and b in it, and their columns."""

    a: npt.NDArray[np.int64]
    b: npt.NDArray[np.int64]
    branch: list[str]
    values: Values
    outcome: list[dict[str, Any]] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.a)


VECTORS = ("embedding", "embedding2", "copy_embedding", "expressions", "face_thumb")
"""Columns whose absence switches tests off."""


class Bucket:
    """Rows of whole identities, sorted by identity and id, with what pairing needs as arrays. `known`: lengths of
    the columns VECTORS in the whole table, so that what is judged does not depend on who else is in the bucket."""

    def __init__(self, rows: pa.Table, known: Mapping[str, int]) -> None:
        self.rows = rows
        n, have = rows.num_rows, set(rows.column_names)

        def values_of(name: str) -> npt.NDArray[np.float32] | None:
            if not known.get(name):
                return None
            values = vectors(rows[name])
            return values if values.shape[1] else np.zeros((n, known[name]), np.float32)

        def unit(name: str) -> npt.NDArray[np.float32] | None:
            values = values_of(name)
            return None if values is None else normalise(values)[0]

        def angle(name: str) -> npt.NDArray[np.float32] | None:
            return np.asarray(numbers(rows[name], np.float32), np.float32) if name in have else None

        embedding = unit("embedding")
        self.embedding = np.zeros((n, 1), np.float32) if embedding is None else embedding
        self.embedding2, self.copy = unit("embedding2"), unit("copy_embedding")
        self.thumb = thumbs(rows["face_thumb"], known["face_thumb"]) if known.get("face_thumb") else None
        self.yaw, self.pitch, self.roll = angle("yaw"), angle("pitch"), angle("roll")
        self.expressions = values_of("expressions")
        if self.expressions is not None:
            self.expressions = self.expressions.copy()
            self.expressions[~rows["expressions"].is_valid().to_numpy()] = np.nan
        self.time_ms = numbers(rows["time_ms"], np.float64) if "time_ms" in have else None
        parent = rows["parent"].cast(pa.string()) if "parent" in have else pa.nulls(n, pa.string())
        family = pc.coalesce(parent, rows["id"])
        family = family.combine_chunks() if isinstance(family, pa.ChunkedArray) else family
        self.family = np.asarray(family.dictionary_encode().indices, np.int64)
        origin = rows["origin"] if "origin" in have else pa.nulls(n, pa.string())
        self.frame = np.array([value == "frame" for value in origin.to_pylist()], np.bool_)

    def spans(self) -> Iterator[tuple[int, int]]:
        """First and end row of each identity."""
        codes = np.asarray(self.rows["identity"].combine_chunks().dictionary_encode().indices)
        starts = [0, *(np.flatnonzero(np.diff(codes)) + 1).tolist(), len(codes)]
        yield from itertools.pairwise(starts)

    def faces(self, first: int, end: int) -> Faces:
        def cut(values: Any) -> Any:
            return None if values is None else values[first:end]

        return Faces(
            embedding=self.embedding[first:end],
            family=self.family[first:end],
            embedding2=cut(self.embedding2),
            thumb=cut(self.thumb),
            copy=cut(self.copy),
            yaw=cut(self.yaw),
            pitch=cut(self.pitch),
            expressions=cut(self.expressions),
            time_ms=cut(self.time_ms),
        )

    def branch(self, a: npt.NDArray[np.int64], b: npt.NDArray[np.int64]) -> list[str]:
        one = self.family[a] == self.family[b]
        frames, stills = self.frame[a] & self.frame[b], ~self.frame[a] & ~self.frame[b]
        return [str(name) for name in np.select([one & frames, one, stills], ["frames", "edits", "photos"], "mixed")]

    def table(self, parts: list[Described], columns: list[str]) -> pa.Table:
        """Rows of the output, outcome columns included."""
        a, b = (np.concatenate([getattr(part, side) for part in parts]) for side in "ab")
        ids = self.rows["id"].combine_chunks()
        names = {
            "id": pc.binary_join_element_wise(ids.take(pa.array(a)), ids.take(pa.array(b)), "~"),
            "identity": self.rows["identity"].combine_chunks().take(pa.array(a)),
            "branch": pa.array([name for part in parts for name in part.branch], pa.string()),
        }
        arrays: list[Any] = []
        for column in PAIR:
            if column.name in names:
                arrays.append(names[column.name])
            else:
                values = np.concatenate([part.values[column.name] for part in parts]).astype(np.float32)
                arrays.append(pa.array(values, pa.float32(), mask=np.isnan(values)))
        fields = list(PAIR)
        for side, rows in (("a", a), ("b", b)):
            taken = self.rows.select(columns).take(pa.array(rows))
            arrays += taken.columns
            fields += [taken.schema.field(name).with_name(f"{side}_{name}") for name in columns]
        outcomes = [outcome for part in parts for outcome in part.outcome]
        for column in OUTCOME:
            arrays.append(pa.array([outcome.get(column.name) for outcome in outcomes], column.type))
            fields.append(column)
        return pa.table(arrays, schema=pa.schema(fields))


def describe(bucket: Bucket, first: int, end: int, found: Found, rules: Rules) -> tuple[Described, Described]:
    """The pairs chosen and the examples of rejected ones, of the identity in rows `first` to `end`."""
    faces = bucket.faces(first, end)
    parts = []
    for a, b, reasons in ((found.a, found.b, None), (found.rejected_a, found.rejected_b, found.rejected_reason)):
        values = _values(faces, a, b)
        roll = None if bucket.roll is None else bucket.roll[first:end]
        values["d_roll"] = _difference(roll, a, b)
        part = Described(a + first, b + first, bucket.branch(a + first, b + first), values)
        if reasons is None:
            part.outcome = [{"status": KEPT}] * len(a)
        else:
            one = faces.family[a] == faces.family[b]
            limits = [rules.frames if same else rules.photos for same in one]
            part.outcome = [_outcome(REASONS[code], limits[k], values, k) for k, code in enumerate(reasons)]
        parts.append(part)
    return parts[0], parts[1]


def _values(faces: Faces, a: npt.NDArray[np.int64], b: npt.NDArray[np.int64]) -> Values:
    """The measured columns of pairs; NaN where something is not known."""
    nothing = np.full(len(a), np.nan, np.float32)

    def cosine(parts: tuple[Any, ...] | None) -> npt.NDArray[np.float32]:
        if parts is None or parts[0] is None or not len(a):
            return nothing
        known = np.any(parts[0][a], axis=1) & np.any(parts[0][b], axis=1)
        return np.where(known, likeness(parts, a, b), np.float32(np.nan))

    expression = nothing
    if faces.expressions is not None:
        expression = np.abs(faces.expressions[a] - faces.expressions[b]).sum(axis=1) / np.float32(2)
    one = faces.family[a] == faces.family[b]
    return {
        "similarity": cosine((faces.embedding,)),
        "similarity2": cosine((faces.embedding2,)),
        "d_yaw": _difference(faces.yaw, a, b),
        "d_pitch": _difference(faces.pitch, a, b),
        "d_expression": expression,
        "d_time_ms": np.where(one, _difference(faces.time_ms, a, b), np.nan),
        "face_correlation": cosine(None if faces.thumb is None else faces.faces()),
        "copy_similarity": cosine((faces.copy,)),
    }


def _difference(values: Any, a: npt.NDArray[np.int64], b: npt.NDArray[np.int64]) -> npt.NDArray[Any]:
    return np.full(len(a), np.nan, np.float32) if values is None else np.abs(values[a] - values[b])


def _outcome(reason: str, limits: Limits, values: Values, k: int) -> dict[str, Any]:
    column, sign, bound = {
        pairing.LOW: ("similarity", ">=", limits.low),
        pairing.HIGH: ("similarity", "<=", limits.high),
        pairing.LOW2: ("similarity2", ">=", limits.low2),
        pairing.FACE_COPY: ("face_correlation", "<=", limits.face_correlation),
        pairing.COPY: ("copy_similarity", "<=", limits.copy_similarity),
        pairing.DIFFERENCE: ("", "", None),
    }[reason]
    if bound is not None:
        value, threshold = float(values[column][k]), f"{sign} {bound:g}"
        message = f"{column} is {value:.3f}, must be {threshold}"
    else:
        asked = {"yaw": limits.yaw, "pitch": limits.pitch, "expression": limits.expression, "time_ms": limits.time_ms}
        shares = {
            name: float(values[f"d_{name}"][k]) / least if least else 0.0
            for name, least in asked.items()
            if least is not None and not np.isnan(values[f"d_{name}"][k])
        }
        value = max(shares.values(), default=0.0)
        threshold = " or ".join(f"{name} >= {least:g}" for name, least in asked.items() if least is not None)
        message = f"too little difference: {value:.0%} of the least asked for"
    return {"status": REJECTED, "reason": reason, "value": value, "threshold": threshold, "message": message}
