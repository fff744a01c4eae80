"""Pairs and rejects on their way into a run, with what samples.parquet says of their images."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from idtool.curate.prefer import candidates as source
from idtool.curate.prefer import table
from idtool.curate.prefer.candidates import Candidates
from idtool.curate.prefer.inspecting import Inspector
from idtool.curate.prefer.pairs import Dropped, Found, Pair
from idtool.curate.prefer.parts import Part
from idtool.engine.operator import REJECTED
from idtool.engine.progress import Progress
from idtool.engine.table import TableWriter, file_writer
from idtool.run import Run

BLOCK = 20_000
"""Pairs whose prompts and references are in memory at once."""


class Writer:
    """Writes pairs and rejects, with what samples.parquet says of their images, in blocks."""

    def __init__(
        self,
        run: Run,
        bench: Path,
        images: Candidates,
        methods: frozenset[str],
        parts: Mapping[str, Part],
        tau: Mapping[str, float],
        inspector: Inspector,
    ) -> None:
        self.run, self.bench, self.images, self.methods, self.parts = run, bench, images, methods, parts
        self.tau, self.inspector = tau, inspector
        self.digest = table.PairsHash()
        self._first = {int(group): int(rows[0]) for group, rows in images.by_group()}

    def write(self, found: Found, progress: Progress) -> dict[str, Any]:
        """Counts of the step."""
        counts: dict[str, Any] = {"kept": 0, "rejected": 0, "errors": 0, "margin": None}
        reasons: Counter[str] = Counter()
        sources: Counter[str] = Counter()
        flags: Counter[str] = Counter()
        margins: list[float] = []
        target = self.run.step_dir(*table.MINED) / "table"
        target.parent.mkdir(parents=True, exist_ok=True)
        lost = self.run.path / "rejects" / "00-prefer.parquet"
        with ExitStack() as stack:
            kept = stack.enter_context(TableWriter(target, table.SCHEMA))
            dropped = table.Buffer(stack.enter_context(file_writer(lost, table.REJECTS)), table.REJECTS)
            for block in _blocks(found, BLOCK):
                rows = []
                for row in self._rows(block):
                    if "status" in row:
                        dropped.add(row)
                        reasons[row["reason"]] += 1
                        counts["errors" if row["status"] != REJECTED else "rejected"] += 1
                    else:
                        rows.append(row)
                        self.digest.add(row["id"])
                        sources[row["source"]] += 1
                        flags.update(row["flags"])
                        margins.append(row["margin"])
                for k in range(0, len(rows), table.ROWS):
                    kept.write(pa.Table.from_pylist(rows[k : k + table.ROWS], table.SCHEMA))
                counts["kept"] += len(rows)
                progress.advance(table.KIND, len(rows), len(block) - len(rows), 0)
            dropped.flush()
        if margins:
            low, middle, high = np.quantile(margins, [0.0, 0.5, 1.0])
            counts["margin"] = {"least": float(low), "median": float(middle), "most": float(high)}
        return {
            **counts,
            "reasons": dict(reasons.most_common()),
            "sources": dict(sources.most_common()),
            "flags": dict(flags.most_common()),
        }

    def _rows(self, block: Sequence[Pair | Dropped]) -> Iterator[dict[str, Any]]:
        """Rows of `table.SCHEMA`, and of `table.REJECTS` (those have a `status`)."""
        wanted = {self._shown(one) for one in block}
        told = source.details(self.bench, wanted, self.methods)
        pairs = []
        for one in block:
            said = told[self._shown(one)]
            shared = {name: said[name] for name in ("identity", "prompt", "references")}
            shared["group"] = self.images.keys[one.group]
            if isinstance(one, Dropped):
                yield self._dropped(one, shared)
            else:
                pairs.append(self._pair(one, {**shared, "people": said["people"]}))
        for row, outcome in self.inspector(pairs):
            yield row if outcome is None else {**_reject(row), **outcome}

    def _shown(self, one: Pair | Dropped) -> int:
        return self._first[one.group] if one.chosen is None else one.chosen

    def _pair(self, one: Pair, shared: Mapping[str, Any]) -> dict[str, Any]:
        images = self.images
        ends = {"chosen": one.chosen, "rejected": one.rejected}
        row: dict[str, Any] = {**shared, **dict.fromkeys(table.SCHEMA.names[-4:])}
        for name, number in ends.items():
            row[name] = images.media[number]
            row[f"{name}_sample"] = images.ids[number]
            row[f"{name}_method"] = images.methods[number]
            row[f"{name}_seed"] = images.seeds[number]
        names = [(row[f"{name}_method"], row[f"{name}_sample"]) for name in ends]
        row |= {
            "id": table.pair_id(shared["group"], *names),
            "source": one.source,
            "margin": one.margin,
            "metrics": [self._metric(part, one) for part in self.parts],
            "flags": list(one.flags),
            "reason": one.reason,
        }
        return row

    def _metric(self, part: str, one: Pair) -> dict[str, Any]:
        chosen, rejected = (float(self.images.values[part][row]) for row in (one.chosen, one.rejected))
        known = {"chosen": _or_none(chosen), "rejected": _or_none(rejected), "delta": _or_none(chosen - rejected)}
        return {"part": part, "metric": self.parts[part].metric, **known, "tau": self.tau.get(part)}

    def _dropped(self, one: Dropped, shared: Mapping[str, Any]) -> dict[str, Any]:
        media = {
            name: None if row is None else self.images.media[row]
            for name, row in (("chosen", one.chosen), ("rejected", one.rejected))
        }
        told = {name: getattr(one, name) for name in ("reason", "value", "threshold", "message", "source")}
        return {**shared, **media, **told, "id": None, "status": REJECTED, "step": table.KIND}


def _reject(row: Mapping[str, Any]) -> dict[str, Any]:
    """What a pair's row has in common with a reject's."""
    return {name: row.get(name) for name in table.REJECTS.names} | {"step": table.KIND, "status": REJECTED}


def _or_none(value: float) -> float | None:
    return value if value == value else None


def _blocks(found: Iterable[Pair | Dropped], size: int) -> Iterator[list[Pair | Dropped]]:
    rest = iter(found)
    while block := list(islice(rest, size)):
        yield block
