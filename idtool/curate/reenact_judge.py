"""What becomes of reenacted pictures: kept when they still show the portrait's person, with the driver's expression."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from idtool.curate.derived import NEW, new_and_old
from idtool.curate.drivers import POSES
from idtool.engine.operator import Operator, Row, map_rows, unchanged
from idtool.evaluate.measures.base import column

OWN = pa.schema(
    [
        column("driver", pa.string(), "file name of the driving picture"),
        column("driver_expression", pa.string(), "expression that the driving picture shows"),
        column("driver_pose", pa.string(), f"pose of the driving picture: {', '.join(POSES)}"),
        column("reenact_similarity", pa.float32(), "cosine to the portrait that it was made of", "[-1, 1]"),
    ]
)
SOUGHT = pa.field("reenact_embedding", pa.list_(pa.float32()))
"""The portrait's embedding; passes between the operators of this step only."""


@dataclass
class Judge(Operator):
    """Rejects new pictures that are not the portrait's person, or have another expression than their driver."""

    keep_above: float | None
    """Least cosine."""
    judged: tuple[str, ...]

    writes = pa.schema([OWN.field("reenact_similarity")])

    @property
    def reads(self) -> tuple[str, ...]:  # type: ignore[override]
        return (NEW.name, SOUGHT.name, "driver_expression", *self.judged)

    def config(self) -> dict[str, Any]:
        return {"judged": list(self.judged)}

    def __call__(self, batch: pa.Table) -> pa.Table:
        new, old = new_and_old(batch)
        parts = [unchanged(old, self.writes)]
        if new.num_rows:
            parts.append(map_rows(new, self.closer, self.writes).select(parts[0].column_names))
        return pa.concat_tables(parts)

    def closer(self, row: Row) -> Row:
        """Column `reenact_similarity`, and the outcome."""
        told: Row = {"reenact_similarity": None}
        if "embedding" in self.judged:
            if row["embedding"] is None or row[SOUGHT.name] is None:
                where = "portrait" if row[SOUGHT.name] is None else "picture"
                return told | _refused("no_face", f"no face is found in the {where}, to compare them by")
            found, least = float(np.dot(row["embedding"], row[SOUGHT.name])), self.keep_above or -1.0
            told = {"reenact_similarity": found}
            if found < least:
                message = f"similarity {found:.3f} to the portrait"
                return told | _refused("similarity", message, found, f">= {least:g}")
        if "expression" in self.judged and row["expression"] != row["driver_expression"]:
            seen = row["expression"] or "like nothing that could be told"
            message = f"the face looks {seen}, the driver {row['driver_expression']}"
            return told | _refused("expression", message)
        return told


def _refused(reason: str, message: str, value: float | None = None, threshold: str | None = None) -> Row:
    told = {"status": "rejected", "reason": f"reenact.{reason}", "message": message}
    return {**told, "value": value, "threshold": threshold}
