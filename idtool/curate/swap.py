"""The `swap` step: images that step `repair` found get their person's face from the image that it chose (DMID, section
4.1.2), by a face swapper (role `swapper`), sharpened by a restorer (role `restorer`) where one is bound.

The swapped image is a row of its own beside the image that it was made of (`parent`), measured as that one was. It is
rejected when it is no more alike its person than before. Its `licence` names the terms of the networks: what they
drew must not be used for more than they allow.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
from pydantic import Field

from idtool.curate import made
from idtool.curate.derived import NEW, Derives, attempt, derived_id, pixels_of, stored
from idtool.curate.gate import Bound
from idtool.curate.made import MADE
from idtool.curate.repair import PROVENANCE, SWAPPER
from idtool.curate.repair import WRITES as REPAIR
from idtool.curate.swap_judge import OWN, JudgeSwaps
from idtool.engine.operator import Context, Operator, Row, map_rows
from idtool.engine.step import Binding, Env, Settings
from idtool.errors import UsageError
from idtool.media.limits import PILLOW_MAX_PIXELS
from idtool.models import why_not
from idtool.models.resources import Gpus, resources
from idtool.registry import did_you_mean

RESTORER = "restorer"
NEEDED = ("embedding", "face_kps", "face_box", "face_score")
MEASURED = ("faces", "identity")
"""Measures without which a repaired image could not be judged."""


class SwapSettings(Settings):
    fidelity: float | None = Field(default=0.7, ge=0, le=1)
    """CodeFormer's w: 0 the cleanest face, 1 the closest to what the swapper drew. null: no restoration."""
    rise: float = Field(default=0.0, ge=0, le=2)
    """Least gain of similarity; at 0 any gain will do."""
    reach: float | None = Field(default=None, ge=-1, le=1)
    """Least similarity afterwards, e.g. the gate of pairs. null: `pair` will judge it."""
    gate: dict[str, dict[str, Bound]] = Field(default_factory=dict)
    """Gates that repaired images have to pass, written as those of step `gate`."""
    quality: int = Field(default=95, ge=1, le=100)
    """JPEG quality, at full colour resolution."""
    max_pixels: int = Field(default=100_000_000, ge=1, le=PILLOW_MAX_PIXELS)
    gpus: Gpus = None
    """Accelerators that one worker reserves on a cluster; null: 1 where one of the models runs on CUDA, else 0."""


class Swap(Derives):
    """Rejects repaired images only: `swap.no_face`, `swap.similarity`, `swap.reach`, `swap.<gate>.<column>`."""

    kind = "swap"
    Settings: ClassVar[type[Settings]] = SwapSettings
    summary = "give images their person's face from another image, and keep what came closer"
    shard_rows = 16
    # Step `repair` leaves columns that nobody needs afterwards: `writes` is the whole schema.
    new_table = True

    settings: SwapSettings

    def __init__(self, settings: SwapSettings, env: Env) -> None:
        super().__init__(settings, env)

    @property
    def restorer(self) -> Binding | None:
        return made.usable(self.env, RESTORER) if self.settings.fidelity is not None else None

    def skip_reason(self) -> str | None:
        return why_not(self.env, SWAPPER)

    def reads(self, available: Mapping[str, pa.Field]) -> tuple[str, ...]:
        for name in REPAIR.names:
            if name not in available:
                raise UsageError("Step 'swap' repairs what step 'repair' finds.", "Put `- step: repair` before it.")
        for gate, bounds in self.settings.gate.items():
            for name in bounds:
                if name not in available and name not in self.missing:
                    hint = did_you_mean(name, sorted(available), listed_as="Columns here")
                    raise UsageError(f"Gate {gate!r} of swap judges {name!r}, which no step before it writes.", hint)
        columns = super().reads(available)
        measured = {measure.name for measure in self._measures}
        if lost := [name for name in MEASURED if name not in measured]:
            raise UsageError(
                f"Step 'swap' measures what it makes, and needs measure {lost[0]!r} for it.",
                "Add it to the measures of a step before.",
            )
        return (*columns, *REPAIR.names, *NEEDED, *PROVENANCE)

    def writes(self, available: Mapping[str, pa.Field]) -> pa.Schema:
        replaced = {*REPAIR.names, *MADE.names, *OWN.names}
        return pa.schema([*(field for name, field in available.items() if name not in replaced), *MADE, *OWN])

    def notes(self) -> list[str]:
        found = [
            f"gate {gate}.{name} is skipped: {self.missing[name]}"
            for gate, columns in self.settings.gate.items()
            for name in columns
            if name in self.missing
        ]
        if self.settings.fidelity is not None and self.restorer is None:
            found.append(f"faces are not restored: {why_not(self.env, RESTORER)}")
        return found

    def models(self) -> list[Binding]:
        return [*self.env.all(SWAPPER)[:1], *([self.restorer] if self.restorer else []), *super().models()]

    def checks(self) -> list[tuple[str, str, Bound]]:
        """(gate, column, bound) of every gate that can be judged here."""
        return [
            (gate, name, bound)
            for gate, columns in self.settings.gate.items()
            for name, bound in columns.items()
            if bound.active and name not in self.missing
        ]

    def operators(self) -> list[Operator]:
        need = resources(self.env, self.models(), self.settings.gpus)
        swap = SwapFaces(self.settings, self.env.require(SWAPPER), self.restorer)
        swap.resources = need
        return [swap, *self.measuring(), JudgeSwaps(self.settings.rise, self.settings.reach, self.checks())]


