"""What a generation method is (DESIGN §7): requests in, images out, one interface for every kind.

A method is made from its entry under `methods` in pipelines.yaml (`Spec`), pickled to workers, loaded there, and called
with batches of requests that agree in size and settings. It draws one generator per image, so that pixels depend on
the request alone, never on its neighbours.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
from pydantic import Field

from idtool.engine.operator import Context, Rejected
from idtool.engine.step import Binding, Settings
from idtool.errors import UsageError
from idtool.models.faces import Face

Image = npt.NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class Person:
    """One reference: whom the image is to show."""

    uri: str
    """Table text of the picture (`idtool.media.paths`)."""
    image: Image
    """RGB uint8 (H, W, 3)."""
    face: Face | None = None
    """The largest face, where the method asked for faces."""
    label: str | None = None
    """Who it is, where known."""
    box: tuple[float, float, float, float] | None = None
    """Where the person is to stand: left, top, right, bottom as shares of the frame."""


@dataclass(frozen=True, eq=False)
class Request:
    """One image to be made."""

    id: str
    prompt: str
    people: tuple[Person, ...]
    seed: int
    width: int
    height: int
    settings: MethodSettings
    """The method's settings with what the request changes."""
    negative: str | None = None
    other: Person | None = None
    """Somebody else out of the same table, for the baseline that must not look like the reference."""


