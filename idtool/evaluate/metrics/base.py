"""What a metric is: arithmetic on what measures saw, one number per sample, person or set.

A *measure* (`idtool.evaluate.measures`) runs a network on a picture and keeps columns. A *metric* reads those columns
of an image, of its references and of its prompt, and says one number; it loads nothing and is cheap, so that a new
formula never looks at a picture again.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from idtool.engine.step import Env
from idtool.evaluate.samples import Sample

Better = Literal["higher", "lower", "neither"]


class Unscored(Exception):
    """Raised in place of a number, with the reason. The value is null, counted, and never taken for 0."""


class Metric(ABC):
    """One number with a name. Subclasses are families; an instance is a family on one network."""

    family: ClassVar[str]
    """What `--metrics` names, such as `facesim`."""
    version: ClassVar[int] = 1
    """Raised whenever the number changes for the same columns."""
    summary: ClassVar[str]
    paper: ClassVar[str | None] = None
    """Where the definition comes from, and where ours departs from it."""
    unit: ClassVar[str] = "1"
    bounds: ClassVar[tuple[float | None, float | None]] = (None, None)
    better: ClassVar[Better] = "higher"
    axis: ClassVar[Literal["identity", "prompt", "quality", "editability", "copying", "cost", "other"]] = "other"
    """What it speaks of: where reports put it."""
    per: ClassVar[Literal["sample", "identity", "set"]] = "sample"

    image: tuple[str, ...] = ()
    """Measures of the generated image, and of image, references and prompt together."""
    reference: tuple[str, ...] = ()
    """Measures of each reference."""
    prompt: tuple[str, ...] = ()
    """Measures of the prompt."""
    network: str | None = None
    """The measure whose network the name carries."""
    variant: str = ""
    """What the name ends with: a scale, as in `@raw`."""

    @classmethod
    def instances(cls, env: Env) -> Sequence[Metric]:
        """The family under a profile: one metric for each network that is bound. Raises Unscored with the reason when
        there can be none."""
        return [cls()]

    def name(self, labels: Mapping[str, str]) -> str:
        """`family`, `family/network`, or `family/network@variant`. `labels`: measure -> short name of its network."""
        label = f"/{labels.get(self.network, self.network)}" if self.network else ""
        return f"{self.family}{label}{self.variant}"

    def settings(self) -> dict[str, Any]:
        """What the number depends on besides columns. JSON-able."""
        return {}


class SampleMetric(Metric):
    """One number for each sample."""

    @abstractmethod
    def __call__(self, sample: Sample) -> float:
        """The number. Raises Unscored with the reason where there is none. Only called for samples that have an image,
        and whose measures could all be made."""


class IdentityMetric(Metric):
    """One number for each identity, over all its samples: what single images cannot show."""

    per: ClassVar[Literal["sample", "identity", "set"]] = "identity"

    @abstractmethod
    def fresh(self) -> IdentityMetric:
        """One that has seen nothing yet."""

    @abstractmethod
    def add(self, sample: Sample) -> None:
        """Take a sample into account. In any order; memory must not grow with the number of samples."""

    @abstractmethod
    def finish(self) -> Iterable[tuple[str, float | Unscored]]:
        """(identity, number) of every identity that was seen."""


@dataclass(frozen=True)
class SetScore:
    """A number for a whole set of images."""

    value: float | None
    std: float | None = None
    """Spread over subsets, where the metric has any."""
    n: int = 0
    """Images that it is of."""
    n_real: int = 0
    note: str = ""
    """Why there is no number, or what to know of it."""


class SetMetric(Metric):
    """One number for all images of a method against a set of real ones."""

    per: ClassVar[Literal["sample", "identity", "set"]] = "set"

    @abstractmethod
    def fresh(self) -> SetMetric:
        """One that has seen nothing yet."""

    @abstractmethod
    def add(self, sample: Sample) -> None:
        """Take a generated image into account."""

    @abstractmethod
    def add_real(self, columns: Mapping[str, Any]) -> None:
        """Take a real image into account: columns of `reference` measures."""

    @abstractmethod
    def finish(self, *, force: bool = False) -> SetScore:
        """The number. `force`: also where there are too few images for it to mean much."""
