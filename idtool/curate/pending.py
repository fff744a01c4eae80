"""Steps that need generative models: `animate`, `inpaint`, `swap`. Their settings, columns and place in recipes are
fixed here; until their models are built they are skipped with the reason, and so never change a table.

All three add images or videos to the table as rows of their own: columns as after ingest, `parent` the id of the row
they were made from, `origin` saying how, and the identity label of the parent, since they show the same person.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import pyarrow as pa
from pydantic import Field

from idtool.engine.operator import Operator
from idtool.engine.step import RowStep, Settings
from idtool.errors import MissingError

MADE = pa.schema(
    [
        pa.field(
            "origin", pa.string(), metadata={"doc": "how the row came about: photo, video, animate, inpaint, swap"}
        ),
        pa.field("parent", pa.string(), metadata={"doc": "id of the row it was made from"}),
        pa.field("prompt", pa.string(), metadata={"doc": "text that the generator was given"}),
        pa.field("generator", pa.string(), metadata={"doc": "model and revision that made it"}),
        pa.field("generator_seed", pa.int64(), metadata={"doc": "seed it was made with"}),
    ]
)


class Pending(RowStep):
    """A step whose contract stands and whose models are not built."""

    role: ClassVar[str]
    needs: ClassVar[tuple[str, ...]] = (
        "id",
        "kind",
        "media",
        "width",
        "height",
        "identity_label",
        "licence",
        "consent",
    )

    def skip_reason(self) -> str:
        if not self.env.has(self.role):
            return f"needs role {self.role}; profile {self.env.profile} binds none"
        model = self.env.require(self.role).model
        return f"is not built in this version (role {self.role} bound to {model})"

    def reads(self, available: Mapping[str, pa.Field]) -> tuple[str, ...]:
        return self.needs

    def writes(self, available: Mapping[str, pa.Field]) -> pa.Schema:
        return MADE

    def operators(self) -> list[Operator]:
        raise MissingError(f"Step {self.kind!r} {self.skip_reason()}.", "Take it out of the recipe.")


class AnimateSettings(Settings):
    prompts: tuple[str, ...] = ()
    """What should happen in the clips; chosen in turn, seeded by the row id. Empty: the model's own motion."""
    clips: int = Field(default=1, ge=1)
    """Videos per photo."""
    seconds: float = Field(default=5.0, gt=0)
    fps: float = Field(default=20.0, gt=0)
    """Frames per second of the clips; the paper samples pairs at 20."""


class Animate(Pending):
    """Photos of kind `image` as first frames of generated videos: new rows of kind `video`, origin `animate`, with
    `duration` and `fps`, which step `frames` cuts like any other video (DMID, App. A.4.1: Wan2.1)."""

    kind = "animate"
    role = "i2v"
    Settings: ClassVar[type[Settings]] = AnimateSettings
    summary = "turn photos into short videos of the same person"


class InpaintSettings(Settings):
    prompts: tuple[str, ...] = ()
    """What to fill with; chosen in turn, seeded by the row id."""
    masks: tuple[str, ...] = ("background", "hair", "face")
    """Regions that are made anew, one image for each (DMID, §4.1.2: diverse pairs through different masks)."""
    per_image: int = Field(default=1, ge=1)


class Inpaint(Pending):
    """Photos with one region made anew: new rows of kind `image`, origin `inpaint` (DMID, App. A.4.1: ACE++)."""

    kind = "inpaint"
    role = "fill"
    Settings: ClassVar[type[Settings]] = InpaintSettings
    summary = "repaint regions of photos around the same face"