@dataclass(frozen=True, eq=False)
class Made:
    """One image that was made."""

    image: Image
    """RGB uint8 (H, W, 3)."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """What the record of this image should say besides the request: JSON-able, and the same for the same request."""
    latents: Any = None
    """The packed latents (tokens, channels) that the image was decoded from, a tensor on the CPU; None where the method
    has none to give."""


class MethodSettings(Settings):
    """What every method has; families add theirs. Every value can be changed per request."""

    width: int = Field(default=512, ge=8, le=8192)
    """Pixels, unless the request says otherwise."""
    height: int = Field(default=512, ge=8, le=8192)
    negative_prompt: str | None = None
    """Used where the request gives none and the method takes one."""


@dataclass(frozen=True)
class Spec:
    """A method as configured. Picklable."""

    name: str
    """Its key under `methods`."""
    kind: str
    """Its key in `METHODS`."""
    bindings: Mapping[str, Binding]
    """Slot -> model: `base`, `adapter`, `face` and the like."""
    settings: MethodSettings
    licence: str | None = None
    conditions_on: str | None = None
    """The face network that the method looks through; scores of the same network flatter it."""

    def models(self) -> list[dict[str, Any]]:
        """Slot, address, revision and licence of every model, for records."""
        return [
            {"slot": slot, "model": one.model, "revision": one.revision, "licence": one.licence}
            for slot, one in self.bindings.items()
        ]


class Method(ABC):
    """Base of all methods. Class variables say what is known without loading anything."""

    summary: ClassVar[str]
    version: ClassVar[int] = 1
    """Raised whenever the images change for the same request."""
    Settings: ClassVar[type[MethodSettings]] = MethodSettings
    slots: ClassVar[Mapping[str, str]] = {}
    """Model slots that must be bound -> what stands there, in words."""
    optional: ClassVar[Mapping[str, str]] = {}
    """Model slots that may be bound."""
    roles: ClassVar[tuple[str, ...]] = ()
    """Roles of the profile that it uses (`t2i`, `portraits`, `identity`)."""
    packages: ClassVar[tuple[str, ...]] = ()
    """Modules that must be importable."""
    people: ClassVar[tuple[int, int]] = (1, 1)
    """Fewest and most people in one image."""
    needs_face: ClassVar[bool] = False
    """Whether every reference must show a face."""
    needs_prompt: ClassVar[bool] = True
    needs_other: ClassVar[bool] = False
    """Whether requests must come with a picture of somebody else."""
    parallel: ClassVar[bool] = False
    """Whether `generate` may run in several threads at once. Pipelines may not: they keep their scheduler's state."""
    accelerated: ClassVar[bool] = True
    """Whether it uses the accelerator of `--device`; servers and baselines do not."""
    takes_boxes: ClassVar[bool] = False
    fixed: ClassVar[tuple[str, ...]] = ()
    """Settings that loading depends on: a request cannot change them."""
    multiple: ClassVar[int] = 1
    """Width and height must be multiples of it."""
    baseline: ClassVar[bool] = False
    vram_gib: ClassVar[float | None] = None
    """Accelerator memory, as its authors or we measured it; None: unknown."""

    def __init__(self, spec: Spec, roles: Mapping[str, Sequence[Binding]] | None = None) -> None:
        self.spec = spec
        self.bound = {role: tuple((roles or {}).get(role, ()))[:1] for role in self.roles}
        """The profile's main model of each of `roles`; empty where it binds none."""

    @classmethod
    def why_not(cls, spec: Spec, roles: Mapping[str, Sequence[Binding]]) -> str | None:
        """Why the method cannot run here under a profile, or None. Looks at nothing but names and packages."""
        import importlib.util

        for slot, what in cls.slots.items():
            if slot not in spec.bindings:
                return f"its model slot {slot!r} ({what}) is not bound"
        for role in cls.roles:
            if not roles.get(role):
                return f"needs role {role}, which the profile does not bind"
        absent = [name for name in cls.packages if importlib.util.find_spec(name) is None]
        return f"needs packages that are not installed: {', '.join(absent)}" if absent else None

    def load(self, context: Context) -> None:  # noqa: B027 - optional hook
        """Get the models ready on `context.device`; called once per worker. MissingError when they cannot be had."""

    def check(self, request: Request) -> None:
        """Rejected when this method cannot serve a request: number of people, size, prompt."""
        fewest, most = self.people
        count = len(request.people)
        if not fewest <= count <= most:
            wanted = f"{fewest}" if fewest == most else f"{fewest} to {most}"
            raise Rejected(
                "request.people",
                f"{self.spec.name} takes {wanted} reference(s), the request has {count}",
                value=float(count),
                threshold=f"{fewest}..{most}",
            )
        if self.needs_prompt and not request.prompt.strip():
            raise Rejected("request.prompt", f"{self.spec.name} needs a prompt, and this request has none")
        for side, value in (("width", request.width), ("height", request.height)):
            if value % self.multiple:
                raise Rejected(
                    f"request.{side}",
                    f"{self.spec.name} needs a {side} that is a multiple of {self.multiple}",
                    value=float(value),
                    threshold=f"multiple of {self.multiple}",
                )

    @abstractmethod
    def generate(self, requests: Sequence[Request]) -> Sequence[Made | Exception]:
        """An image for each request; all agree in size and settings. An exception in place of an image is the outcome
        of that request alone: `Rejected`, or else an error. Exhausted memory is raised."""

    def close(self) -> None:  # noqa: B027 - optional hook
        """Give back what `load` holds beyond memory, such as a process; called when a run ends, in whatever way."""

    def preprocessing(self) -> Mapping[str, Any]:
        """How references are prepared: face network, its hash, crops. For the record; after `load`."""
        return {}

    def fingerprint(self) -> dict[str, Any]:
        """What the images depend on besides the request. JSON-able; known before `load`."""
        return {
            "kind": self.spec.kind,
            "version": self.version,
            "models": {slot: [one.model, one.revision, dict(one.options)] for slot, one in self.spec.bindings.items()},
            "roles": {
                role: [[one.model, one.revision, dict(one.options)] for one in bound]
                for role, bound in self.bound.items()
            },
            "settings": self.spec.settings.model_dump(mode="json"),
        }

    def dtype(self) -> str:
        """Precision of the main network, for the record."""
        return "float32"


def with_changes(settings: MethodSettings, changes: Mapping[str, Any]) -> MethodSettings:
    """Settings with a request's changes, checked. UsageError for an unknown key or a value out of range."""
    from pydantic import ValidationError

    if not changes:
        return settings
    try:
        return type(settings).model_validate({**settings.model_dump(), **changes})
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        known = ", ".join(type(settings).model_fields)
        raise UsageError(f"setting {where!r}: {first['msg']}.", f"This method has: {known}.") from error
