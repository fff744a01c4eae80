"""What becomes of repaired images: kept when they are closer to their person than before, else rejected."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from idtool.curate.derived import new_and_old
from idtool.curate.gate import Bound, judge
from idtool.curate.repair import WRITES as REPAIR
from idtool.engine.operator import KEPT, OUTCOME, Operator, Rejected, Row, map_rows, unchanged
from idtool.evaluate.measures.base import column

OWN = pa.schema(
    [
        column("swap_source", pa.string(), "id of the image whose face was put in"),
        column("swap_before", pa.float32(), "cosine of the image that was repaired to that one", "[-1, 1]"),
        column("swap_after", pa.float32(), "the same of the repaired image", "[-1, 1]"),
    ]
)


@dataclass
class JudgeSwaps(Operator):
    """Rejects repaired images that are not more alike their person than before, or that a gate refuses."""

    rise: float
    """Least gain of similarity; at 0 any gain will do."""
    reach: float | None
    """Least similarity afterwards."""
    checks: list[tuple[str, str, Bound]]
    """(gate, column, bound)."""

    reads = ("embedding", "face_kps", *REPAIR.names)
    writes = OWN

    def config(self) -> dict[str, Any]:
        return {}  # the step says it

    def __call__(self, batch: pa.Table) -> pa.Table:
        new, old = new_and_old(batch)
        parts = [unchanged(old, self.writes)]
        if new.num_rows:
            judged = map_rows(new, self.closer, self.writes)
            parts.append(self._gated(judged).select(parts[0].column_names))
        return pa.concat_tables(parts)

    def closer(self, row: Row) -> Row:
        """The similarity to the image whose face was put in. Raises Rejected."""
        if row["face_kps"] is None or row["embedding"] is None:
            raise Rejected("swap.no_face", "no face is found in the repaired image")
        after = float(np.dot(row["embedding"], row["repair_embedding"]))
        before, least = row["swap_before"], row["swap_before"] + self.rise
        told: Row = {"swap_after": after}
        if not after > before or after < least:
            word = ">=" if self.rise else ">"
            message = f"similarity {after:.3f} after the swap, {before:.3f} before"
            return told | _refused("swap.similarity", message, after, f"{word} {least:.4g}")
        if self.reach is not None and after < self.reach:
            message = f"similarity {after:.3f} after the swap"
            return told | _refused("swap.reach", message, after, f">= {self.reach:g}")
        return told

    def _gated(self, rows: pa.Table) -> pa.Table:
        if not self.checks:
            return rows
        closer = rows.filter(pc.equal(rows["status"], KEPT))
        rest = rows.filter(pc.not_equal(rows["status"], KEPT))
        gated = judge(closer.drop_columns(OUTCOME.names), self.checks)
        reason = pc.binary_join_element_wise("swap", gated["reason"], ".")
        gated = gated.set_column(gated.column_names.index("reason"), OUTCOME.field("reason"), reason)
        return pa.concat_tables([gated.select(rest.column_names), rest])


def _refused(reason: str, message: str, value: float, threshold: str) -> Row:
    return {"status": "rejected", "reason": reason, "message": message, "value": value, "threshold": threshold}
