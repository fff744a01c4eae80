"""What a measure is: images in, values for its columns out. Many measures share one decode of each image."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from idtool.engine.operator import Context
from idtool.engine.step import Binding, Env
from idtool.errors import UsageError

if TYPE_CHECKING:
    from idtool.models.faces import Face

Image = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]
Values = Mapping[str, Any]
VECTOR = pa.list_(pa.float32())
"""Type of embedding columns. How long a vector is depends on the network that the profile binds."""


@dataclass(eq=False)
class Item:
    """One image on its way through the measures of a step."""

    row: Mapping[str, Any]
    """The row's columns that the step reads."""
    image: Image
    """RGB, uint8, HxWx3, the right way up."""
    values: dict[str, Any] = field(default_factory=dict)
    """Columns measured so far, by the measures before this one."""
    memo: dict[str, Any] = field(default_factory=dict)
    """Intermediate results that several measures use, such as the aligned face."""

    def get(self, column: str) -> Any:
        """A column measured in this step, or else stored in the row; None where there is no value."""
        return self.values[column] if column in self.values else self.row.get(column)

    @property
    def face(self) -> Face:
        """The largest face, as the model wrappers take it. Only for rows that have one."""
        from idtool.models.faces import Face

        box, kps = (np.asarray(self.get(name), np.float32) for name in ("face_box", "face_kps"))
        return Face(box, float(self.get("face_score") or 0.0), kps.reshape(5, 2))

    def aligned(self) -> Image:
        """(112, 112, 3) crop of the largest face on the ArcFace template; computed once per image."""
        if "aligned" not in self.memo:
            from idtool.models.identity import align

            self.memo["aligned"] = align(self.image, self.face.kps)[0]
        crop: Image = self.memo["aligned"]
        return crop


@dataclass(eq=False)
class SampleItem(Item):
    """An image together with what it was made from."""

    references: tuple[Image, ...] = ()
    """The reference pictures, RGB uint8, in the order of the row's `references`. The prompt is `row["prompt"]`."""


class Measure(ABC):
    """Computes columns from images. Pickled to workers before `load`; afterwards called from several threads."""

    name: ClassVar[str]
    kind: ClassVar[Literal["image", "text", "sample"]] = "image"
    """What it looks at: one image; a text (`Item.row["text"]`); or an image with its references and its prompt
    (`SampleItem`). Recipes of curation have images only."""
    version: ClassVar[int] = 1
    """Raised whenever the values change for the same image: stored ones are then stale."""
    summary: ClassVar[str]
    role: ClassVar[str | None] = None
    """The model role that it needs."""
    also: ClassVar[tuple[str, ...]] = ()
    """Further roles that it needs the main model of; they are `self.models[role]`."""
    rank: ClassVar[int] = 0
    """Which of the models bound to the role: 0 the main one, 1 the second."""
    reads: ClassVar[tuple[str, ...]] = ()
    """Columns that it needs, of measures in the same step or of steps before."""
    uses: ClassVar[tuple[str, ...]] = ()
    """Columns that it takes into account where they are there, and does without where they are not."""
    writes: ClassVar[pa.Schema]

    def __init__(self, binding: Binding | None = None, further: Mapping[str, Binding] | None = None) -> None:
        self.binding = binding
        self.further = dict(further or {})

    @classmethod
    def made(cls, env: Env) -> Measure:
        """The measure on the profile's models, not loaded."""
        return cls(cls.bound(env), {role: env.require(role) for role in cls.also})

    def bindings(self) -> list[Binding]:
        """Every model that its values come from."""
        return [*([self.binding] if self.binding else []), *self.further.values()]

    @classmethod
    def bound(cls, env: Env) -> Binding | None:
        """The model that the profile gives to this measure, if any."""
        bindings = env.all(cls.role) if cls.role else ()
        return bindings[cls.rank] if len(bindings) > cls.rank else None

    @classmethod
    def why_not(cls, env: Env) -> str | None:
        """Why this measure cannot be made under the profile, or None."""
        if cls.role is None:
            return None
        from idtool.models import unbound, unusable

        if why := next((why for role in (cls.role, *cls.also) if (why := unbound(env, role))), None):
            return why
        if cls.bound(env) is None:
            bound = len(env.all(cls.role))
            return f"needs model {cls.rank + 1} for role {cls.role}; profile {env.profile} binds {bound}"
        return next((why for one in cls.made(env).bindings() if (why := unusable(one))), None)

    def config(self) -> dict[str, Any]:
        """What the values depend on: code version and model. Thresholds are not part of it."""
        config: dict[str, Any] = {"version": self.version}
        if self.binding:
            config |= {
                "model": self.binding.model,
                "revision": self.binding.revision,
                "options": dict(self.binding.options),
            }
            if self.binding.sha256:
                config["sha256"] = self.binding.sha256
        if self.further:
            config["further"] = {
                role: [one.model, one.revision, dict(one.options), one.sha256] for role, one in self.further.items()
            }
        return config

    def load(self, context: Context) -> None:
        """Get the models ready; called once per worker."""
        from idtool.models import load

        if self.binding:
            self.model: Any = load(self.binding, device=context.device, threads=context.threads)
        self.models: dict[str, Any] = {
            role: load(one, device=context.device, threads=context.threads) for role, one in self.further.items()
        }

    def networks(self) -> dict[str, Any]:
        """Role -> network, after `load`."""
        main = {self.role: self.model} if self.role and self.binding else {}
        return {**main, **self.models}

    @abstractmethod
    def __call__(self, items: Sequence[Item]) -> Sequence[Values | Exception]:
        """Values for `writes`, one mapping per item (a column left out is null). An exception in place of a
        mapping is the outcome of that row alone: `Rejected`, or else an error."""


