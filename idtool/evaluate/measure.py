"""The `measure` step: which measures, in which order, and which of them cannot be made here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

import pyarrow as pa
from pydantic import Field, field_validator

from idtool.engine.operator import Operator
from idtool.engine.step import Binding, Env, RowStep, Settings
from idtool.errors import UsageError
from idtool.evaluate.measure_rows import MeasureRows
from idtool.evaluate.measures import MEASURES
from idtool.evaluate.measures.base import Measure, in_order
from idtool.media.limits import PILLOW_MAX_PIXELS
from idtool.models.resources import Gpus, resources

Scalar = bool | int | float | str


class MeasureSettings(Settings):
    measures: Annotated[tuple[str, ...], Field(min_length=1)]
    """Names from the list of measures; their order does not matter."""
    where: Mapping[str, Scalar | tuple[Scalar, ...]] = Field(default_factory=dict)
    """Measure only rows whose columns have these values, e.g. `{origin: photo}`; the others get nulls."""
    batch: int = Field(default=16, ge=1)
    """Images per model call."""
    max_pixels: int = Field(default=100_000_000, ge=1, le=PILLOW_MAX_PIXELS)
    """Images above it are rejected instead of decoded."""
    gpus: Gpus = None
    """Accelerators that one worker reserves on a cluster; null: 1 where one of the models runs on CUDA, else 0."""

    @field_validator("measures")
    @classmethod
    def _once(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        twice = [name for name in names if names.count(name) > 1]
        if twice:
            raise ValueError(f"measure {twice[0]!r} is listed twice")
        other = [name for name in names if name in MEASURES and MEASURES.get(name).kind != "image"]
        if other:
            raise ValueError(f"measure {other[0]!r} is of generated images with their prompts, not of single images")
        return names


class MeasureStep(RowStep):
    """Adds the columns of its measures to every row; each image is decoded once for all of them."""

    kind = "measure"
    Settings: ClassVar[type[Settings]] = MeasureSettings
    summary = "look at every image: pixels, faces, models"

    settings: MeasureSettings

    def __init__(self, settings: MeasureSettings, env: Env) -> None:
        super().__init__(settings, env)
        self._classes = in_order([MEASURES.get(name) for name in settings.measures])

    def left_out(self) -> dict[str, str]:
        """Measure name -> why it is not made here: its role is not bound, or a column it needs is not made."""
        lost = dict(self.missing)
        out: dict[str, str] = {}
        for cls in self._classes:
            needed = next((name for name in cls.reads if name in lost), None)
            why = cls.why_not(self.env) or (lost[needed] if needed else None)
            if why:
                out[cls.name] = why
                lost |= dict.fromkeys(cls.writes.names, why)
            else:
                for name in cls.writes.names:
                    lost.pop(name, None)
        return out

    def _made(self) -> list[type[Measure]]:
        out = self.left_out()
        return [cls for cls in self._classes if cls.name not in out]

    def skip_reason(self) -> str | None:
        return None if self._made() else "; ".join(self.notes())

    def reads(self, available: Mapping[str, pa.Field]) -> tuple[str, ...]:
        """UsageError for a column that an unlisted measure would write."""
        made = self._made()
        written = {name for cls in made for name in cls.writes.names}
        names = ["id", "media", "width", "height", *self.settings.where]
        for cls in made:
            names += [name for name in cls.uses if name in available]
            for name in cls.reads:
                if name in written:
                    continue
                names.append(name)
                writer = next((key for key, other in MEASURES.items() if name in other.writes.names), None)
                if name not in available and writer:
                    raise UsageError(
                        f"Measure {cls.name!r} needs column {name!r}, which measure {writer!r} writes.",
                        f"Add {writer} to `measures`, here or in a step before.",
                    )
        return tuple(dict.fromkeys(names))

    def writes(self, available: Mapping[str, pa.Field]) -> pa.Schema:
        return pa.schema([field for cls in self._made() for field in cls.writes])

    def notes(self) -> list[str]:
        return [f"measure {name} is left out: {why}" for name, why in self.left_out().items()]

    def provides_none(self) -> Mapping[str, str]:
        out = self.left_out()
        return {name: out[cls.name] for cls in self._classes if cls.name in out for name in cls.writes.names}

    def config(self) -> dict[str, Any]:
        # Which of the listed measures are made is told by the operator; batch size and place change no value.
        return {"settings": self.settings.model_dump(mode="json", exclude={"measures", "batch", "gpus"})}

    def models(self) -> list[Binding]:
        return [binding for cls in self._made() for binding in cls.made(self.env).bindings()]

    def operators(self) -> list[Operator]:
        settings = self.settings
        made = [cls.made(self.env) for cls in self._made()]
        need = resources(self.env, self.models(), settings.gpus)
        return [MeasureRows(made, settings.where, settings.batch, settings.max_pixels, need)]
