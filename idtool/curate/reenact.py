"""The `reenact` step: every portrait with the expressions and poses of driving pictures, by the program of role
`reenactor` (VariFace-10k, DynamicID, App. 7.3: Face-Adapter on drivers of KDEF, 35 pictures of each person).

The paper then lets IP-Adapter-FaceID-Portrait make each set anew, since profiles come out distorted (`refine_with`). It
does not say how pose and expression outlast that: here each picture is shown with those of its set nearest in pose, and
its prompt names both. What came out is told by gates.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import pyarrow as pa
from pydantic import Field, model_validator

from idtool.config_models import MethodConfig
from idtool.curate import made, reenactor
from idtool.curate.derived import Derives
from idtool.curate.drivers import Driver, absent, drivers_in
from idtool.curate.reenact_judge import OWN, Judge
from idtool.curate.reenact_rows import WRITES, ReenactPortraits
from idtool.engine.operator import Operator
from idtool.engine.step import Binding, Env, Settings
from idtool.errors import UsageError
from idtool.generate.method import Spec
from idtool.media.limits import PILLOW_MAX_PIXELS
from idtool.models.resources import Gpus, resources

FACES = "faces"


class ReenactSettings(Settings):
    drivers: str | None = None
    """A folder, or a table with columns path, expression, pose (`drivers.drivers_in`). null: the step is skipped. Of
    several pictures of one expression and pose, one is drawn for each portrait."""
    refine_with: MethodConfig | None = None
    """A method, written as under `methods`, that makes each picture anew of up to `refine_pictures` of its set. It must
    get its people by pictures. null: pictures stay as the reenactor gives them."""
    refine_pictures: int = Field(default=5, ge=1)
    """Pictures that it is shown, at most: its own, then the nearest in pose. The paper's adapter takes 5 vectors."""
    refine_prompt: str = "a photo of a person with {expression} expression in a {view} view"
    """Ours, in the words of the paper's test prompts. `{expression}`: a happy; `{view}`: front, three-quarter, side."""
    keep_above: float | None = Field(default=None, ge=-1, le=1)
    """Least cosine to the portrait, by the main network of role `identity`. null: all are kept."""
    same_expression: bool = False
    """Whether the measured expression must be the driver's. It needs measure `expression`."""
    where: Mapping[str, Any] = Field(default_factory=dict)
    """Column -> value: only such images, e.g. `{origin: crop}`."""
    keep_portraits: bool = True
    """Whether the portraits stay in the table."""
    remeasure: bool = True
    """Measure what is made by every measure of images whose columns are there."""
    quality: int = Field(default=95, ge=1, le=100)
    """JPEG quality, at full colour resolution."""
    max_pixels: int = Field(default=100_000_000, ge=1, le=PILLOW_MAX_PIXELS)
    gpus: Gpus = None

    @model_validator(mode="after")
    def _measured(self) -> ReenactSettings:
        if not self.remeasure and (self.keep_above is not None or self.same_expression):
            raise ValueError("keep_above and same_expression judge what is measured: they need remeasure")
        return self


class Reenact(Derives):
    """Rejects what it makes: `reenact.driver` (unreadable), `reenact.no_face`, `reenact.similarity`,
    `reenact.expression`; what programs reject has their reason. Portraits stay (`keep_portraits`)."""

    kind = "reenact"
    Settings: ClassVar[type[Settings]] = ReenactSettings
    summary = "give portraits the expressions and poses of driving pictures"
    shard_rows = 1  # 35 pictures: what is done is committed at once.
    needs = (*Derives.needs, *made.TERMS)

    settings: ReenactSettings

    def __init__(self, settings: ReenactSettings, env: Env) -> None:
        super().__init__(settings, env)
        self._drivers: tuple[Driver, ...] | None = None

    @property
    def drivers(self) -> tuple[Driver, ...]:
        """The driving pictures, listed once."""
        if self._drivers is None:
            self._drivers = drivers_in(str(self.settings.drivers))
        return self._drivers

    @property
    def refiner(self) -> Spec | None:
        """The second method, as configured."""
        entry = self.settings.refine_with
        return None if entry is None else reenactor.spec_of("refine_with", entry)

    def skip_reason(self) -> str | None:
        if (why := reenactor.why_not(self.env)) is not None:
            return why
        if self.settings.drivers is None:
            return "needs driving pictures: setting `drivers`, a folder or table of them"
        if (refiner := self.refiner) is not None and (why := self._why_not(refiner)) is not None:
            return f"refine_with: {why}"
        return None if self._detector() or not self._look() else f"needs role {FACES}: its methods ask for faces"

    def _why_not(self, spec: Spec) -> str | None:
        method = reenactor.method_of(spec)
        if method.people[1] < 1:
            return f"method kind {spec.kind} takes no pictures of people"
        return type(method).why_not(spec, self.env.bindings)

    def _look(self) -> bool:
        return any(reenactor.method_of(spec).needs_face for spec in self._specs())

    def _specs(self) -> list[Spec]:
        """The reenactor, and what makes its pictures anew."""
        return [reenactor.program(self.env.require(reenactor.ROLE)), *([self.refiner] if self.refiner else [])]

    def _detector(self) -> Binding | None:
        return made.usable(self.env, FACES) if self._look() else None

    def reads(self, available: Mapping[str, pa.Field]) -> tuple[str, ...]:
        columns = super().reads(available)
        for name in self.judged():
            if name not in available and name not in self.missing:
                raise UsageError(
                    f"Step 'reenact' judges {name!r}, which no step before it writes.",
                    "Measure faces, identity and expression before it, or leave out keep_above and same_expression.",
                )
        return (*columns, *self.settings.where, *self._judged())

    def judged(self) -> dict[str, str]:
        """Column that is judged -> the setting that asks for it."""
        wanted = {"embedding": "keep_above"} if self.settings.keep_above is not None else {}
        return wanted | ({"expression": "same_expression"} if self.settings.same_expression else {})

    def _judged(self) -> tuple[str, ...]:
        return tuple(name for name in self.judged() if name not in self.missing)

    def writes(self, available: Mapping[str, pa.Field]) -> pa.Schema:
        return WRITES

    def provides_none(self) -> Mapping[str, str]:
        why = self.skip_reason()
        return dict.fromkeys(OWN.names, why) if why else {}

    def notes(self) -> list[str]:
        found = [f"{how} is skipped: {self.missing[of]}" for of, how in self.judged().items() if of in self.missing]
        if self.skip_reason() is None and (lost := absent(self.drivers)):
            found.append(f"{len(lost)} of 35 expressions and poses have no driver: {', '.join(lost[:5])}")
        return found

    def models(self) -> list[Binding]:
        detector = self._detector() if self.skip_reason() is None else None
        return [*([detector] if detector else []), *super().models()]

    def unwrapped(self) -> list[Binding]:
        """Models that its methods read themselves."""
        if self.skip_reason() is not None:
            return []
        return [binding for spec in self._specs() for binding in spec.bindings.values()]

    def operators(self) -> list[Operator]:
        make = ReenactPortraits(
            self.settings.model_dump(mode="json"),
            tuple(self._specs()),
            {role: tuple(bound) for role, bound in self.env.bindings.items()},
            self._detector(),
            self.drivers,
            self._judged(),
        )
        make.resources = resources(self.env, self.unwrapped(), self.settings.gpus)
        judge = [Judge(self.settings.keep_above, self._judged())] if self._judged() else []
        return [make, *self.measuring(), *judge]