class FaceMeasure(Measure):
    """A measure of the largest face: images without a face get nulls."""

    reads: ClassVar[tuple[str, ...]] = ("face_box", "face_kps")

    def __call__(self, items: Sequence[Item]) -> Sequence[Values | Exception]:
        having = [k for k, item in enumerate(items) if item.get("face_kps") is not None]
        out: list[Values | Exception] = [{}] * len(items)
        if having:
            for k, value in zip(having, self.of_faces([items[k] for k in having]), strict=True):
                out[k] = value
        return out

    @abstractmethod
    def of_faces(self, items: Sequence[Item]) -> Sequence[Values | Exception]:
        """As `__call__`, for images that have a face; at least one."""


def column(name: str, kind: pa.DataType, doc: str, unit: str | None = None) -> pa.Field:
    """A documented column."""
    return pa.field(name, kind, metadata={"doc": doc, **({"unit": unit} if unit else {})})


def score(name: str, values: Sequence[float] | Floats) -> list[Values | Exception]:
    """One number per image as column `name`; a number that is not finite is the error of its own row."""
    return [
        {name: float(value)} if np.isfinite(value) else ValueError(f"{name} is not a finite number: {value}")
        for value in values
    ]


def vectors(name: str, rows: Floats, *, unit: bool) -> list[Values | Exception]:
    """One vector (D,) per image as column `name`, made of length 1 where `unit`; one that is not finite, or that has
    no length to be divided by, is the error of its own row."""
    out: list[Values | Exception] = []
    for row in np.asarray(rows, np.float32):
        length = float(np.linalg.norm(row))
        if not np.isfinite(length) or (unit and length == 0):
            out.append(ValueError(f"{name} has a length of {length}"))
        else:
            out.append({name: row / length if unit else row})
    return out


def looked_at(items: Sequence[Item], model: Any, look: Callable[[list[Image]], Floats]) -> Floats:
    """`look` (images to rows (N, D)) on those items that this very model has not looked at in this step: measures
    that share a tower run it once per image."""
    key = f"looked_at {id(model)}"
    new = [item for item in items if key not in item.memo]
    if new:
        for item, row in zip(new, look([item.image for item in new]), strict=True):
            item.memo[key] = row
    return np.stack([item.memo[key] for item in items])


def scores(model: Any, items: Sequence[Item]) -> Floats:
    """(N,) scores of whole images by a model that has `score`; of one that scores another network's embeddings
    (`backbone`, `score_embeddings`), through `looked_at`."""
    backbone = getattr(model, "backbone", None)
    if backbone is None:
        return np.asarray(model.score([item.image for item in items]), np.float32)
    return np.asarray(model.score_embeddings(looked_at(items, backbone, backbone.images)), np.float32)


def in_order(classes: list[type[Measure]]) -> list[type[Measure]]:
    """The measures so that each comes after those whose columns it reads; otherwise by name, so that the order
    in which they are listed changes nothing."""
    writer = {name: cls for cls in classes for name in cls.writes.names}
    ordered: list[type[Measure]] = []

    def add(cls: type[Measure], path: tuple[type[Measure], ...]) -> None:
        if cls in path:
            raise UsageError(f"Measures {', '.join(c.name for c in path)} need each other.", "Take one of them out.")
        for name in (*cls.reads, *cls.uses):
            if name in writer and writer[name] is not cls:
                add(writer[name], (*path, cls))
        if cls not in ordered:
            ordered.append(cls)

    for cls in sorted(classes, key=lambda cls: cls.name):
        add(cls, ())
    return ordered