@dataclass
class SwapFaces(Operator):
    """Adds the repaired image of each row that has a `repair_id`."""

    settings: SwapSettings
    swapper: Binding
    restorer: Binding | None

    reads = ("id", "kind", "media", *NEEDED, *REPAIR.names)
    writes = pa.schema([*MADE, *OWN, NEW])

    def config(self) -> dict[str, Any]:
        return {"models": [made.facts(binding) for binding in self._bindings()]}

    def setup(self, context: Context) -> None:
        from idtool.media.store import MediaStore
        from idtool.models import load

        self.store = MediaStore(Path(context.run_dir) / "media")
        place = partial(load, device=context.device, threads=context.threads)
        self._swap: Any = place(self.swapper)
        self._restore: Any = place(self.restorer) if self.restorer else None
        # Rows of one person share their source; neighbours by id rarely do, so a few are kept.
        self._identity = lru_cache(maxsize=256)(self._identity_of)

    def __call__(self, batch: pa.Table) -> pa.Table:
        return map_rows(batch, self.rows_of, self.writes)

    def rows_of(self, row: Row) -> list[Row]:
        """The row itself, and its repaired image where there is something to repair."""
        if row["repair_id"] is None:
            return [{NEW.name: False}]
        told = [made.facts(binding) for binding in self._bindings()]
        new = derived_id(row["id"], "swap", row["repair_id"], told, self.settings.fidelity, self.settings.quality)
        return [{NEW.name: False}, attempt(row, new, "swap", partial(self._repaired, row))]

    def _repaired(self, row: Row) -> Row:
        image = pixels_of(row["media"], self.store.root, self.settings.max_pixels)
        face = _face(row["face_kps"], row["face_box"], row["face_score"])
        identity = self._identity(row["repair_media"], tuple(row["repair_kps"]))
        [image] = self._swap([image], [face], identity)
        if self._restore is not None:
            [image] = self._restore([image], [face], self.settings.fidelity)
        return {
            **stored(image, self.store, "jpeg", self.settings.quality),
            **self._terms(row),
            "generator": " + ".join(made.named(binding) for binding in self._bindings()),
            "swap_source": row["repair_id"],
            "swap_before": row["repair_similarity"],
            # For the judge, who comes after the measures.
            **{name: row[name] for name in REPAIR.names},
        }

    def _identity_of(self, media: str, kps: tuple[float, ...]) -> Any:
        image = pixels_of(media, self.store.root, self.settings.max_pixels)
        return self._swap.identities([image], [_face(kps)])

    def _terms(self, row: Row) -> Row:
        """Source, licence and consent of both images, and the terms of the networks."""
        both = {name: _both(row[name], row[f"repair_{name}"]) for name in PROVENANCE}
        drawn = "; ".join(f"{binding.role}: {binding.licence}" for binding in self._bindings())
        stated = both["licence"] or "not stated"
        return {**both, "source": f"{both['source'] or 'not stated'} (face swapped)", "licence": f"{stated}; {drawn}"}

    def _bindings(self) -> list[Binding]:
        return [self.swapper, *([self.restorer] if self.restorer else [])]


def _face(kps: Any, box: Any = None, score: float | None = None) -> Any:
    from idtool.models.faces import Face

    points = np.asarray(kps, np.float32).reshape(5, 2)
    around = np.concatenate([points.min(axis=0), points.max(axis=0)]) if box is None else np.asarray(box, np.float32)
    return Face(around, float(score or 0.0), points)


def _both(own: str | None, of_source: str | None) -> str | None:
    """What is said of the image, and of the one that its face is from where that is something else."""
    if own == of_source:
        return own
    return f"{own or 'not stated'}; face: {of_source or 'not stated'}"
